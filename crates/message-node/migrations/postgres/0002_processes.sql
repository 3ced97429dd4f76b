-- Several processes on one database. A lock says which of them leads (src/store/engine.rs).

-- Where the others reach the process that leads. SQLite has one process and no such table, nor the next.
CREATE TABLE leader (
    only_row    INTEGER PRIMARY KEY CHECK (only_row = 1),
    backend_pid INTEGER NOT NULL, -- of the connection with the lock: a row of an earlier leader has another one
    url         TEXT COLLATE "C"  -- NULL when it said none
);

-- What streams were told lately, in order and without gaps, for the processes that did not decide it. The newest row stays, so
-- that whoever has read up to a row that is gone sees that something is missing.
CREATE TABLE journal (
    seq     BIGINT PRIMARY KEY,
    at_us   BIGINT NOT NULL,
    news    TEXT COLLATE "C" NOT NULL, -- arrived, back, or the message's new status
    traits  TEXT COLLATE "C" NOT NULL, -- JSON: what streams filter by
    message TEXT COLLATE "C" NOT NULL  -- JSON: the message as streams show it
);

-- What the file store calls the bytes of a file: a name that is never used again, so that a process which deletes what it found
-- unneeded cannot hit what another one has stored since. NULL: its SHA-256, as before.
ALTER TABLE files ADD COLUMN object TEXT COLLATE "C";
CREATE INDEX files_by_object ON files (object) WHERE object IS NOT NULL;

-- What the places call themselves that all processes have to share; see src/store/places.rs.
CREATE TABLE places (
    what TEXT COLLATE "C" PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL
);

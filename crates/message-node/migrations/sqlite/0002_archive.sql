-- The archive of snapshot sets. The bytes are in the object store; what is here says which of them count.

-- The highest epoch under which the archive of a program was used. It outlives the archive.
CREATE TABLE archive_epochs (
    program TEXT   PRIMARY KEY,
    epoch   BIGINT NOT NULL
);

-- The data key of a program's archive, wrapped by the master key (JSON).
CREATE TABLE archive_keys (
    program TEXT PRIMARY KEY,
    wrapped TEXT NOT NULL
);

CREATE TABLE archive_sets (
    program      TEXT   NOT NULL,
    id           TEXT   NOT NULL, -- epoch-sequence
    state        TEXT   NOT NULL, -- open, complete, damaged, or leaving: its objects are being deleted
    draft        TEXT   NOT NULL, -- JSON
    made_by      TEXT   NOT NULL, -- the account as written
    wrapped_key  TEXT   NOT NULL, -- JSON, the key that it is encrypted with
    begun_us     BIGINT NOT NULL,
    completed_us BIGINT,
    PRIMARY KEY (program, id)
);

-- The streams that have arrived.
CREATE TABLE archive_streams (
    program TEXT   NOT NULL,
    id      TEXT   NOT NULL,
    volume  TEXT   NOT NULL, -- what stands for its name
    object  TEXT   NOT NULL,
    bytes   BIGINT NOT NULL,
    sha256  TEXT   NOT NULL,
    PRIMARY KEY (program, id, volume)
);

-- Programs that were found to be over, and when.
CREATE TABLE archive_over (
    program    TEXT   PRIMARY KEY,
    noticed_us BIGINT NOT NULL
);

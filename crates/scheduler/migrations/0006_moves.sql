-- Where people want programs to run, until they do or the move has failed. What else moves programs follows from other tables.
CREATE TABLE moves (
    program_id TEXT PRIMARY KEY NOT NULL,
    -- The node that it is to leave, and the one where it shall run; any other when there is none.
    source TEXT NOT NULL,
    target TEXT,
    requested_by TEXT NOT NULL,
    requested_at BIGINT NOT NULL
);

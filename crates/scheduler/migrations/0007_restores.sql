-- The snapshots of the archive that people want programs to go back to, until they are ready with them.
CREATE TABLE restores (
    program_id TEXT PRIMARY KEY NOT NULL,
    snapshot TEXT NOT NULL,
    -- The epoch that it has to leave for that; none when it ran nowhere.
    of_epoch BIGINT,
    requested_by TEXT NOT NULL,
    requested_at BIGINT NOT NULL
);

-- The signed history of each program, see the protocol crate's `history`. Only grows, but for programs of which nobody
-- remembers anything any more.
CREATE TABLE history (
    program_id TEXT NOT NULL,
    sequence BIGINT NOT NULL,
    -- The signed text, byte for byte, and its signature.
    entry TEXT NOT NULL,
    signature TEXT NOT NULL,
    -- The signature of the node's statement in it: each is recorded once.
    statement TEXT,
    PRIMARY KEY (program_id, sequence)
);

CREATE UNIQUE INDEX history_statements ON history (program_id, statement) WHERE statement IS NOT NULL;

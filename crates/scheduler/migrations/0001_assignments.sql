-- The scheduler's own log: who ran what under which epoch. Desired programs and nodes are caches of the message node.
-- Only what SQLite and PostgreSQL share. Ids are 64 hexadecimal digits, times microseconds since 1970 and for people only.

-- The highest epoch of each program, ever. Only grows.
CREATE TABLE epochs (
    program_id TEXT PRIMARY KEY NOT NULL,
    epoch BIGINT NOT NULL CHECK (epoch > 0)
);

CREATE TABLE assignments (
    program_id TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    node_id TEXT NOT NULL,
    assigned_at BIGINT NOT NULL,
    closed_at BIGINT,
    -- Why it ended, and how it was known that nothing of it ran any more.
    close_cause TEXT,
    close_proof TEXT,
    PRIMARY KEY (program_id, epoch),
    CHECK ((closed_at IS NULL) = (close_cause IS NULL)),
    CHECK ((closed_at IS NULL) = (close_proof IS NULL))
);

-- At most one assignment of a program is open: the last guard behind all others.
CREATE UNIQUE INDEX assignments_one_open ON assignments (program_id) WHERE closed_at IS NULL;
CREATE INDEX assignments_by_node ON assignments (node_id, assigned_at);

-- What was desired, so that a scheduler that starts without the message node knows what its assignments need.
CREATE TABLE programs (
    program_id TEXT PRIMARY KEY NOT NULL,
    content TEXT NOT NULL
);

CREATE TABLE nodes (
    node_id TEXT PRIMARY KEY NOT NULL,
    name TEXT NOT NULL,
    owner TEXT NOT NULL,
    manager TEXT,
    address TEXT NOT NULL,
    -- What it named when it last connected.
    url TEXT
);

CREATE TABLE meta (
    name TEXT PRIMARY KEY NOT NULL,
    value TEXT NOT NULL
);

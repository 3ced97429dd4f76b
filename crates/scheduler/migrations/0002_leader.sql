-- Who may write: one row. A scheduler that takes over counts leader_epoch up, and every transaction checks it, so that one
-- that was deposed cannot write any more. The leader counts beat up to say that it lives; nobody compares clocks.
CREATE TABLE leader (
    only_row INTEGER PRIMARY KEY NOT NULL CHECK (only_row = 1),
    leader_epoch BIGINT NOT NULL CHECK (leader_epoch > 0),
    beat BIGINT NOT NULL,
    -- Where the leader is reached; for other schedulers, which pass requests on.
    url TEXT NOT NULL,
    -- 1 when it stepped down in order: it granted nothing after that.
    resigned INTEGER NOT NULL
);

-- What operators ordered, with their signatures. A nonce is taken once.
CREATE TABLE orders (
    nonce TEXT PRIMARY KEY NOT NULL,
    taken_at BIGINT NOT NULL,
    operator TEXT NOT NULL,
    text TEXT NOT NULL,
    signature TEXT NOT NULL
);

-- The nodes that they drain, and why.
CREATE TABLE draining (
    node_id TEXT PRIMARY KEY NOT NULL,
    reason TEXT NOT NULL
);

-- Messages that their owners' balance does not cover.
CREATE TABLE uncovered (
    item_hash TEXT    PRIMARY KEY,
    owner     TEXT    NOT NULL,
    cost      TEXT    NOT NULL, -- tokens (decimal text)
    removed   BOOLEAN NOT NULL, -- out of force; in force until then otherwise
    until_us  BIGINT  NOT NULL  -- when it is removed, or when nothing of it is kept any more
);
CREATE INDEX uncovered_by_owner ON uncovered (owner);
CREATE INDEX uncovered_by_time  ON uncovered (until_us);

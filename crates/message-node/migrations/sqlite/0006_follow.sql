-- How far other message nodes were followed; times are microseconds since 1970. See core/follow.rs.
CREATE TABLE follow (
    -- Their URL and the types of messages that were asked for.
    source   TEXT PRIMARY KEY,
    until_us BIGINT NOT NULL,
    whole_us BIGINT NOT NULL
);

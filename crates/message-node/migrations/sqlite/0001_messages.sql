-- Conventions of the whole schema:
--   * `*_us` columns are microseconds since 1970;
--   * `owner` and `sender_key` hold the canonical form of an address (0x addresses in lower case);
--   * hashes are as on the wire: 64 lower-case hexadecimal digits, or a CID.
-- Queries keep to the SQL that SQLite and PostgreSQL share; only these files are written per engine.

-- Submissions that are not decided yet, in order of arrival. One item hash may occur several times: anybody can send a copy
-- of somebody else's message with a wrong signature, and such a copy must not stand in the way of the real one.
-- AUTOINCREMENT: a number is never used again, because clients that wait for an outcome are known by it.
CREATE TABLE pending (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    item_hash   TEXT   NOT NULL,
    identity    TEXT   NOT NULL, -- digest of who signed what and how
    sender_key  TEXT   NOT NULL,
    envelope    TEXT   NOT NULL, -- JSON
    received_us BIGINT NOT NULL,
    UNIQUE (item_hash, identity)
);

-- Decided messages. `content` is the item content byte for byte; NULL once it was forgotten or removed.
-- A rejected message may be replaced by a later submission of the same hash, all others may not.
CREATE TABLE messages (
    item_hash    TEXT    PRIMARY KEY,
    status       TEXT    NOT NULL, -- processed, removing, removed, forgotten or rejected
    type         TEXT    NOT NULL,
    chain        TEXT    NOT NULL,
    sender       TEXT    NOT NULL,
    sender_key   TEXT    NOT NULL,
    signature    TEXT,
    item_type    TEXT    NOT NULL,
    content      TEXT,
    size         BIGINT  NOT NULL,
    time_us      BIGINT  NOT NULL, -- of the envelope
    channel      TEXT,
    received_us  BIGINT  NOT NULL,
    owner        TEXT,
    content_type TEXT,
    content_ref  TEXT,
    content_hash TEXT,
    content_key  TEXT,
    error_code   INTEGER,          -- of rejected messages
    error_details TEXT,            -- JSON, of rejected messages
    authentic    BOOLEAN NOT NULL, -- whether the signature was valid
    reason       TEXT              -- of removed messages
);
CREATE INDEX messages_by_time    ON messages (time_us, item_hash);
CREATE INDEX messages_by_type    ON messages (type, time_us, item_hash);
CREATE INDEX messages_by_sender  ON messages (sender_key, time_us, item_hash);
CREATE INDEX messages_by_owner   ON messages (owner, time_us, item_hash);
CREATE INDEX messages_by_ref     ON messages (content_ref, time_us, item_hash);
CREATE INDEX messages_by_file    ON messages (content_hash);
CREATE INDEX messages_by_channel ON messages (channel);
CREATE INDEX messages_rejected   ON messages (received_us) WHERE status = 'rejected';

-- Which FORGET messages took a message back.
CREATE TABLE forgotten_by (
    item_hash   TEXT NOT NULL,
    forget_hash TEXT NOT NULL,
    PRIMARY KEY (item_hash, forget_hash)
);

-- Files that are there. Those that nothing refers to may be collected after `keep_until_us`.
CREATE TABLE files (
    hash          TEXT   PRIMARY KEY,
    size          BIGINT NOT NULL,
    keep_until_us BIGINT NOT NULL
);
CREATE INDEX files_by_grace ON files (keep_until_us);

-- Files that hold the content of a message with item type `storage`.
CREATE TABLE content_files (
    file_hash    TEXT NOT NULL,
    message_hash TEXT NOT NULL,
    PRIMARY KEY (file_hash, message_hash)
);

-- STORE messages in force. All versions of a file share a tag: the hash of the first STORE, or owner/name.
CREATE TABLE stores (
    item_hash TEXT   PRIMARY KEY,
    owner     TEXT   NOT NULL,
    address   TEXT   NOT NULL, -- the owner as written
    file_hash TEXT   NOT NULL,
    tag       TEXT   NOT NULL,
    ref       TEXT,
    time_us   BIGINT NOT NULL  -- of the content
);
CREATE INDEX stores_by_tag   ON stores (tag, time_us, item_hash);
CREATE INDEX stores_by_file  ON stores (file_hash);
CREATE INDEX stores_by_owner ON stores (owner, time_us, item_hash);

-- POST messages in force.
CREATE TABLE posts (
    item_hash    TEXT   PRIMARY KEY,
    owner        TEXT   NOT NULL,
    address      TEXT   NOT NULL, -- the owner as written
    type         TEXT   NOT NULL,
    ref          TEXT,
    amends       TEXT,            -- the post that this one replaces
    latest_amend TEXT,            -- the post that replaces this one
    channel      TEXT,
    time_us      BIGINT NOT NULL  -- of the content
);
CREATE INDEX posts_by_time   ON posts (time_us, item_hash);
CREATE INDEX posts_by_type   ON posts (type, time_us, item_hash);
CREATE INDEX posts_by_owner  ON posts (owner, time_us, item_hash);
CREATE INDEX posts_by_amends ON posts (amends, time_us, item_hash);

-- PROGRAM messages in force.
CREATE TABLE programs (
    item_hash     TEXT    PRIMARY KEY,
    owner         TEXT    NOT NULL,
    replaces      TEXT,
    allow_amend   BOOLEAN NOT NULL,
    subscriptions TEXT,             -- JSON of `on.message`
    time_us       BIGINT  NOT NULL, -- of the content
    settle_by_us  BIGINT            -- accepted without counting the program it replaces, which must be forgotten by then
);
CREATE INDEX programs_to_settle ON programs (settle_by_us);

-- The STORE messages that programs in force need.
CREATE TABLE program_references (
    program_hash TEXT NOT NULL,
    ref_hash     TEXT NOT NULL,
    PRIMARY KEY (program_hash, ref_hash)
);
CREATE INDEX program_references_by_ref ON program_references (ref_hash);

-- What messages in force need their owners to hold, in tokens (decimal text).
CREATE TABLE costs (
    item_hash TEXT PRIMARY KEY,
    owner     TEXT NOT NULL,
    cost      TEXT NOT NULL,
    price     TEXT NOT NULL -- JSON of the whole price as it was charged
);
-- Most files are free, and an account may have very many of them.
CREATE INDEX costs_by_owner ON costs (owner) WHERE cost <> '0';

-- AGGREGATE messages in force.
CREATE TABLE aggregate_elements (
    item_hash TEXT   PRIMARY KEY,
    owner     TEXT   NOT NULL,
    key       TEXT   NOT NULL,
    time_us   BIGINT NOT NULL -- of the content
);
CREATE INDEX aggregate_elements_by_key ON aggregate_elements (owner, key, time_us, item_hash);

-- Their sum. `entries` is JSON: for each name its value and the message it came from.
CREATE TABLE aggregates (
    owner      TEXT   NOT NULL,
    key        TEXT   NOT NULL,
    entries    TEXT   NOT NULL,
    first_us   BIGINT NOT NULL,
    first_hash TEXT   NOT NULL,
    last_us    BIGINT NOT NULL,
    last_hash  TEXT   NOT NULL,
    PRIMARY KEY (owner, key)
);

-- Compute nodes, from POST messages in force.
CREATE TABLE nodes (
    item_hash TEXT   PRIMARY KEY,
    owner     TEXT   NOT NULL,
    address   TEXT   NOT NULL, -- the owner as written
    name      TEXT   NOT NULL,
    url       TEXT   NOT NULL,
    time_us   BIGINT NOT NULL  -- of the content
);

-- Conventions of the whole schema:
--   * `*_us` columns are microseconds since 1970;
--   * `owner` and `sender_key` hold the canonical form of an address (0x addresses in lower case);
--   * hashes are as on the wire: 64 lower-case hexadecimal digits, or a CID;
--   * text is ordered by its bytes, as in SQLite.
-- Queries keep to the SQL that SQLite and PostgreSQL share; only these files are written per engine.

-- Submissions that are not decided yet, in order of arrival. One item hash may occur several times: anybody can send a copy
-- of somebody else's message with a wrong signature, and such a copy must not stand in the way of the real one.
-- A number is never used again, because clients that wait for an outcome are known by it.
CREATE TABLE pending (
    seq         BIGINT PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    item_hash   TEXT COLLATE "C"   NOT NULL,
    identity    TEXT COLLATE "C"   NOT NULL, -- digest of who signed what and how
    sender_key  TEXT COLLATE "C"   NOT NULL,
    envelope    TEXT COLLATE "C"   NOT NULL, -- JSON
    received_us BIGINT NOT NULL,
    UNIQUE (item_hash, identity)
);

-- Decided messages. `content` is the item content byte for byte; NULL once it was forgotten or removed.
-- A rejected message may be replaced by a later submission of the same hash, all others may not.
CREATE TABLE messages (
    item_hash    TEXT COLLATE "C"    PRIMARY KEY,
    status       TEXT COLLATE "C"    NOT NULL, -- processed, removing, removed, forgotten or rejected
    type         TEXT COLLATE "C"    NOT NULL,
    chain        TEXT COLLATE "C"    NOT NULL,
    sender       TEXT COLLATE "C"    NOT NULL,
    sender_key   TEXT COLLATE "C"    NOT NULL,
    signature    TEXT COLLATE "C",
    item_type    TEXT COLLATE "C"    NOT NULL,
    content      TEXT COLLATE "C",
    size         BIGINT  NOT NULL,
    time_us      BIGINT  NOT NULL, -- of the envelope
    channel      TEXT COLLATE "C",
    received_us  BIGINT  NOT NULL,
    owner        TEXT COLLATE "C",
    content_type TEXT COLLATE "C",
    content_ref  TEXT COLLATE "C",
    content_hash TEXT COLLATE "C",
    content_key  TEXT COLLATE "C",
    error_code   INTEGER,          -- of rejected messages
    error_details TEXT COLLATE "C",            -- JSON, of rejected messages
    authentic    BOOLEAN NOT NULL, -- whether the signature was valid
    reason       TEXT COLLATE "C"              -- of removed messages
);
CREATE INDEX messages_by_time    ON messages (time_us, item_hash);
CREATE INDEX messages_by_type    ON messages (type, time_us, item_hash);
CREATE INDEX messages_by_sender  ON messages (sender_key, time_us, item_hash, status);
CREATE INDEX messages_by_owner   ON messages (owner, time_us, item_hash, status);
CREATE INDEX messages_by_ref     ON messages (content_ref, time_us, item_hash);
CREATE INDEX messages_by_file    ON messages (content_hash);
CREATE INDEX messages_by_channel ON messages (channel, time_us, item_hash, status);
CREATE INDEX messages_by_kind    ON messages (content_type, time_us, item_hash, status) WHERE content_type IS NOT NULL;
CREATE INDEX messages_rejected   ON messages (received_us) WHERE status = 'rejected';

-- The tags of messages in force: the texts among the first hundred of `content.content.tags`.
CREATE TABLE message_tags (
    item_hash TEXT COLLATE "C" NOT NULL,
    tag       TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (item_hash, tag)
);
CREATE INDEX message_tags_by_tag ON message_tags (tag, item_hash);

-- Which FORGET messages took a message back.
CREATE TABLE forgotten_by (
    item_hash   TEXT COLLATE "C" NOT NULL,
    forget_hash TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (item_hash, forget_hash)
);

-- Files that are there. Those that nothing refers to may be collected after `keep_until_us`.
CREATE TABLE files (
    hash          TEXT COLLATE "C"   PRIMARY KEY,
    size          BIGINT NOT NULL,
    keep_until_us BIGINT NOT NULL
);
CREATE INDEX files_by_grace ON files (keep_until_us);

-- Files that hold the content of a message with item type `storage`.
CREATE TABLE content_files (
    file_hash    TEXT COLLATE "C" NOT NULL,
    message_hash TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (file_hash, message_hash)
);

-- STORE messages in force. All versions of a file share a tag: the hash of the first STORE, or owner/name.
CREATE TABLE stores (
    item_hash TEXT COLLATE "C"   PRIMARY KEY,
    owner     TEXT COLLATE "C"   NOT NULL,
    address   TEXT COLLATE "C"   NOT NULL, -- the owner as written
    file_hash TEXT COLLATE "C"   NOT NULL,
    tag       TEXT COLLATE "C"   NOT NULL,
    ref       TEXT COLLATE "C",
    time_us   BIGINT NOT NULL, -- of the content
    named_as  TEXT COLLATE "C"             -- what the message calls the file, when that is not `file_hash`
);
CREATE INDEX stores_by_tag   ON stores (tag, time_us, item_hash);
CREATE INDEX stores_by_file  ON stores (file_hash);
CREATE INDEX stores_by_owner ON stores (owner, time_us, item_hash);

-- POST messages in force.
CREATE TABLE posts (
    item_hash    TEXT COLLATE "C"   PRIMARY KEY,
    owner        TEXT COLLATE "C"   NOT NULL,
    address      TEXT COLLATE "C"   NOT NULL, -- the owner as written
    type         TEXT COLLATE "C"   NOT NULL,
    ref          TEXT COLLATE "C",
    amends       TEXT COLLATE "C",            -- the post that this one replaces
    latest_amend TEXT COLLATE "C",            -- the post that replaces this one
    channel      TEXT COLLATE "C",
    time_us      BIGINT NOT NULL  -- of the content
);
CREATE INDEX posts_by_time   ON posts (time_us, item_hash);
CREATE INDEX posts_by_type   ON posts (type, time_us, item_hash);
CREATE INDEX posts_by_owner  ON posts (owner, time_us, item_hash);
CREATE INDEX posts_by_amends ON posts (amends, time_us, item_hash);

-- PROGRAM messages in force.
CREATE TABLE programs (
    item_hash     TEXT COLLATE "C"    PRIMARY KEY,
    owner         TEXT COLLATE "C"    NOT NULL,
    replaces      TEXT COLLATE "C",
    allow_amend   BOOLEAN NOT NULL,
    subscriptions TEXT COLLATE "C",             -- JSON of `on.message`
    time_us       BIGINT  NOT NULL, -- of the content
    settle_by_us  BIGINT            -- accepted without counting the program it replaces, which must be forgotten by then
);
CREATE INDEX programs_to_settle ON programs (settle_by_us);

-- The STORE messages that programs in force need.
CREATE TABLE program_references (
    program_hash TEXT COLLATE "C" NOT NULL,
    ref_hash     TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (program_hash, ref_hash)
);
CREATE INDEX program_references_by_ref ON program_references (ref_hash);

-- What messages in force need their owners to hold, in tokens (decimal text).
CREATE TABLE costs (
    item_hash TEXT COLLATE "C" PRIMARY KEY,
    owner     TEXT COLLATE "C" NOT NULL,
    cost      TEXT COLLATE "C" NOT NULL,
    price     TEXT COLLATE "C" NOT NULL -- JSON of the whole price as it was charged
);
-- Most files are free, and an account may have very many of them.
CREATE INDEX costs_by_owner ON costs (owner) WHERE cost <> '0';

-- AGGREGATE messages in force.
CREATE TABLE aggregate_elements (
    item_hash TEXT COLLATE "C"   PRIMARY KEY,
    owner     TEXT COLLATE "C"   NOT NULL,
    key       TEXT COLLATE "C"   NOT NULL,
    time_us   BIGINT NOT NULL -- of the content
);
CREATE INDEX aggregate_elements_by_key ON aggregate_elements (owner, key, time_us, item_hash);

-- Their sum. `entries` is JSON: for each name its value and the message it came from.
CREATE TABLE aggregates (
    owner      TEXT COLLATE "C"   NOT NULL,
    key        TEXT COLLATE "C"   NOT NULL,
    entries    TEXT COLLATE "C"   NOT NULL,
    first_us   BIGINT NOT NULL,
    first_hash TEXT COLLATE "C"   NOT NULL,
    last_us    BIGINT NOT NULL,
    last_hash  TEXT COLLATE "C"   NOT NULL,
    PRIMARY KEY (owner, key)
);

-- Compute nodes, from POST messages in force.
CREATE TABLE nodes (
    item_hash TEXT COLLATE "C"   PRIMARY KEY,
    owner     TEXT COLLATE "C"   NOT NULL,
    address   TEXT COLLATE "C"   NOT NULL, -- the owner as written
    name      TEXT COLLATE "C"   NOT NULL,
    url       TEXT COLLATE "C"   NOT NULL,
    time_us   BIGINT NOT NULL  -- of the content
);

-- How many messages there are, by status and type.
CREATE TABLE message_counts (
    status TEXT COLLATE "C"   NOT NULL,
    type   TEXT COLLATE "C"   NOT NULL,
    count  BIGINT NOT NULL,
    PRIMARY KEY (status, type)
);

CREATE FUNCTION count_message(status TEXT, type TEXT, step BIGINT) RETURNS VOID LANGUAGE sql AS $$
    INSERT INTO message_counts (status, type, count) VALUES ($1, $2, $3)
        ON CONFLICT (status, type) DO UPDATE SET count = message_counts.count + excluded.count;
$$;
CREATE FUNCTION message_came() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN
    PERFORM count_message(NEW.status, NEW.type, 1);
    RETURN NULL;
END $$;
CREATE FUNCTION message_went() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN
    PERFORM count_message(OLD.status, OLD.type, -1);
    RETURN NULL;
END $$;
CREATE FUNCTION message_changed() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN
    PERFORM count_message(OLD.status, OLD.type, -1);
    PERFORM count_message(NEW.status, NEW.type, 1);
    RETURN NULL;
END $$;
CREATE TRIGGER messages_counted AFTER INSERT ON messages FOR EACH ROW EXECUTE FUNCTION message_came();
CREATE TRIGGER messages_counted_off AFTER DELETE ON messages FOR EACH ROW EXECUTE FUNCTION message_went();
CREATE TRIGGER messages_counted_again AFTER UPDATE OF status, type ON messages FOR EACH ROW EXECUTE FUNCTION message_changed();

-- The CIDs of files, besides their SHA-256: the roots of the UnixFS trees that a file is known to be the bytes of, each as
-- CIDv0. The CID of a raw block needs no row, because its digest is the file's SHA-256.
CREATE TABLE file_cids (
    cid       TEXT COLLATE "C" PRIMARY KEY,
    file_hash TEXT COLLATE "C" NOT NULL
);
CREATE INDEX file_cids_by_file ON file_cids (file_hash);

-- Messages that their owners' balance does not cover.
CREATE TABLE uncovered (
    item_hash TEXT COLLATE "C"    PRIMARY KEY,
    owner     TEXT COLLATE "C"    NOT NULL,
    cost      TEXT COLLATE "C"    NOT NULL, -- tokens (decimal text)
    removed   BOOLEAN NOT NULL, -- out of force; in force until then otherwise
    until_us  BIGINT  NOT NULL  -- when it is removed, or when nothing of it is kept any more
);
CREATE INDEX uncovered_by_owner ON uncovered (owner);
CREATE INDEX uncovered_by_time  ON uncovered (until_us);

-- Balances that trusted senders published (POST of type balances-update).
CREATE TABLE balances (
    account TEXT COLLATE "C"   NOT NULL, -- canonical
    chain   TEXT COLLATE "C"   NOT NULL,
    dapp    TEXT COLLATE "C"   NOT NULL, -- empty for those that count: held by the account itself
    balance TEXT COLLATE "C"   NOT NULL, -- tokens (decimal text)
    height  BIGINT NOT NULL, -- of the chain, as of which it is
    author  TEXT COLLATE "C"   NOT NULL, -- who published it, canonical
    PRIMARY KEY (account, chain, dapp)
);
CREATE INDEX balances_by_chain ON balances (chain, dapp);

-- How far other message nodes were followed; times are microseconds since 1970. See core/follow.rs.
CREATE TABLE follow (
    -- Their URL and the types of messages that were asked for.
    source   TEXT COLLATE "C" PRIMARY KEY,
    until_us BIGINT NOT NULL,
    whole_us BIGINT NOT NULL
);

-- The archive of snapshot sets. The bytes are in the object store; what is here says which of them count.

-- The highest epoch under which the archive of a program was used. It outlives the archive.
CREATE TABLE archive_epochs (
    program TEXT COLLATE "C"   PRIMARY KEY,
    epoch   BIGINT NOT NULL
);

-- The data key of a program's archive, wrapped by the master key (JSON).
CREATE TABLE archive_keys (
    program TEXT COLLATE "C" PRIMARY KEY,
    wrapped TEXT COLLATE "C" NOT NULL
);

CREATE TABLE archive_sets (
    program      TEXT COLLATE "C"   NOT NULL,
    id           TEXT COLLATE "C"   NOT NULL, -- epoch-sequence
    state        TEXT COLLATE "C"   NOT NULL, -- open, complete, damaged, or leaving: its objects are being deleted
    draft        TEXT COLLATE "C"   NOT NULL, -- JSON
    made_by      TEXT COLLATE "C"   NOT NULL, -- the account as written
    wrapped_key  TEXT COLLATE "C"   NOT NULL, -- JSON, the key that it is encrypted with
    begun_us     BIGINT NOT NULL,
    completed_us BIGINT,
    PRIMARY KEY (program, id)
);

-- The streams that have arrived.
CREATE TABLE archive_streams (
    program TEXT COLLATE "C"   NOT NULL,
    id      TEXT COLLATE "C"   NOT NULL,
    volume  TEXT COLLATE "C"   NOT NULL, -- what stands for its name
    object  TEXT COLLATE "C"   NOT NULL,
    bytes   BIGINT NOT NULL,
    sha256  TEXT COLLATE "C"   NOT NULL,
    PRIMARY KEY (program, id, volume)
);

-- Programs that were found to be over, and when.
CREATE TABLE archive_over (
    program    TEXT COLLATE "C"   PRIMARY KEY,
    noticed_us BIGINT NOT NULL
);

-- Lists of a node with millions of messages. What is counted or filtered is in the index, so that no message has to be read
-- for it. None begins with the status: the planner would take such an index for lists in the order of time, and sort.
DROP INDEX messages_by_sender;
DROP INDEX messages_by_owner;
DROP INDEX messages_by_channel;
CREATE INDEX messages_by_sender  ON messages (sender_key, time_us, item_hash, status);
CREATE INDEX messages_by_owner   ON messages (owner, time_us, item_hash, status);
CREATE INDEX messages_by_channel ON messages (channel, time_us, item_hash, status);
CREATE INDEX messages_by_kind    ON messages (content_type, time_us, item_hash, status) WHERE content_type IS NOT NULL;

-- How many messages there are, by status and type.
CREATE TABLE message_counts (
    status TEXT   NOT NULL,
    type   TEXT   NOT NULL,
    count  BIGINT NOT NULL,
    PRIMARY KEY (status, type)
);
INSERT INTO message_counts (status, type, count) SELECT status, type, COUNT(*) FROM messages GROUP BY status, type;

CREATE TRIGGER messages_counted AFTER INSERT ON messages BEGIN
    INSERT INTO message_counts (status, type, count) VALUES (NEW.status, NEW.type, 1)
        ON CONFLICT (status, type) DO UPDATE SET count = count + 1;
END;
CREATE TRIGGER messages_counted_off AFTER DELETE ON messages BEGIN
    UPDATE message_counts SET count = count - 1 WHERE status = OLD.status AND type = OLD.type;
END;
CREATE TRIGGER messages_counted_again AFTER UPDATE OF status, type ON messages BEGIN
    UPDATE message_counts SET count = count - 1 WHERE status = OLD.status AND type = OLD.type;
    INSERT INTO message_counts (status, type, count) VALUES (NEW.status, NEW.type, 1)
        ON CONFLICT (status, type) DO UPDATE SET count = count + 1;
END;

-- The tags of messages in force: the texts among the first hundred of `content.content.tags`.
CREATE TABLE message_tags (
    item_hash TEXT NOT NULL,
    tag       TEXT NOT NULL,
    PRIMARY KEY (item_hash, tag)
) WITHOUT ROWID;
CREATE INDEX message_tags_by_tag ON message_tags (tag, item_hash);

INSERT INTO message_tags (item_hash, tag)
SELECT DISTINCT m.item_hash, t.value
FROM messages m, json_each(CASE WHEN json_valid(m.content) THEN m.content END, '$.content.tags') t
WHERE m.status IN ('processed', 'removing') AND m.type IN ('POST', 'AGGREGATE')
    AND json_type(CASE WHEN json_valid(m.content) THEN m.content END, '$.content.tags') = 'array'
    AND t.type = 'text' AND t.key < 100;

-- The CIDs of files, besides their SHA-256: the roots of the UnixFS trees that a file is known to be the bytes of, each as
-- CIDv0. The CID of a raw block needs no row, because its digest is the file's SHA-256.
CREATE TABLE file_cids (
    cid       TEXT PRIMARY KEY,
    file_hash TEXT NOT NULL
);
CREATE INDEX file_cids_by_file ON file_cids (file_hash);

-- What the message calls the file, when that is not `file_hash`.
ALTER TABLE stores ADD COLUMN named_as TEXT;

-- What the file store calls the bytes of a file: a name that is never used again. NULL: its SHA-256, as before.
ALTER TABLE files ADD COLUMN object TEXT;
CREATE INDEX files_by_object ON files (object) WHERE object IS NOT NULL;

-- What the places call themselves that belong to this database; see src/store/places.rs.
CREATE TABLE places (
    what TEXT PRIMARY KEY,
    name TEXT NOT NULL
);

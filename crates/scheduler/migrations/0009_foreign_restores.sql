-- The program whose archive has the snapshot; none when it is the program's own.
ALTER TABLE restores ADD COLUMN source TEXT;

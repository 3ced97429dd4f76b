-- What the volumes of a program hold when the assignment begins, and where earlier epochs branched off, in JSON; none for
-- programs without volumes, and in rows of earlier versions.
ALTER TABLE assignments ADD COLUMN starts_with TEXT;

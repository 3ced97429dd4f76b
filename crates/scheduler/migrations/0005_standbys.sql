-- The node that keeps copies of a program's data, and has had a complete one. Before another has one, this one counts.
CREATE TABLE standbys (
    program_id TEXT PRIMARY KEY NOT NULL,
    node_id TEXT NOT NULL
);

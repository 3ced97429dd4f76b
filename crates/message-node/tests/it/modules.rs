// What is tested, on whichever engine: `it` runs it on SQLite, `on_postgres` on PostgreSQL.

mod balances;
mod bounds;
mod bucket;
mod chain;
mod codes;
mod delegation;
mod described;
mod files;
mod following;
mod hold;
mod ipfs;
mod lists;
mod messages;
mod network;
mod order;
mod payment;
mod postgres;
mod processes;
mod restart;
mod senders;
mod snapshots;
mod stream;
mod support;

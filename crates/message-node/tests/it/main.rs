// The message node as its clients see it: a real server on a real port with a real directory.

mod balances;
mod bounds;
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
mod restart;
mod senders;
mod snapshots;
mod stream;
mod support;

//! The client against a network of fakes: every command, as a process of its own.

mod account;
mod basics;
mod find;
mod logs;
mod manage;
mod moving;
mod network;
mod persistence;
mod run;
mod server;
mod upload;
mod volume;

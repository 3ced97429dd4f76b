//! The client of the Aleph network that others wrote, `aleph-client` from PyPI as it is, and scripts that use its SDK drive
//! the network. What a command does is looked for on the network, not only in what it prints.

mod accounts;
mod files;
mod messages;
mod programs;
mod sdk;

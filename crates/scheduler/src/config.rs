//! The scheduler's settings.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use lease::LeaseConfig;
use protocol::Address;

pub use crate::store::Database;

pub use crate::core::RESTORE_AFTER;

/// How often everything is listed when nothing else asks for it.
pub const DEFAULT_RESYNC: Duration = Duration::from_secs(60);

/// What a scheduler needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it listens. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where `scheduler.key` is; made when it does not exist.
    pub data_dir: PathBuf,
    /// Its database.
    pub database: Database,
    /// Its own base URL, where other schedulers of the same database pass requests on to; where it listens if not given.
    pub url: Option<String>,
    /// Base URL of the message node that it follows. It may be down.
    pub message_node: String,
    /// Base URL of the network's gateway, where programs have their stable URLs ([`protocol::network::program_url`]).
    pub gateway_url: Option<String>,
    /// The accounts whose orders ([`protocol::operation`]) it carries out.
    pub operators: Vec<Address>,
    /// The constants of leases. They may change between starts: a start waits for leases of the constants before.
    pub lease: LeaseConfig,
    /// How long a program whose data is lost waits for a copy, from the end of its assignment on, before it goes on with what
    /// the archive has.
    pub restore_after: Duration,
    /// How often everything is listed again, in case the stream missed something.
    pub resync: Duration,
}

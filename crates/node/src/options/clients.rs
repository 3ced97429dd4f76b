//! Options of what clients of a gateway may do.

use std::time::Duration;

use clap::Args;
use compute_node::config::ClientLimits;

use super::duration;

/// Limits of clients.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct ClientOptions {
    /// KiB of a request's head at most: address and headers. Longer ones are answered with 431
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(8..=1024), env = "ALEPH_NODE_MAX_HEADER_KIB")]
    max_header_kib: u16,

    /// How long a client may take to send a request's head, and keep an unused connection
    #[arg(long, default_value = "30s", value_parser = duration, env = "ALEPH_NODE_HEADER_TIMEOUT")]
    header_timeout: Duration,

    /// How long a client may send nothing of a body that it has announced, or take nothing of its answer
    #[arg(long, default_value = "60s", value_parser = duration, env = "ALEPH_NODE_CLIENT_IDLE")]
    client_idle: Duration,
}

impl ClientOptions {
    pub(crate) fn limits(self) -> ClientLimits {
        ClientLimits {
            header_bytes: usize::from(self.max_header_kib) << 10,
            header_timeout: self.header_timeout,
            idle_timeout: self.client_idle,
        }
    }
}

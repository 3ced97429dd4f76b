//! HTTP and WebSocket clients of the message node and its archive, the scheduler and the compute nodes.

mod archive;
mod compute_node;
mod error;
mod events;
mod json;
mod message_node;
pub mod packing;
mod pauses;
mod scheduler;

pub use archive::{Archive, ArchiveError, StreamDownload};
pub use compute_node::ComputeNode;
pub use error::ClientError;
pub use events::{EventStream, open_events};
pub use message_node::{FileDownload, MessageNode};
pub use pauses::Pauses;
pub use scheduler::Scheduler;

use std::sync::Once;
use std::time::Duration;

/// How long to wait for a TCP connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait for the next bytes of an answer. Longer than the 30 s that a `sync` submission may take.
const READ_TIMEOUT: Duration = Duration::from_secs(40);

/// An HTTP client with this project's timeouts: 5 s to connect, 40 s between bytes, no limit on the whole.
///
/// # Panics
/// When the operating system refuses to give the TLS library randomness.
pub fn http_client() -> reqwest::Client {
    http_client_builder().build().expect("the TLS library starts")
}

/// [`http_client`] before it is built, for callers that need something else as well.
pub fn http_client_builder() -> reqwest::ClientBuilder {
    install_crypto();
    reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).read_timeout(READ_TIMEOUT)
}

/// Makes `ring` the process's TLS provider. Several calls are one.
fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // An error means that somebody installed a provider already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

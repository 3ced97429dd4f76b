//! The network that is measured.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

use aleph_tests::{Network, UpOptions};

/// Copies on demand and the tests of this network need no thrift.
const BALANCE: &str = "1000000";

/// Starts a network of so many compute nodes, with more arguments of `aleph-node up`.
pub(crate) async fn up(nodes: u16, arguments: &[&str]) -> Network {
    let arguments = ["--balance", BALANCE].iter().chain(arguments).map(|&argument| argument.to_owned()).collect();
    #[allow(clippy::needless_update)] // Whatever else there is to choose stays as it is.
    Network::up(UpOptions { nodes, arguments, ..UpOptions::default() }).await
}

/// The gateway's port.
pub(crate) fn gateway_port(network: &Network) -> u16 {
    network.port() + 2
}

/// The port of the first compute node.
pub(crate) fn node_port(network: &Network) -> u16 {
    network.port() + 3
}

/// A number of free ports in a row, below those that the kernel gives to outgoing connections: a client that tries one of
/// those before anybody listens may be connected with itself, and keeps the port from who wanted it.
pub(crate) fn free_ports(count: u16) -> u16 {
    const FIRST: u16 = 10_000;
    const COUNT: u16 = 10_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    for _ in 0..COUNT {
        let first = FIRST + NEXT.fetch_add(count, Ordering::Relaxed) % (COUNT - count);
        if (first..first + count).all(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()) {
            return first;
        }
    }
    panic!("no {count} free ports in a row from {FIRST} on");
}

//! The agents that are connected: usually one, two for a moment while an agent is replaced.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use crate::spec::{Report, Request};

/// The longest request, in bytes: a claim with a program's whole environment.
const MAX_REQUEST_BYTES: usize = 4 << 20;

/// How many agents may be connected at once.
const MAX_PEERS: usize = 4;

struct Peer {
    stream: UnixStream,
    received: Vec<u8>,
}

/// The listener and the connected agents.
pub(crate) struct Peers {
    listener: UnixListener,
    peers: Vec<Peer>,
}

impl Peers {
    /// Agents that connect to this listener.
    pub(crate) fn new(listener: UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { listener, peers: Vec::new() })
    }

    /// The listener and all connections, in this order.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        std::iter::once(self.listener.as_fd()).chain(self.peers.iter().map(|peer| peer.stream.as_fd()))
    }

    /// Takes new connections and greets each with the report.
    pub(crate) fn accept(&mut self, report: &Report) {
        while let Ok((stream, _)) = self.listener.accept() {
            if self.peers.len() < MAX_PEERS && stream.set_nonblocking(true).is_ok() {
                self.peers.push(Peer { stream, received: Vec::new() });
                let last = self.peers.len() - 1;
                if !self.peers[last].send(report) {
                    self.peers.pop();
                }
            }
        }
    }

    /// Reads from all connections. Those that closed or sent nonsense are dropped.
    pub(crate) fn read(&mut self) -> Vec<Request> {
        let mut requests = Vec::new();
        self.peers.retain_mut(|peer| peer.read(&mut requests));
        requests
    }

    /// Tells every agent. One that does not read is dropped: it will connect again and be told then.
    pub(crate) fn tell(&mut self, report: &Report) {
        self.peers.retain_mut(|peer| peer.send(report));
    }
}

impl Peer {
    fn send(&mut self, report: &Report) -> bool {
        let mut line = serde_json::to_vec(report).expect("a report is JSON");
        line.push(b'\n');
        self.stream.write_all(&line).is_ok()
    }

    fn read(&mut self, requests: &mut Vec<Request>) -> bool {
        let mut buffer = [0; 16 << 10];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return false,
                Ok(n) => self.received.extend_from_slice(&buffer[..n]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
            while let Some(end) = self.received.iter().position(|b| *b == b'\n') {
                match serde_json::from_slice(&self.received[..end]) {
                    Ok(request) => requests.push(request),
                    Err(e) => {
                        eprintln!("a request cannot be read: {e}");
                        return false;
                    }
                }
                self.received.drain(..=end);
            }
            if self.received.len() > MAX_REQUEST_BYTES {
                return false;
            }
        }
        true
    }
}

//! What `fuzz/` gives any bytes to: everything that strangers send. Whatever they are, nothing panics, and what can be said
//! twice is said the same way. The tests below give them variations of the same seeds.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::api;
use crate::core::car::{CarError, CarIndex, CarReader};
use crate::core::unixfs::Walk;
use crate::{Config, run};

/// The body of `POST /messages`.
pub fn message(bytes: &[u8]) {
    api::fuzzing::message(bytes);
}

/// The query of a list or a stream.
pub fn query(bytes: &[u8]) {
    api::fuzzing::query(bytes);
}

/// A form with a file; its boundary is `X`.
pub fn form(bytes: &[u8]) {
    api::fuzzing::form(bytes);
}

/// A CAR file, and the tree in it.
pub fn car(bytes: &[u8]) {
    let whole = read_car(bytes, bytes.len().max(1));
    for piece in [1, 7, 1000] {
        assert_eq!(read_car(bytes, piece), whole, "in pieces of {piece}");
    }
    if let Ok(index) = whole {
        let mut walk = Walk::new(index.root);
        while let Some(block) = walk.needs().and_then(|name| block(bytes, &index, name)) {
            if walk.visit(block).is_err() {
                break;
            }
        }
    }
}

fn read_car(bytes: &[u8], piece: usize) -> Result<CarIndex, CarError> {
    let mut reader = CarReader::default();
    bytes.chunks(piece).try_for_each(|piece| reader.push(piece))?;
    reader.finish()
}

/// The block of this name, which must be in the file where the index says.
fn block(bytes: &[u8], index: &CarIndex, name: protocol::FileName) -> Option<Bytes> {
    let range = index.blocks.get(&name)?;
    let at = |offset: u64| usize::try_from(offset).expect("it is within the file");
    let block = &bytes[at(range.start)..at(range.end)];
    assert!(name.is_of_block(block), "{name}");
    Some(Bytes::copy_from_slice(block))
}

/// A whole node, to whose stream clients send frames.
pub struct StreamingNode {
    address: SocketAddr,
    _runtime: Runtime,
}

/// A request that becomes a WebSocket.
const UPGRADE: &str = "GET /api/ws0/messages?history=0 HTTP/1.1\r\nHost: node\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
/// How long the node may take to see that a client has gone.
const PATIENCE: Duration = Duration::from_secs(20);

impl StreamingNode {
    /// Starts it in an empty folder.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(folder: &Path) -> Self {
        let runtime = Runtime::new().expect("threads can be made");
        let (ready, is_ready) = oneshot::channel();
        let config = Config::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), folder);
        let node = run(config, |address| ready.send(address).expect("it is waited for"), CancellationToken::new());
        runtime.spawn(async { node.await.expect("the node runs") });
        let address = runtime.block_on(is_ready).expect("the node starts");
        Self { address, _runtime: runtime }
    }

    /// A client opens a stream, sends these bytes and has nothing more to say. The node ends the connection.
    ///
    /// # Panics
    /// When it does not.
    pub fn receives(&self, bytes: &[u8]) {
        let mut client = TcpStream::connect(self.address).expect("the node listens");
        client.set_read_timeout(Some(PATIENCE)).expect("it is a time");
        client.write_all(UPGRADE.as_bytes()).expect("the node reads");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte).expect("the node answers");
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
        // Both fail when the node has closed the connection already.
        let sent = client.write_all(bytes).and_then(|()| client.shutdown(Shutdown::Write));
        let ended = client.read_to_end(&mut Vec::new());
        let late = ended.is_err_and(|error| matches!(error.kind(), std::io::ErrorKind::WouldBlock));
        assert!(!late, "the connection is still open; sent: {sent:?}");
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use proptest::prelude::*;
    use proptest::sample::Index;
    use proptest::test_runner::{Config, TestRunner};

    /// Variations of the seeds of a target.
    const CASES: u32 = 3000;

    /// A change to some bytes.
    #[derive(Debug, Clone)]
    enum Change {
        Set(Index, u8),
        Insert(Index, Vec<u8>),
        Remove(Index, usize),
        /// A part of it once more, elsewhere.
        Repeat(Index, Index, usize),
        Cut(Index),
    }

    fn change() -> impl Strategy<Value = Change> {
        let place = any::<Index>;
        let bytes = prop_oneof![
            proptest::collection::vec(any::<u8>(), 1..8),
            "[-0-9a-zA-Z%&=,.:{}\\[\\]\"\\\\ \r\n]{1,12}".prop_map(String::into_bytes),
            prop::sample::select(vec!["null", "-1", "1e999", "18446744073709551615", "\\ud800", "\r\n--X\r\n", "%00"])
                .prop_map(|text| text.as_bytes().to_vec()),
        ];
        prop_oneof![
            (place(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
            (place(), bytes).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
            (place(), 1..40_usize).prop_map(|(at, length)| Change::Remove(at, length)),
            (place(), place(), 1..40_usize).prop_map(|(from, to, length)| Change::Repeat(from, to, length)),
            place().prop_map(Change::Cut),
        ]
    }

    fn apply(mut bytes: Vec<u8>, changes: &[Change]) -> Vec<u8> {
        for change in changes {
            let size = bytes.len() + 1;
            let end = |start: usize, length: usize| (start + length).min(size - 1);
            match change {
                Change::Set(at, byte) => {
                    if let Some(place) = bytes.get_mut(at.index(size)) {
                        *place = *byte;
                    }
                }
                Change::Insert(at, more) => {
                    let at = at.index(size);
                    bytes.splice(at..at, more.iter().copied());
                }
                Change::Remove(at, length) => {
                    let at = at.index(size);
                    bytes.drain(at..end(at, *length));
                }
                Change::Repeat(from, to, length) => {
                    let (from, to) = (from.index(size), to.index(size));
                    let part = bytes[from..end(from, *length)].to_vec();
                    bytes.splice(to..to, part);
                }
                Change::Cut(at) => bytes.truncate(at.index(size)),
            }
        }
        bytes
    }

    /// The same variations every time.
    fn attack(target: &str, cases: u32, run: impl Fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target);
        let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let seeds: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
        assert!(!seeds.is_empty());
        seeds.iter().for_each(|seed| run(seed));
        let bytes = (prop::sample::select(seeds), proptest::collection::vec(change(), 1..6))
            .prop_map(|(seed, changes)| apply(seed, &changes));
        let config = Config { cases, failure_persistence: None, ..Config::default() };
        let mut runner =
            TestRunner::new_with_rng(config, proptest::test_runner::TestRng::deterministic_rng(Default::default()));
        runner
            .run(&bytes, |bytes| {
                run(&bytes);
                Ok(())
            })
            .unwrap();
    }

    #[test]
    fn messages() {
        attack("message", CASES, super::message);
    }

    #[test]
    fn queries() {
        attack("query", CASES, super::query);
    }

    #[test]
    fn forms() {
        attack("form", CASES, super::form);
    }

    #[test]
    fn car_files() {
        attack("car", CASES, super::car);
    }

    #[test]
    fn frames() {
        let folder = tempfile::tempdir().unwrap();
        let node = super::StreamingNode::start(folder.path());
        attack("frames", CASES / 10, |bytes| node.receives(bytes));
    }
}

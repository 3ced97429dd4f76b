//! Finds the names of bytes on other threads, while they are on their way to the disk.

use bytes::Bytes;
use futures_util::future::join_all;
use protocol::{FileNames, NameHasher};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Pieces of a file that may wait for a thread before more is read from the network.
const PIECES_UNDER_WAY: usize = 8;

/// The threads are ending, because the node is.
#[derive(Debug)]
pub(super) struct Stopping;

/// Hashes that are being made, each on its own thread. Dropping it ends them.
pub(super) struct Hashing(Vec<Worker>);

struct Worker {
    pieces: mpsc::Sender<Bytes>,
    name: JoinHandle<protocol::FileName>,
}

impl Hashing {
    /// There are no bytes yet.
    pub(super) fn start() -> Self {
        Self(NameHasher::all().into_iter().map(Worker::start).collect())
    }

    /// These bytes come next.
    pub(super) async fn update(&self, piece: Bytes) -> Result<(), Stopping> {
        for worker in &self.0 {
            worker.pieces.send(piece.clone()).await.map_err(|_| Stopping)?;
        }
        Ok(())
    }

    /// There are no more bytes.
    pub(super) async fn finish(self) -> Result<FileNames, Stopping> {
        let names = self.0.into_iter().map(|Worker { pieces, name }| {
            drop(pieces);
            name
        });
        let names: Result<Vec<_>, _> = join_all(names).await.into_iter().collect();
        let names = names.map_err(|_| Stopping)?;
        Ok(FileNames::found(names.try_into().expect("there is a worker for each name")))
    }
}

impl Worker {
    fn start(mut hasher: NameHasher) -> Self {
        let (pieces, mut arriving) = mpsc::channel::<Bytes>(PIECES_UNDER_WAY);
        let name = tokio::task::spawn_blocking(move || {
            while let Some(piece) = arriving.blocking_recv() {
                hasher.update(&piece);
            }
            hasher.finish()
        });
        Self { pieces, name }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_names_are_those_of_the_bytes_in_their_order() {
        let bytes: Vec<u8> = (0..700_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let hashing = Hashing::start();
        for piece in bytes.chunks(10_000) {
            hashing.update(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        assert_eq!(hashing.finish().await.unwrap(), FileNames::of(&bytes));
        assert_eq!(Hashing::start().finish().await.unwrap(), FileNames::of(b""));
    }

    #[tokio::test]
    async fn what_is_not_finished_ends() {
        let hashing = Hashing::start();
        hashing.update(Bytes::from_static(b"some")).await.unwrap();
        let names: Vec<_> = hashing.0.into_iter().map(|worker| worker.name).collect();
        for name in names {
            name.await.unwrap();
        }
    }
}

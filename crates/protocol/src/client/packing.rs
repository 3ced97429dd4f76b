//! Streams of volumes as the archive has them: `btrfs send`, compressed with zstd ([`StreamFormat::BtrfsZstd`]).
//!
//! What is packed is a row of zstd frames, which `zstd -d` reads as one file.

use std::io;

use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zstd::stream::raw::{Decoder, Operation};

use super::{ArchiveError, StreamDownload};
use crate::api::archive::StreamFormat;

/// How much of a stream is in one frame, in bytes.
const PIECE: usize = 256 << 10;

/// Fast: streams are compressed while a node has other things to do.
const LEVEL: i32 = 1;

/// Why a stream of the archive could not be unpacked. Nothing of it may be used.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It did not come as it was archived.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// It is not what its format says, although it is what was archived.
    #[error("the archived stream cannot be unpacked: {0}; restore an older snapshot")]
    Bad(String),
    /// What is unpacked could not be written.
    #[error("the unpacked stream cannot be written: {0}")]
    Write(io::Error),
}

/// Packs a stream.
pub fn pack(reader: impl AsyncRead + Send + Unpin) -> impl Stream<Item = io::Result<Bytes>> + Send {
    stream::try_unfold(reader, async |mut reader| {
        let mut piece = Vec::with_capacity(PIECE);
        while piece.len() < PIECE {
            let room = (PIECE - piece.len()) as u64;
            if (&mut reader).take(room).read_buf(&mut piece).await? == 0 {
                break;
            }
        }
        if piece.is_empty() {
            return Ok(None);
        }
        Ok(Some((Bytes::from(zstd::bulk::compress(&piece, LEVEL)?), reader)))
    })
}

/// Unpacks a stream as it comes, and returns how many bytes it was. That it was whole is known only at the end.
///
/// # Errors
/// [`UnpackError`]; also when there are more than `limit` bytes.
pub async fn unpack(
    mut download: StreamDownload,
    format: StreamFormat,
    limit: u64,
    writer: &mut (impl AsyncWrite + Unpin),
) -> Result<u64, UnpackError> {
    let mut unpacker = Unpacker::new(format, limit)?;
    while let Some(packed) = download.chunk().await? {
        unpacker.feed(&packed, writer).await?;
    }
    unpacker.finish()
}

/// Unpacks piece by piece: what is unpacked at a time is bounded, however well it was compressed.
struct Unpacker {
    /// None when the stream is not compressed.
    decoder: Option<Decoder<'static>>,
    unpacked: Box<[u8]>,
    in_frame: bool,
    bytes: u64,
    limit: u64,
}

impl Unpacker {
    fn new(format: StreamFormat, limit: u64) -> Result<Self, UnpackError> {
        let decoder = match format {
            StreamFormat::Btrfs => None,
            StreamFormat::BtrfsZstd => Some(Decoder::new().map_err(|e| UnpackError::Bad(e.to_string()))?),
        };
        Ok(Self { decoder, unpacked: vec![0; PIECE].into(), in_frame: false, bytes: 0, limit })
    }

    async fn feed(&mut self, packed: &[u8], writer: &mut (impl AsyncWrite + Unpin)) -> Result<(), UnpackError> {
        let Some(decoder) = &mut self.decoder else {
            self.bytes = counted(self.bytes, packed.len(), self.limit)?;
            return writer.write_all(packed).await.map_err(UnpackError::Write);
        };
        let mut left = packed;
        // A full buffer may mean that there is more of what was read already.
        let mut is_full = false;
        while !left.is_empty() || (is_full && self.in_frame) {
            let done = decoder.run_on_buffers(left, &mut self.unpacked);
            let done = done.map_err(|e| UnpackError::Bad(e.to_string()))?;
            left = &left[done.bytes_read..];
            self.in_frame = done.remaining != 0;
            self.bytes = counted(self.bytes, done.bytes_written, self.limit)?;
            let unpacked = &self.unpacked[..done.bytes_written];
            writer.write_all(unpacked).await.map_err(UnpackError::Write)?;
            is_full = done.bytes_written == self.unpacked.len();
        }
        Ok(())
    }

    fn finish(self) -> Result<u64, UnpackError> {
        if self.in_frame {
            return Err(UnpackError::Bad("it ends in the middle".to_owned()));
        }
        Ok(self.bytes)
    }
}

fn counted(bytes: u64, more: usize, limit: u64) -> Result<u64, UnpackError> {
    let bytes = bytes + more as u64;
    if bytes > limit {
        return Err(UnpackError::Bad(format!(
            "it has more than {limit} bytes, which is more than its volume can hold"
        )));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt;

    use super::*;

    async fn packed(bytes: &[u8]) -> Vec<u8> {
        let pieces: Vec<Bytes> = pack(bytes).try_collect().await.unwrap();
        pieces.concat()
    }

    async fn unpacked(packed: &[u8], cut: usize, limit: u64) -> Result<Vec<u8>, UnpackError> {
        let (mut unpacker, mut to) = (Unpacker::new(StreamFormat::BtrfsZstd, limit)?, Vec::new());
        for chunk in packed.chunks(cut) {
            unpacker.feed(chunk, &mut to).await?;
        }
        unpacker.finish()?;
        Ok(to)
    }

    #[tokio::test]
    async fn what_is_packed_comes_back_however_it_is_cut() {
        let mut bytes: Vec<u8> = (0..PIECE * 3 + 17).map(|i| (i * i % 251) as u8).collect();
        bytes[PIECE..2 * PIECE].fill(0);
        let packed = packed(&bytes).await;
        assert!(packed.len() < bytes.len());
        for cut in [7, 1000, packed.len()] {
            assert_eq!(unpacked(&packed, cut, u64::MAX).await.unwrap(), bytes);
        }
        assert_eq!(unpacked(b"", 1, 0).await.unwrap(), b"");
    }

    #[tokio::test]
    async fn what_is_cut_off_too_long_or_something_else_is_said_to_be() {
        let packed = packed(&vec![0; 4 << 20]).await;
        let error = async |packed: &[u8], limit| unpacked(packed, 1000, limit).await.unwrap_err().to_string();
        assert!(error(&packed[..packed.len() - 3], u64::MAX).await.contains("in the middle"));
        assert!(error(&packed, 1 << 20).await.contains("more than 1048576 bytes"));
        assert!(error(b"no such stream, by far", u64::MAX).await.contains("cannot be unpacked"));
    }
}

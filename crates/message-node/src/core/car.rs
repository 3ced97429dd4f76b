//! CAR files (version 1): how clients send a UnixFS tree as the blocks that it consists of.
//! Source: <https://ipld.io/specs/transport/car/carv1/>.
//!
//! ```text
//!  varint ‖ header (DAG-CBOR: one root, version)     varint ‖ CID ‖ block     varint ‖ CID ‖ block  …
//! ```
//! The bytes are read as they arrive; every block is checked against its CID, and only where it is is remembered.

use std::collections::HashMap;
use std::ops::Range;

use protocol::{FileName, FileNameError};

/// The longest header. One with a single root has about 60 bytes.
const MAX_HEADER_BYTES: u64 = 8 * 1024;
/// The largest block with its CID: what nodes of IPFS exchange at most, and room for a CID.
const MAX_FRAME_BYTES: u64 = 2 * 1024 * 1024 + 128;
/// The most blocks: each costs about 100 bytes of memory. In chunks of 256 KiB they are 16 GiB.
const MAX_BLOCKS: usize = 65_536;
/// The longest number that says a length.
const MAX_VARINT_BYTES: usize = 10;

/// What is wrong with a CAR file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CarError {
    /// It ends within a part.
    #[error("the CAR file ends too early")]
    Truncated,
    /// The header is none.
    #[error("the header of the CAR file cannot be read")]
    Header,
    /// Another version.
    #[error("unsupported CAR version {0}: send version 1")]
    Version(u64),
    /// None, or several.
    #[error("the CAR file has {0} roots, expected exactly 1 root")]
    Roots(u64),
    /// A CID that cannot be read or is not supported.
    #[error("the CAR file names something that is no part of a file: {0}")]
    Cid(#[from] FileNameError),
    /// Longer than it may be.
    #[error("a part of the CAR file has {0} bytes, at most {1}")]
    TooLong(u64, u64),
    /// More blocks than are kept in mind.
    #[error("the CAR file has more than {MAX_BLOCKS} blocks")]
    TooMany,
    /// Bytes that are not those of their CID.
    #[error("a block of the CAR file is not the one that its CID {0} names")]
    WrongBlock(FileName),
}

/// Where the blocks of a CAR file are.
#[derive(Debug, PartialEq)]
pub(crate) struct CarIndex {
    /// The block that everything hangs on.
    pub root: FileName,
    /// Where in the file each block is.
    pub blocks: HashMap<FileName, Range<u64>>,
}

/// Reads a CAR file that arrives in pieces. Keeps at most one block and one piece of it in memory.
#[derive(Debug, Default)]
pub(crate) struct CarReader {
    buffer: Vec<u8>,
    /// Where in the file the buffer begins.
    position: u64,
    root: Option<FileName>,
    blocks: HashMap<FileName, Range<u64>>,
}

impl CarReader {
    /// These bytes come next.
    ///
    /// # Errors
    /// [`CarError`]; nothing more is to be read then.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), CarError> {
        self.buffer.extend_from_slice(bytes);
        let buffer = std::mem::take(&mut self.buffer);
        let mut done = 0;
        while let Some(frame) = self.next_frame(&buffer[done..])? {
            let bytes = &buffer[done + frame.start..done + frame.end];
            match self.root {
                None => self.root = Some(read_header(bytes)?),
                Some(_) => self.add_block(bytes, self.position + (done + frame.start) as u64)?,
            }
            done += frame.end;
        }
        self.position += done as u64;
        self.buffer = buffer;
        self.buffer.drain(..done);
        Ok(())
    }

    /// There are no more bytes.
    ///
    /// # Errors
    /// [`CarError::Truncated`].
    pub(crate) fn finish(self) -> Result<CarIndex, CarError> {
        match (self.root, self.buffer.is_empty()) {
            (Some(root), true) => Ok(CarIndex { root, blocks: self.blocks }),
            _ => Err(CarError::Truncated),
        }
    }

    /// Where the next part is, if all of it is there.
    fn next_frame(&self, bytes: &[u8]) -> Result<Option<Range<usize>>, CarError> {
        let Some((length, start)) = read_varint(bytes)? else { return Ok(None) };
        let most = if self.root.is_none() { MAX_HEADER_BYTES } else { MAX_FRAME_BYTES };
        if length > most {
            return Err(CarError::TooLong(length, most));
        }
        let end = start + usize::try_from(length).expect("it is short");
        Ok((end <= bytes.len()).then_some(start..end))
    }

    fn add_block(&mut self, frame: &[u8], at: u64) -> Result<(), CarError> {
        let mut block = frame;
        let name = FileName::read_cid(&mut block)?;
        if !name.is_of_block(block) {
            return Err(CarError::WrongBlock(name));
        }
        if self.blocks.len() >= MAX_BLOCKS {
            return Err(CarError::TooMany);
        }
        let end = at + frame.len() as u64;
        self.blocks.insert(name, end - block.len() as u64..end);
        Ok(())
    }
}

/// A number and how many bytes it took; `None` when more bytes are needed.
fn read_varint(bytes: &[u8]) -> Result<Option<(u64, usize)>, CarError> {
    let mut number: u64 = 0;
    for (at, byte) in bytes.iter().take(MAX_VARINT_BYTES).enumerate() {
        let part = u64::from(byte & 0x7f);
        number |= part.checked_shl(7 * u32::try_from(at).expect("it is small")).unwrap_or(0);
        if byte & 0x80 == 0 {
            return Ok(Some((number, at + 1)));
        }
    }
    if bytes.len() < MAX_VARINT_BYTES { Ok(None) } else { Err(CarError::TooLong(u64::MAX, MAX_FRAME_BYTES)) }
}

/// The root in a header: a map of `roots`, a list of links, and `version`, in either order.
fn read_header(bytes: &[u8]) -> Result<FileName, CarError> {
    let mut cbor = Cbor(bytes);
    if cbor.head()? != (5, 2) {
        return Err(CarError::Header);
    }
    let (mut root, mut version) = (None, None);
    for _ in 0..2 {
        let (3, length) = cbor.head()? else { return Err(CarError::Header) };
        match cbor.take(length)? {
            b"roots" => root = Some(cbor.only_link()?),
            b"version" => match cbor.head()? {
                (0, number) => version = Some(number),
                _ => return Err(CarError::Header),
            },
            _ => return Err(CarError::Header),
        }
    }
    match (root, version) {
        (Some(root), Some(1)) => Ok(FileName::read_cid(&mut &*root)?),
        (_, Some(other)) if other != 1 => Err(CarError::Version(other)),
        _ => Err(CarError::Header),
    }
}

/// As much of CBOR (RFC 8949) as the header of a CAR file needs.
struct Cbor<'a>(&'a [u8]);

impl<'a> Cbor<'a> {
    fn take(&mut self, length: u64) -> Result<&'a [u8], CarError> {
        let length = usize::try_from(length).ok().filter(|length| *length <= self.0.len()).ok_or(CarError::Header)?;
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        Ok(taken)
    }

    /// The major type of the next item and its number: a value, a length or a tag.
    fn head(&mut self) -> Result<(u8, u64), CarError> {
        let first = self.take(1)?[0];
        let number = match first & 0x1f {
            small @ 0..=23 => u64::from(small),
            size @ 24..=27 => {
                self.take(1 << (size - 24))?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
            }
            _ => return Err(CarError::Header),
        };
        Ok((first >> 5, number))
    }

    /// The CID in a list of one link (tag 42, bytes that begin with a zero).
    fn only_link(&mut self) -> Result<&'a [u8], CarError> {
        match self.head()? {
            (4, 1) => {}
            (4, roots) => return Err(CarError::Roots(roots)),
            _ => return Err(CarError::Header),
        }
        if self.head()? != (6, 42) {
            return Err(CarError::Header);
        }
        let (2, length) = self.head()? else { return Err(CarError::Header) };
        self.take(length)?.strip_prefix(&[0]).ok_or(CarError::Header)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use aleph_cid::car::{write_block_frame, write_carv1_header};
    use protocol::FileHash;
    use sha2::{Digest, Sha256};

    /// The CID of version 1 of a block, in binary.
    pub(crate) fn cid_of(codec: u8, block: &[u8]) -> Vec<u8> {
        [&[1, codec, 0x12, 0x20][..], &Sha256::digest(block)].concat()
    }

    /// A CAR file of these blocks, each with its codec, whose root is the last one. Its frames are written by `aleph-cid`.
    pub(crate) fn car(blocks: &[(u8, &[u8])]) -> Vec<u8> {
        let mut file = Vec::new();
        let (codec, root) = blocks.last().unwrap();
        write_carv1_header(&mut file, &cid_of(*codec, root)).unwrap();
        for (codec, block) in blocks {
            write_block_frame(&mut file, &cid_of(*codec, block), block).unwrap();
        }
        file
    }

    fn read(file: &[u8]) -> Result<CarIndex, CarError> {
        let mut reader = CarReader::default();
        reader.push(file)?;
        reader.finish()
    }

    const RAW: u8 = 0x55;
    const DAG_PB: u8 = 0x70;

    #[test]
    fn blocks_are_found_where_they_are_however_the_file_arrives() {
        let large = vec![7; 300_000];
        let file = car(&[(RAW, b"one"), (RAW, &large), (DAG_PB, b"root"), (DAG_PB, b"")]);
        let index = read(&file).unwrap();
        assert_eq!(index.root, FileName::DagPb(*FileHash::of(b"").as_bytes()));
        assert_eq!(index.blocks.len(), 4);
        for (name, block) in [(FileHash::of(b"one").into(), b"one".as_slice()), (FileHash::of(&large).into(), &large)] {
            let range = index.blocks[&name].clone();
            assert_eq!(&file[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()], block);
        }
        for piece in [1, 7, 1000, 65_536] {
            let mut reader = CarReader::default();
            file.chunks(piece).for_each(|bytes| reader.push(bytes).unwrap());
            assert_eq!(reader.finish().unwrap(), index, "pieces of {piece}");
        }
    }

    #[test]
    fn every_block_is_checked() {
        let file = car(&[(RAW, b"block"), (DAG_PB, b"root")]);
        let at = file.windows(5).position(|bytes| bytes == b"block").unwrap();
        let mut wrong = file.clone();
        wrong[at] ^= 1;
        assert_eq!(read(&wrong), Err(CarError::WrongBlock(FileHash::of(b"block").into())));
        for cut in [0, 1, 20, file.len() - 1] {
            assert_eq!(read(&file[..cut]), Err(CarError::Truncated), "{cut}");
        }
    }

    #[test]
    fn nothing_in_it_may_be_too_long() {
        let header = car(&[(RAW, b"")]);
        let long = |start: &[u8], length: u64| {
            let mut file = start.to_vec();
            let mut length = length;
            while length >= 0x80 {
                file.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
                length >>= 7;
            }
            file.push(u8::try_from(length).unwrap());
            read(&file)
        };
        assert_eq!(long(&[], 8193), Err(CarError::TooLong(8193, 8192)));
        assert_eq!(long(&header, 1 << 40), Err(CarError::TooLong(1 << 40, MAX_FRAME_BYTES)));
        assert!(matches!(read(&[0xff; 20]), Err(CarError::TooLong(..))), "a number without end");
        let mut reader = CarReader { blocks: (0..MAX_BLOCKS as u64).map(numbered).collect(), ..CarReader::default() };
        assert_eq!(reader.push(&header), Err(CarError::TooMany));
    }

    fn numbered(number: u64) -> (FileName, Range<u64>) {
        (FileHash::of(&number.to_be_bytes()).into(), 0..0)
    }

    #[test]
    fn headers_have_one_root_and_version_1() {
        let good = car(&[(RAW, b"")]);
        let root = cid_of(RAW, b"");
        let change = |from: &[u8], to: &[u8]| {
            let at = good.windows(from.len()).position(|bytes| bytes == from).unwrap();
            let mut file = [&good[..at], to, &good[at + from.len()..]].concat();
            // The header's length is one byte.
            file[0] = u8::try_from(usize::from(good[0]) + to.len() - from.len()).unwrap();
            read(&file)
        };
        assert_eq!(change(b"version\x01", b"version\x02"), Err(CarError::Version(2)));
        assert_eq!(change(b"roots\x81", b"roots\x82"), Err(CarError::Roots(2)));
        assert_eq!(change(b"roots\x81", b"roots\x80"), Err(CarError::Roots(0)));
        assert_eq!(change(b"roots", b"stems"), Err(CarError::Header));
        assert_eq!(change(&[0xd8, 0x2a], &[0xd8, 0x2b]), Err(CarError::Header));
        assert!(matches!(change(&root[..2], &[1, 0x71]), Err(CarError::Cid(FileNameError::Kind(_)))));
        assert_eq!(read(&[1, 0xa0]), Err(CarError::Header));
        assert_eq!(read(&[2, 0xa2, 0x65]), Err(CarError::Header));
        // The other order is as good.
        let mut header = vec![0xa2, 0x67];
        header.extend_from_slice(b"version\x01\x65roots\x81\xd8\x2a\x58\x25\x00");
        header.extend_from_slice(&root);
        let file = [&[u8::try_from(header.len()).unwrap()][..], &header].concat();
        assert_eq!(read(&file).unwrap().root, FileHash::of(b"").into());
    }
}

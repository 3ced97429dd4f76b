//! Streams of another program's snapshots, taken in as if they were of snapshots of this program.
//!
//! `btrfs receive` finds the snapshot that a difference builds on by its UUID among all of the file system, and takes the first
//! that it finds. The other program may have that snapshot on the same node, where this one must not reach it. So each UUID
//! in a stream becomes another one here, the same for all streams that this program takes in.
//!
//! The format (Linux, `fs/btrfs/send.h`): `btrfs-stream\0` and a version of four bytes; then commands, each with the length
//! of what follows its header (4 bytes), what it is (2) and the CRC-32C of all of it with zeros in place of that (4). The
//! commands with UUIDs consist of attributes with a type (2), a length (2) and that many bytes. Numbers are little-endian.

use std::io;

use crc::{Algorithm, Crc};
use protocol::ProgramId;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes before the first command.
const PREAMBLE: usize = 17;
/// Bytes of a command's header, and where its checksum is.
const HEADER: usize = 10;
const CHECKSUM: std::ops::Range<usize> = 6..HEADER;

/// The commands that name snapshots: a full stream, a difference, and data that another snapshot has.
const NAMING: [u16; 3] = [1, 2, 16];
/// No such command is longer: a UUID or two, numbers, and at most three paths.
const LONGEST: usize = 64 << 10;

/// The attributes that are UUIDs: that of the snapshot, and that of the other one.
const UUIDS: [u16; 2] = [1, 20];

/// CRC-32C as btrfs has it in streams, which begins with zero and ends as it is.
const CRC: Crc<u32> = Crc::<u32>::new(&Algorithm {
    width: 32,
    poly: 0x1edc_6f41,
    init: 0,
    refin: true,
    refout: true,
    xorout: 0,
    check: 0x58e3_fa20,
    residue: 0,
});

type Uuid = [u8; 16];

/// Copies a stream for this program, and says how many bytes it had. What is no stream, or cut off, is copied as it is: whoever
/// applies it says what is wrong.
pub(crate) async fn copy(
    program: &ProgramId,
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<u64> {
    let mask = mask_of(program);
    let mut copied = tokio::io::copy(&mut from.take(PREAMBLE as u64), to).await?;
    loop {
        let mut command = vec![0; HEADER];
        let there = fill(from, &mut command).await?;
        command.truncate(there);
        copied += there as u64;
        let Some((length, kind)) = header(&command) else {
            to.write_all(&command).await?;
            return Ok(copied);
        };
        if NAMING.contains(&kind) && length <= LONGEST {
            command.resize(HEADER + length, 0);
            let there = fill(from, &mut command[HEADER..]).await?;
            command.truncate(HEADER + there);
            copied += there as u64;
            if there == length {
                rename(&mut command, &mask);
            }
            to.write_all(&command).await?;
        } else {
            to.write_all(&command).await?;
            copied += tokio::io::copy(&mut from.take(length as u64), to).await?;
        }
    }
}

/// Reads until the buffer is full or nothing comes any more; says how much came.
async fn fill(from: &mut (impl AsyncRead + Unpin), buffer: &mut [u8]) -> io::Result<usize> {
    let mut there = 0;
    while there < buffer.len() {
        match from.read(&mut buffer[there..]).await? {
            0 => break,
            more => there += more,
        }
    }
    Ok(there)
}

/// The length of what follows, and what command it is; `None` when that is not all of a header.
fn header(bytes: &[u8]) -> Option<(usize, u16)> {
    let [a, b, c, d, e, f, _, _, _, _] = *bytes else { return None };
    Some((u32::from_le_bytes([a, b, c, d]) as usize, u16::from_le_bytes([e, f])))
}

fn mask_of(program: &ProgramId) -> Uuid {
    let digest = Sha256::digest([b"aleph foreign snapshots 1".as_slice(), program.as_bytes()].concat());
    *digest.first_chunk().expect("a digest is longer")
}

/// Replaces the UUIDs in a command. One that is not right stays as it is: its checksum would become right.
fn rename(command: &mut [u8], mask: &Uuid) {
    if command[CHECKSUM] != checksum(command).to_le_bytes() {
        return;
    }
    let mut at = HEADER;
    while let Some([a, b, c, d]) = command.get(at..).and_then(|rest| rest.first_chunk()).copied() {
        let (kind, length) = (u16::from_le_bytes([a, b]), usize::from(u16::from_le_bytes([c, d])));
        at += 4;
        if let Some(uuid) =
            command.get_mut(at..at + length).filter(|value| UUIDS.contains(&kind) && value.len() == mask.len())
        {
            uuid.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
        }
        at += length;
    }
    let sum = checksum(command);
    command[CHECKSUM].copy_from_slice(&sum.to_le_bytes());
}

fn checksum(command: &[u8]) -> u32 {
    let mut digest = CRC.digest();
    digest.update(&command[..CHECKSUM.start]);
    digest.update(&[0; 4]);
    digest.update(&command[CHECKSUM.end..]);
    digest.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAM: ProgramId = ProgramId::from_bytes([7; 32]);

    fn command(kind: u16, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len()).unwrap().to_le_bytes();
        let mut command = [length.as_slice(), &kind.to_le_bytes(), &[0; 4], body].concat();
        let sum = checksum(&command);
        command[CHECKSUM].copy_from_slice(&sum.to_le_bytes());
        command
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        [kind.to_le_bytes().as_slice(), &u16::try_from(value.len()).unwrap().to_le_bytes(), value].concat()
    }

    async fn copied(stream: &[u8]) -> Vec<u8> {
        let (mut from, mut to) = (stream, Vec::new());
        assert_eq!(copy(&PROGRAM, &mut from, &mut to).await.unwrap(), stream.len() as u64);
        to
    }

    #[test]
    fn the_checksum_is_that_of_streams() {
        // The catalogue's check value of CRC-32C, without its first and last inversion.
        assert_eq!(CRC.checksum(b"123456789"), 0x58e3_fa20);
    }

    #[tokio::test]
    async fn all_uuids_change_and_nothing_else() {
        let (own, parent) = ([1; 16], [2; 16]);
        let stream = |own: &Uuid, parent: &Uuid| {
            let difference = [attribute(15, b"data"), attribute(1, own), attribute(2, &[9; 8]), attribute(20, parent)];
            let clone = [attribute(18, &[0; 8]), attribute(20, own), attribute(22, b"f")];
            // A path of 16 bytes, and data that looks like a UUID.
            let write = [attribute(15, &[5; 16]), attribute(19, &attribute(1, &[1; 16]))];
            let preamble = b"btrfs-stream\0\x01\0\0\0".to_vec();
            [
                preamble,
                command(2, &difference.concat()),
                command(15, &write.concat()),
                command(16, &clone.concat()),
                command(21, &[]),
            ]
            .concat()
        };
        let mask = mask_of(&PROGRAM);
        let other = |uuid: Uuid| -> Uuid { std::array::from_fn(|at| uuid[at] ^ mask[at]) };
        assert_eq!(copied(&stream(&own, &parent)).await, stream(&other(own), &other(parent)));
        assert_ne!(mask, mask_of(&ProgramId::from_bytes([8; 32])));
    }

    #[tokio::test]
    async fn what_is_no_whole_stream_is_copied_as_it_is() {
        let mut wrong = command(2, &attribute(1, &[1; 16]));
        wrong[7] ^= 1;
        let whole = [b"btrfs-stream\0\x01\0\0\0".to_vec(), wrong].concat();
        for cut in 0..=whole.len() {
            assert_eq!(copied(&whole[..cut]).await, &whole[..cut]);
        }
        let long = [vec![0; PREAMBLE], u32::MAX.to_le_bytes().to_vec(), vec![1; 500]].concat();
        assert_eq!(copied(&long).await, long);
    }
}

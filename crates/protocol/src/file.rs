//! What files are called: by the SHA-256 of their bytes, or by a CID of IPFS.
//!
//! A CID is the SHA-256 of a *block*. A `raw` block is the file itself. A `dag-pb` block is the root of a tree that the file
//! was cut into, so that one file has as many of these names as there are ways to cut it. The ways that count here are those
//! of kubo's `ipfs add`: chunks of 256 KiB, a balanced tree of at most 174 links a node, leaves that are wrapped
//! (`--cid-version=0`, the default) or raw (`--cid-version=1`). Sources: <https://specs.ipfs.tech/unixfs/>,
//! <https://github.com/multiformats/cid>, <https://ipld.io/specs/codecs/dag-pb/spec/>.

use std::fmt;
use std::str::FromStr;

use aleph_cid::verify::Hasher;
use cid::Cid;
use cid::multihash::Multihash;
use sha2::{Digest, Sha256};

use crate::FileHash;

/// The codec of blocks that are plain bytes.
const RAW: u64 = 0x55;
/// The codec of nodes of a UnixFS tree.
const DAG_PB: u64 = 0x70;
/// The hash function of all names.
const SHA2_256: u64 = 0x12;

/// Names the bytes of a file. Two texts that parse to the same name are names of the same bytes: `Qm…` and `bafy…` of the same
/// root, or a SHA-256 and the `bafk…` of the same raw block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileName {
    /// The SHA-256 of the bytes.
    Sha256(FileHash),
    /// The SHA-256 of the root of a UnixFS tree whose leaves are the bytes.
    DagPb([u8; 32]),
}

/// Why a text is no name of a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileNameError {
    /// Neither a SHA-256 nor a CID as they are written on the wire.
    #[error(
        "'{0}' is neither a SHA-256 in lower-case hexadecimal nor a CID ('Qm…', or 'b…' in lower-case base32 without padding)"
    )]
    Form(String),
    /// A CID of something that is no file, or whose hash is not SHA-256.
    #[error("the CID '{0}' is not supported: only those of files ('dag-pb' or 'raw') by SHA-256 are")]
    Kind(String),
}

impl FileName {
    /// Takes a binary CID, as it occurs in links and in CAR files, from the beginning of these bytes.
    ///
    /// # Errors
    /// [`FileNameError`].
    pub fn read_cid(bytes: &mut &[u8]) -> Result<Self, FileNameError> {
        let start = *bytes;
        let cid =
            Cid::read_bytes(bytes).map_err(|_| FileNameError::Form(hex::encode(&start[..start.len().min(36)])))?;
        Self::of_cid(&cid)
    }

    /// Whether this is the name of these bytes as one block.
    pub fn is_of_block(self, block: &[u8]) -> bool {
        let digest = match self {
            Self::Sha256(hash) => *hash.as_bytes(),
            Self::DagPb(digest) => digest,
        };
        <[u8; 32]>::from(Sha256::digest(block)) == digest
    }

    fn of_cid(cid: &Cid) -> Result<Self, FileNameError> {
        let unsupported = || FileNameError::Kind(cid.to_string());
        let digest: [u8; 32] = cid.hash().digest().try_into().map_err(|_| unsupported())?;
        match (cid.hash().code(), cid.codec()) {
            (SHA2_256, RAW) => Ok(Self::Sha256(FileHash::from_bytes(digest))),
            (SHA2_256, DAG_PB) => Ok(Self::DagPb(digest)),
            _ => Err(unsupported()),
        }
    }

    /// Whether a text can be the hash of a message or of a file in a message: only `Qm…` and `bafy…` are known to all clients
    /// of the network besides SHA-256 (`item_type_from_hash` of the Python package `aleph-message`).
    pub fn is_cid_of_item(text: &str) -> bool {
        matches!(text.parse(), Ok(Self::DagPb(_)))
    }

    /// The same as a CID of version 1.
    pub fn to_cid_v1(self) -> String {
        let (codec, digest) = match self {
            Self::Sha256(hash) => (RAW, *hash.as_bytes()),
            Self::DagPb(digest) => (DAG_PB, digest),
        };
        Cid::new_v1(codec, multihash(&digest)).to_string()
    }
}

fn multihash(digest: &[u8; 32]) -> Multihash<64> {
    Multihash::wrap(SHA2_256, digest).expect("32 bytes fit")
}

/// SHA-256 as hexadecimal, roots as CIDs of version 0.
impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(hash) => hash.fmt(f),
            Self::DagPb(digest) => Cid::new_v0(multihash(digest)).expect("it is SHA-256").fmt(f),
        }
    }
}

impl FromStr for FileName {
    type Err = FileNameError;

    fn from_str(text: &str) -> Result<Self, FileNameError> {
        let wrong = || FileNameError::Form(text.to_owned());
        if text.len() == 64 && !text.bytes().any(|b| b.is_ascii_uppercase()) {
            return text.parse().map(Self::Sha256).map_err(|_| wrong());
        }
        let cid = Cid::try_from(text).map_err(|_| wrong())?;
        // One text for each CID: base58 for version 0, base32 for version 1. Others would be other ids for the same message.
        if cid.to_string() != text {
            return Err(wrong());
        }
        Self::of_cid(&cid)
    }
}

impl From<FileHash> for FileName {
    fn from(hash: FileHash) -> Self {
        Self::Sha256(hash)
    }
}

/// What the same bytes are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileNames {
    /// Their SHA-256.
    pub sha256: FileHash,
    /// As `ipfs add` names them: a root with wrapped leaves.
    pub v0: FileName,
    /// As `ipfs add --cid-version=1` names them: a root with raw leaves; the SHA-256 itself when they are one chunk.
    pub v1: FileName,
}

impl FileNames {
    /// The names of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = FileHasher::new();
        hasher.update(bytes);
        hasher.finish()
    }

    /// What the hashers of [`NameHasher::all`] found, in that order.
    ///
    /// # Panics
    /// When the first one is no SHA-256: then the order is another.
    pub fn found([sha256, v0, v1]: [FileName; 3]) -> Self {
        let FileName::Sha256(sha256) = sha256 else { panic!("the first name is the SHA-256") };
        Self { sha256, v0, v1 }
    }

    /// Whether this is one of them.
    pub fn contain(&self, name: FileName) -> bool {
        self.all().contains(&name)
    }

    /// All of them, by SHA-256 first; one may occur twice.
    pub fn all(&self) -> [FileName; 3] {
        [self.sha256.into(), self.v0, self.v1]
    }
}

/// Finds one name of bytes that come one after the other. Hashing is what takes time, so that whoever has many bytes gives
/// each its own thread.
#[derive(Debug)]
pub struct NameHasher(Hashing);

#[derive(Debug)]
enum Hashing {
    Plain(Sha256),
    /// Needs a quarter of a megabyte, and about 100 bytes for each 256 KiB.
    Tree(Hasher),
}

impl NameHasher {
    /// For all names; [`FileNames::found`] takes what they find in this order.
    pub fn all() -> [Self; 3] {
        let trees = [Hasher::for_ipfs(), Hasher::for_ipfs_v1_raw_leaves()].map(Hashing::Tree);
        let [wrapped, raw] = trees;
        [Hashing::Plain(Sha256::new()), wrapped, raw].map(Self)
    }

    /// These bytes come next.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Hashing::Plain(sha256) => sha256.update(bytes),
            Hashing::Tree(hasher) => hasher.update(bytes),
        }
    }

    /// There are no more bytes.
    pub fn finish(self) -> FileName {
        match self.0 {
            Hashing::Plain(sha256) => FileName::Sha256(FileHash::from_bytes(sha256.finalize().into())),
            Hashing::Tree(hasher) => {
                hasher.finalize().as_str().parse().expect("what the hasher makes is a CID of a file")
            }
        }
    }
}

/// Finds all names of bytes that come one after the other.
#[derive(Debug)]
pub struct FileHasher([NameHasher; 3]);

impl Default for FileHasher {
    fn default() -> Self {
        Self::new()
    }
}

impl FileHasher {
    /// There are no bytes yet.
    pub fn new() -> Self {
        Self(NameHasher::all())
    }

    /// These bytes come next.
    pub fn update(&mut self, bytes: &[u8]) {
        for hasher in &mut self.0 {
            hasher.update(bytes);
        }
    }

    /// There are no more bytes.
    pub fn finish(self) -> FileNames {
        FileNames::found(self.0.map(NameHasher::finish))
    }
}

/// Checks bytes that come one after the other against a name. For a SHA-256 this costs no more than that.
#[derive(Debug)]
pub struct FileCheck {
    name: FileName,
    /// For those names that it may be.
    hashers: Vec<NameHasher>,
}

impl FileCheck {
    /// There are no bytes yet.
    pub fn new(name: FileName) -> Self {
        let [sha256, wrapped, raw] = NameHasher::all();
        let hashers = match name {
            FileName::Sha256(_) => vec![sha256],
            FileName::DagPb(_) => vec![wrapped, raw],
        };
        Self { name, hashers }
    }

    /// These bytes come next.
    pub fn update(&mut self, bytes: &[u8]) {
        for hasher in &mut self.hashers {
            hasher.update(bytes);
        }
    }

    /// There are no more bytes.
    ///
    /// # Errors
    /// What the bytes are called instead. They are called so, too, when the name is that of a tree which was cut otherwise
    /// than `ipfs add` does.
    pub fn finish(self) -> Result<(), FileName> {
        let names: Vec<_> = self.hashers.into_iter().map(NameHasher::finish).collect();
        if names.contains(&self.name) { Ok(()) } else { Err(names[0]) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: usize = 256 * 1024;

    fn v0(text: &str) -> FileName {
        let name: FileName = text.parse().unwrap();
        assert_eq!(name.to_string(), text, "it returns to itself");
        name
    }

    /// Bytes that are no two chunks the same.
    fn pattern(length: usize) -> Vec<u8> {
        (0..length).map(|at| u8::try_from((at + at / CHUNK * 7) % 251).unwrap()).collect()
    }

    #[test]
    fn small_files_have_the_names_that_everybody_knows() {
        // From the documentation of IPFS and of kubo, and the tests of `aleph-cid`, made by `ipfs add`.
        for (bytes, expected) in [
            ("", "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH"),
            ("hello world", "Qmf412jQZiuVUtdgnB36FXFX7xg5V6KEbSJ4dpQuhkLyfD"),
            ("hello world\n", "QmT78zSuBmuS4z925WZfrqQ1qHaJ56DQaTfyMUF7F8ff5o"),
            ("hello\n", "QmZULkCELmmk5XNfCgTnCyFgAVxBRBXyDHGGMVoLFLiXEN"),
        ] {
            assert_eq!(FileNames::of(bytes.as_bytes()).v0, v0(expected), "{bytes:?}");
        }
        let hello = FileNames::of(b"hello\n");
        assert_eq!(hello.v1.to_cid_v1(), "bafkreicysg23kiwv34eg2d7qweipxwosdo2py4ldv42nbauguluen5v6am");
        assert_eq!(hello.v1, hello.sha256.into(), "one raw block is the file itself");
    }
    /// `(bytes, name by ipfs add, name by ipfs add --cid-version=1)`, each of [`pattern`]. Made by an implementation of its own
    /// in Python that gives the names that kubo gives to 128 MiB of `deadbeef` (the vectors in the tests of `aleph-cid`).
    const VECTORS: &[(usize, &str, &str)] = &[
        (
            1,
            "QmS9JArPwa55ePgDnyg6TzX24mYTS1b1vLqWNebyVotKxQ",
            "bafkreidogqfzz75tpkmjzjke425xqcrmpcib2p5tg44hnbirumdbpl5adu",
        ),
        (
            CHUNK,
            "QmeqfRyS3vkku7n6krqC3DgGMex3x2sCpSeKMDmrG13QQq",
            "bafkreibruh455iawsviqslif5c7uurdcfdemh22mtnytyzvnzn75kpejxy",
        ),
        (
            CHUNK + 1,
            "QmaU97HuWQuXzWDA9y5TwFc1iZrKDsxSJuXvCE8awe6sVH",
            "bafybeiggvahytc46cexurynhsbuhgzb2z3h2ssu7wodwgwxj7exvgccuji",
        ),
        (
            5 << 20,
            "QmduLK3vrmfgvQDwssS6epbVpxyFXAVLi54CH2cbZMzryR",
            "bafybeievfig2mogrzmon7rjk7dnzchzjbs4wdwvklcladsgstabp4nq3qi",
        ),
        // As many chunks as one node has links, and one more: a second level.
        (
            174 * CHUNK,
            "QmWTYNyuNjeWbks7eddu3fP9wN3ShjRLCSFyhwzzFfmZdc",
            "bafybeieglxlbv23upaepvhvuyg5a4k7d7wfprjehie74qqbisshvjpvbza",
        ),
        (
            174 * CHUNK + 1,
            "QmY3uCjHPgxxNbdYfJKmvvcTuuZwcdPMCRJfKBbYYRLV3b",
            "bafybeigvtvj5bljxxtrct6znpfk2rcy34ralrnamlfljygqthcwymcsole",
        ),
    ];

    #[test]
    fn files_of_all_shapes_have_the_names_that_kubo_gives_them() {
        for (length, wrapped, raw) in VECTORS {
            let names = FileNames::of(&pattern(*length));
            assert_eq!(names.v0, v0(wrapped), "{length}");
            assert_eq!(names.v1.to_cid_v1(), *raw, "{length}");
        }
    }

    #[test]
    fn texts_of_one_name_are_one_name_and_others_are_none() {
        let root = "QmYULJoNGPDmoRq4WNWTDTUvJGJv1hosox8H6vVd1kCsY8";
        let name = v0(root);
        assert_eq!(name.to_cid_v1().parse(), Ok(name));
        assert!(FileName::is_cid_of_item(root) && FileName::is_cid_of_item(&name.to_cid_v1()));
        let raw = FileNames::of(b"x").v1.to_cid_v1();
        assert_eq!(raw.parse(), Ok(FileName::Sha256(FileHash::of(b"x"))));
        assert!(!FileName::is_cid_of_item(&raw) && !FileName::is_cid_of_item(&"ab".repeat(32)));
        let upper = "AB".repeat(32);
        let cut = &root[..45];
        let upper_v1 = name.to_cid_v1().to_uppercase();
        let base58_v1 = "zdj7WhuEjrB52m1BisYCtmjH1hSKa7yZ3jEZ9JcXaFRD51wVz";
        for text in ["", "my-file", "ubuntu24", &upper, cut, &upper_v1, base58_v1, &"Q".repeat(46), &"b".repeat(59)] {
            assert!(matches!(text.parse::<FileName>(), Err(FileNameError::Form(_))), "{text}");
        }
        // dag-cbor, and a file by another hash function (SHA-512 of 64 bytes).
        let digest = *FileHash::of(b"x").as_bytes();
        let cbor = Cid::new_v1(0x71, multihash(&digest)).to_string();
        let sha512 = Cid::new_v1(RAW, Multihash::wrap(0x13, &[7; 64]).unwrap()).to_string();
        for text in [cbor, sha512] {
            assert!(matches!(text.parse::<FileName>(), Err(FileNameError::Kind(_))), "{text}");
        }
    }

    #[test]
    fn binary_cids_are_read_and_blocks_are_checked() {
        let leaf = b"hello\n";
        let raw = FileNames::of(leaf).v1;
        for cid in [Cid::new_v1(RAW, multihash(FileHash::of(leaf).as_bytes())), raw.to_cid_v1().parse().unwrap()] {
            let bytes = [cid.to_bytes().as_slice(), b"rest"].concat();
            let mut left = bytes.as_slice();
            assert_eq!(FileName::read_cid(&mut left), Ok(raw));
            assert_eq!(left, b"rest");
        }
        assert!(raw.is_of_block(leaf) && !raw.is_of_block(b"hello"));
        let root = FileName::DagPb(*FileHash::of(b"node").as_bytes());
        let v0: Cid = root.to_string().parse().unwrap();
        assert_eq!(FileName::read_cid(&mut v0.to_bytes().as_slice()), Ok(root));
        assert!(root.is_of_block(b"node"));
        for bad in [&[][..], &[1], &[0x12, 0x20, 7], &[9; 40]] {
            assert!(FileName::read_cid(&mut &*bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn it_does_not_matter_how_bytes_arrive() {
        let bytes = pattern(2 * CHUNK + 500);
        let mut hasher = FileHasher::new();
        for part in bytes.chunks(1000) {
            hasher.update(part);
        }
        let names = hasher.finish();
        assert_eq!(names, FileNames::of(&bytes));
        assert!(names.all().into_iter().all(|name| names.contain(name)));
        assert!(!names.contain(FileNames::of(b"").v0));
        let check = |name, bytes: &[u8]| {
            let mut check = FileCheck::new(name);
            bytes.chunks(1000).for_each(|part| check.update(part));
            check.finish()
        };
        let mut wrong = bytes.clone();
        wrong[CHUNK] ^= 1;
        let others = FileNames::of(&wrong);
        for (name, other) in [(names.sha256.into(), others.sha256.into()), (names.v0, others.v0), (names.v1, others.v0)]
        {
            assert_eq!(check(name, &bytes), Ok(()));
            assert_eq!(check(name, &wrong), Err(other));
        }
        assert_ne!(names.v0, names.v1);
    }
}

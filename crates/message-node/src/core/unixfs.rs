//! Files as trees of blocks: UnixFS in dag-pb. Sources: <https://specs.ipfs.tech/unixfs/>,
//! <https://ipld.io/specs/codecs/dag-pb/spec/>.
//!
//! ```text
//!            root: links, how many bytes are below each
//!           ╱  ╲
//!       node    node        … at most MAX_DEPTH levels
//!      ╱  ╲      │
//!   leaf  leaf  leaf        the bytes of the file, from left to right
//! ```
//! A small tree can stand for very many bytes, because blocks may occur in it more than once. So the walk counts.

use bytes::Bytes;
use prost::encoding::{DecodeContext, decode_key, skip_field};
use prost::{DecodeError, Message};
use protocol::{FileName, FileNameError};

/// Levels of a tree. Those of kubo with 174 links a node have 3 levels up to 7 GiB.
const MAX_DEPTH: usize = 16;
/// Links of a node. Kubo makes 174 or 1024.
const MAX_LINKS: usize = 8192;
/// Nodes that are looked at. In chunks of 256 KiB they are 64 GiB.
const MAX_VISITS: usize = 262_144;

/// What is wrong with a tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TreeError {
    /// It holds several files.
    #[error(
        "the CID names a directory, and this message node keeps files only: upload the files one by one, or as one archive"
    )]
    Directory,
    /// Something else than a file.
    #[error("the CID names no file, but UnixFS data of type {0}")]
    Kind(i32),
    /// A node that is none.
    #[error("the node {0} of the tree cannot be read: {1}")]
    Malformed(FileName, String),
    /// It is not as long as its parent says, or the parts of it as it says.
    #[error("the node {0} of the tree does not hold as many bytes as is said of it")]
    Length(FileName),
    /// Too many levels, links or nodes.
    #[error("the tree has more than {0}")]
    TooLarge(&'static str),
    /// A link to nothing.
    #[error("a link of the tree is no CID of a file: {0}")]
    Link(#[from] FileNameError),
}

/// A node as it is written (dag-pb).
#[derive(Clone, PartialEq, Message)]
struct PbNode {
    #[prost(message, repeated, tag = "2")]
    links: Vec<PbLink>,
    #[prost(bytes = "bytes", optional, tag = "1")]
    data: Option<Bytes>,
}

/// The field of a node that is a link.
const LINKS: u32 = 2;

/// How often a field occurs, without reading what is in it.
fn count(mut bytes: Bytes, field: u32) -> Result<usize, DecodeError> {
    let mut found = 0;
    while !bytes.is_empty() {
        let (tag, wire_type) = decode_key(&mut bytes)?;
        skip_field(wire_type, tag, &mut bytes, DecodeContext::default())?;
        found += usize::from(tag == field);
    }
    Ok(found)
}

/// A link as it is written. Its name and the size of what it leads to are of no use here.
#[derive(Clone, PartialEq, Message)]
struct PbLink {
    #[prost(bytes = "bytes", optional, tag = "1")]
    hash: Option<Bytes>,
}

/// What a node says of itself (UnixFS).
#[derive(Clone, PartialEq, Message)]
struct PbData {
    #[prost(int32, required, tag = "1")]
    kind: i32,
    #[prost(bytes = "bytes", optional, tag = "2")]
    data: Option<Bytes>,
    #[prost(uint64, optional, tag = "3")]
    filesize: Option<u64>,
    #[prost(uint64, repeated, packed = "false", tag = "4")]
    blocksizes: Vec<u64>,
}

/// Kinds of UnixFS data.
mod kind {
    pub(super) const RAW: i32 = 0;
    pub(super) const DIRECTORY: i32 = 1;
    pub(super) const FILE: i32 = 2;
    pub(super) const SHARD: i32 = 5;
}

/// A node of a file.
#[derive(Debug, PartialEq)]
struct Node {
    data: Bytes,
    /// What comes after the data, and how many bytes each link leads to.
    links: Vec<(FileName, u64)>,
    bytes: u64,
}

impl Node {
    fn read(name: FileName, block: Bytes) -> Result<Self, TreeError> {
        if let FileName::Sha256(_) = name {
            return Ok(Self { bytes: block.len() as u64, data: block, links: Vec::new() });
        }
        let malformed = |why: String| TreeError::Malformed(name, why);
        // A link may be written in two bytes and takes twenty times as many when it is read.
        if count(block.clone(), LINKS).map_err(|e| malformed(e.to_string()))? > MAX_LINKS {
            return Err(TreeError::TooLarge("8192 links in a node"));
        }
        let node = PbNode::decode(block).map_err(|e| malformed(e.to_string()))?;
        let data = node.data.ok_or_else(|| malformed("it has no data".to_owned()))?;
        let data = PbData::decode(data).map_err(|e| malformed(e.to_string()))?;
        match data.kind {
            kind::FILE | kind::RAW => {}
            kind::DIRECTORY | kind::SHARD => return Err(TreeError::Directory),
            other => return Err(TreeError::Kind(other)),
        }
        if node.links.len() != data.blocksizes.len() {
            return Err(malformed(format!("{} links, {} sizes", node.links.len(), data.blocksizes.len())));
        }
        let content = data.data.unwrap_or_default();
        let bytes = data.blocksizes.iter().try_fold(content.len() as u64, |sum, size| sum.checked_add(*size));
        let bytes =
            bytes.filter(|bytes| data.filesize.is_none_or(|said| said == *bytes)).ok_or(TreeError::Length(name))?;
        let links = node.links.iter().zip(data.blocksizes).map(|(link, size)| {
            let hash = link.hash.as_deref().unwrap_or_default();
            Ok((FileName::read_cid(&mut &*hash)?, size))
        });
        Ok(Self { data: content, links: links.collect::<Result<_, TreeError>>()?, bytes })
    }
}

/// The way through a tree, from the first byte of the file to the last.
#[derive(Debug)]
pub(crate) struct Walk {
    /// What is to be looked at, the next one last: its level, and how many bytes are said to be below it.
    ahead: Vec<(FileName, usize, Option<u64>)>,
    visits: usize,
}

impl Walk {
    /// Begins at a root.
    pub(crate) fn new(root: FileName) -> Self {
        Self { ahead: vec![(root, 1, None)], visits: 0 }
    }

    /// The block that is needed next; `None` at the end of the file.
    pub(crate) fn needs(&self) -> Option<FileName> {
        self.ahead.last().map(|(name, ..)| *name)
    }

    /// Takes the block that was needed, which was checked against its name, and gives the bytes of the file that come next.
    ///
    /// # Errors
    /// [`TreeError`]; the walk ends then.
    ///
    /// # Panics
    /// When none is needed.
    pub(crate) fn visit(&mut self, block: Bytes) -> Result<Bytes, TreeError> {
        let (name, depth, said) = self.ahead.pop().expect("a block is needed");
        self.visits += 1;
        if self.visits > MAX_VISITS {
            return Err(TreeError::TooLarge("262144 nodes"));
        }
        let node = Node::read(name, block)?;
        if said.is_some_and(|said| said != node.bytes) {
            return Err(TreeError::Length(name));
        }
        if depth >= MAX_DEPTH && !node.links.is_empty() {
            return Err(TreeError::TooLarge("16 levels"));
        }
        self.ahead.extend(node.links.into_iter().rev().map(|(name, bytes)| (name, depth + 1, Some(bytes))));
        Ok(node.data)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::car::tests::cid_of;
    use super::*;
    use protocol::FileHash;
    use std::collections::HashMap;

    pub(crate) const RAW_CODEC: u8 = 0x55;
    pub(crate) const DAG_PB_CODEC: u8 = 0x70;

    /// A node with links, each with how many bytes are below it.
    pub(crate) fn node(kind: i32, data: &[u8], links: &[(Vec<u8>, u64)]) -> Vec<u8> {
        let bytes = data.len() as u64 + links.iter().map(|(_, bytes)| bytes).sum::<u64>();
        node_that_says(kind, data, links, bytes)
    }

    fn node_that_says(kind: i32, data: &[u8], links: &[(Vec<u8>, u64)], bytes: u64) -> Vec<u8> {
        let unixfs = PbData {
            kind,
            data: (!data.is_empty()).then(|| Bytes::copy_from_slice(data)),
            filesize: Some(bytes),
            blocksizes: links.iter().map(|(_, bytes)| *bytes).collect(),
        };
        let links = links.iter().map(|(cid, _)| PbLink { hash: Some(cid.clone().into()) }).collect();
        PbNode { links, data: Some(unixfs.encode_to_vec().into()) }.encode_to_vec()
    }

    fn name(cid: &[u8]) -> FileName {
        FileName::read_cid(&mut &*cid).unwrap()
    }

    /// The file whose root is the last of these blocks.
    fn file(blocks: &[(u8, &[u8])]) -> Result<Vec<u8>, TreeError> {
        let named = blocks.iter().map(|(codec, block)| (name(&cid_of(*codec, block)), Bytes::copy_from_slice(block)));
        let found: HashMap<_, _> = named.collect();
        let (codec, root) = blocks.last().unwrap();
        let (mut walk, mut bytes) = (Walk::new(name(&cid_of(*codec, root))), Vec::new());
        while let Some(name) = walk.needs() {
            bytes.extend_from_slice(&walk.visit(found[&name].clone())?);
        }
        Ok(bytes)
    }

    #[test]
    fn a_tree_is_its_leaves_from_left_to_right() {
        let wrapped = node(kind::FILE, b"wrapped ", &[]);
        let inner = node(kind::FILE, b"", &[(cid_of(RAW_CODEC, b"raw "), 4), (cid_of(DAG_PB_CODEC, &wrapped), 8)]);
        let cid = cid_of(DAG_PB_CODEC, &inner);
        let root = node(kind::FILE, b"own ", &[(cid.clone(), 12), (cid_of(RAW_CODEC, b"raw "), 4), (cid, 12)]);
        let blocks: &[(u8, &[u8])] =
            &[(RAW_CODEC, b"raw "), (DAG_PB_CODEC, &wrapped), (DAG_PB_CODEC, &inner), (DAG_PB_CODEC, &root)];
        assert_eq!(file(blocks).unwrap(), b"own raw wrapped raw raw wrapped ");
        assert_eq!(file(&[(RAW_CODEC, b"one block")]).unwrap(), b"one block");
        assert_eq!(file(&[(DAG_PB_CODEC, &node(kind::RAW, b"old leaf", &[]))]).unwrap(), b"old leaf");
        assert_eq!(file(&[(DAG_PB_CODEC, &node(kind::FILE, b"", &[]))]).unwrap(), b"");
    }

    #[test]
    fn what_is_no_file_is_called_by_its_name() {
        let of = |kind| file(&[(DAG_PB_CODEC, &node(kind, b"", &[]))]);
        assert_eq!(of(kind::DIRECTORY), Err(TreeError::Directory));
        assert_eq!(of(kind::SHARD), Err(TreeError::Directory));
        assert_eq!(of(4), Err(TreeError::Kind(4)), "a link to another file");
        assert!(matches!(file(&[(DAG_PB_CODEC, b"\xff\xff")]), Err(TreeError::Malformed(..))));
        assert!(matches!(file(&[(DAG_PB_CODEC, b"")]), Err(TreeError::Malformed(..))), "no data");
        let bad_link = node(kind::FILE, b"", &[(b"no cid".to_vec(), 3)]);
        assert!(matches!(file(&[(DAG_PB_CODEC, &bad_link)]), Err(TreeError::Link(_))));
    }

    #[test]
    fn lengths_are_true() {
        let leaf = cid_of(RAW_CODEC, b"leaf");
        let short = node(kind::FILE, b"", &[(leaf.clone(), 3)]);
        let wrong = file(&[(RAW_CODEC, b"leaf"), (DAG_PB_CODEC, &short)]);
        assert_eq!(wrong, Err(TreeError::Length(FileHash::of(b"leaf").into())));
        let boasting = node_that_says(kind::FILE, b"data", &[], 5);
        assert!(matches!(file(&[(DAG_PB_CODEC, &boasting)]), Err(TreeError::Length(_))));
        let endless = node_that_says(kind::FILE, b"", &[(leaf.clone(), u64::MAX), (leaf, 2)], 1);
        assert!(matches!(file(&[(DAG_PB_CODEC, &endless)]), Err(TreeError::Length(_))));
    }

    #[test]
    fn small_trees_that_stand_for_much_are_not_walked_to_the_end() {
        // Every level has two links to the one below, with nothing at the end: 2^15 leaves in 15 blocks, and more with more links.
        let tower = |levels: usize, links: usize| {
            let mut blocks = vec![node(kind::FILE, b"", &[])];
            for _ in 0..levels {
                let cid = cid_of(DAG_PB_CODEC, blocks.last().unwrap());
                blocks.push(node(kind::FILE, b"", &vec![(cid, 0); links]));
            }
            let blocks: Vec<_> = blocks.iter().map(|block| (DAG_PB_CODEC, block.as_slice())).collect();
            file(&blocks)
        };
        assert_eq!(tower(3, 2).unwrap(), b"");
        assert_eq!(tower(16, 1), Err(TreeError::TooLarge("16 levels")));
        assert_eq!(tower(10, 10), Err(TreeError::TooLarge("262144 nodes")));
        assert_eq!(tower(1, MAX_LINKS + 1), Err(TreeError::TooLarge("8192 links in a node")));
        let empty_links = [0x12, 0].repeat(1 << 20);
        assert_eq!(file(&[(DAG_PB_CODEC, &empty_links)]), Err(TreeError::TooLarge("8192 links in a node")));
    }
}

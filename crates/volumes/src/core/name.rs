//! Names of volumes. They are data that a program's owner chose, never paths.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// What a program's owner called a volume: any text, also an empty one or one with `/`, `..` or NUL in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VolumeName(String);

/// A name that is too long to be kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the name of a volume has {0} bytes; give it one of at most {max}", max = VolumeName::MAX_BYTES)]
pub struct NameTooLong(pub usize);

impl VolumeName {
    /// The longest name, in bytes of UTF-8.
    pub const MAX_BYTES: usize = 4096;

    /// The longest name that a folder gets for people to read, in bytes.
    const MAX_PLAIN: usize = 100;

    /// The name with this text.
    ///
    /// # Errors
    /// When it has more than [`VolumeName::MAX_BYTES`].
    pub fn new(text: impl Into<String>) -> Result<Self, NameTooLong> {
        let text = text.into();
        if text.len() > Self::MAX_BYTES { Err(NameTooLong(text.len())) } else { Ok(Self(text)) }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the volume's folder: the first half of the name's SHA-256, so that no name reaches outside, and two
    /// names share a folder only for who can find collisions of 128 bits, and then within one program.
    pub fn key(&self) -> VolumeKey {
        VolumeKey(hex::encode(&Sha256::digest(&self.0)[..16]))
    }

    /// The name of the volume's top folder in an archive for people: its own name where that is a plain one, its key
    /// otherwise. No two volumes of a program have the same, and none has a meaning to `tar` or a shell.
    pub fn in_archive(&self) -> String {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let starts_plain = self.0.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        // What looks like a key might be another volume's.
        let is_key_like = self.0.len() == 32 && self.0.bytes().all(|b| b.is_ascii_hexdigit());
        let fits = self.0.len() <= Self::MAX_PLAIN;
        if fits && starts_plain && !is_key_like && self.0.chars().all(is_plain) { self.0.clone() } else { self.key().0 }
    }
}

impl TryFrom<String> for VolumeName {
    type Error = NameTooLong;

    fn try_from(text: String) -> Result<Self, NameTooLong> {
        Self::new(text)
    }
}

impl From<VolumeName> for String {
    fn from(name: VolumeName) -> Self {
        name.0
    }
}

/// Quoted and escaped, for people.
impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// The name of a volume's folder: 32 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeKey(String);

impl VolumeKey {
    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VolumeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a volume holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Content {
    /// Files, in a directory that a sandbox mounts.
    #[default]
    Files,
}

/// A volume as its program's message asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSpec {
    /// Its name, unique within the program.
    pub name: VolumeName,
    /// How much it may hold, in MiB; metadata of the file system counts.
    pub size_mib: u64,
    /// What it holds.
    #[serde(default)]
    pub content: Content,
}

impl VolumeSpec {
    /// A volume for files.
    pub fn files(name: VolumeName, size_mib: u64) -> Self {
        Self { name, size_mib, content: Content::Files }
    }

    /// How much it may hold, in bytes.
    pub fn limit_bytes(&self) -> u64 {
        self.size_mib.saturating_mul(1 << 20)
    }
}

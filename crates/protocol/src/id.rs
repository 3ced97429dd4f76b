//! Ids. Each is a type of its own, so that a wrong order of arguments does not compile.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not 64 lower- or upper-case hexadecimal digits.
    #[error("'{0}' is not a hash: expected 64 hexadecimal digits")]
    NotAHash(String),
    /// Not the 52 letters that base32 makes of 32 bytes.
    #[error("'{0}' is not a program's host label: expected 52 letters of base32")]
    NotAHostLabel(String),
}

macro_rules! hash_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// The id with these 32 bytes.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The 32 bytes of the hash.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let mut bytes = [0; 32];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| IdError::NotAHash(text.to_owned()))?;
                Ok(Self(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

hash_id!(
    /// A program: the item hash of its PROGRAM message.
    ProgramId
);
hash_id!(
    /// A compute node: the item hash of the message that registered it, as listed in the `corechannel` aggregate.
    NodeId
);
hash_id!(
    /// The SHA-256 of a file's bytes, the name under which the message node keeps it.
    FileHash
);

impl ProgramId {
    /// The DNS label of the program's URL: lower-case base32 of the 32 bytes without padding, 52 characters.
    pub fn host_label(&self) -> String {
        BASE32_NOPAD.encode(&self.0).to_ascii_lowercase()
    }

    /// The program that a DNS label names.
    ///
    /// # Errors
    /// [`IdError::NotAHostLabel`] when the label is not base32 of 32 bytes.
    pub fn from_host_label(label: &str) -> Result<Self, IdError> {
        BASE32_NOPAD
            .decode(label.to_ascii_uppercase().as_bytes())
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or_else(|| IdError::NotAHostLabel(label.to_owned()))
    }
}

impl FileHash {
    /// The hash of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

/// A number that grows by one each time a persistent program is assigned to a node; never reused. Whoever receives one
/// below the highest it has seen for that program refuses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(u64);

impl Epoch {
    /// The first epoch of a program.
    pub const FIRST: Self = Self(1);

    /// The epoch with this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The epoch of the next assignment.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One run of a machine's kernel (`/proc/sys/kernel/random/boot_id`). Monotonic times of different boots do not compare.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootId(pub String);

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_label_is_52_letters_and_returns_to_the_same_program() {
        let program = ProgramId::from_bytes([0xa7; 32]);
        let label = program.host_label();
        assert_eq!(label.len(), 52);
        assert_eq!(ProgramId::from_host_label(&label), Ok(program));
        assert_eq!(ProgramId::from_host_label(&label.to_uppercase()), Ok(program));
    }

    #[test]
    fn labels_that_are_no_program_are_refused() {
        for label in ["", "www", "aaaa", &"a".repeat(53), &"1".repeat(52)] {
            assert_eq!(ProgramId::from_host_label(label), Err(IdError::NotAHostLabel(label.to_owned())));
        }
    }

    #[test]
    fn ids_are_64_hexadecimal_digits_in_json() {
        let id = FileHash::of(b"");
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(json, "\"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"");
        assert_eq!(serde_json::from_str::<FileHash>(&json).unwrap(), id);
        assert!(serde_json::from_str::<FileHash>("\"e3b0\"").is_err());
    }
}

//! Where a content or file is kept.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a content or file is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum ItemType {
    /// Inside the envelope.
    Inline,
    /// In the message node's file store, under its SHA-256.
    Storage,
    /// On IPFS, under its CID.
    Ipfs,
}

impl fmt::Display for ItemType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inline => "inline",
            Self::Storage => "storage",
            Self::Ipfs => "ipfs",
        })
    }
}

//! The volumes that a program asks for.

use serde::{Deserialize, Serialize};

/// Where a persistent volume's data is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Persistence {
    /// On the node that runs the program.
    Host,
    /// Also in the message node's file store, so that any node can restore it.
    Store,
}

/// A reference to a parent image of a persistent volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParentVolume {
    /// The STORE message.
    #[serde(rename = "ref")]
    pub reference: String,
    /// Whether later revisions by the owner count.
    #[serde(default = "yes")]
    pub use_latest: bool,
}

fn yes() -> bool {
    true
}

/// One volume of a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawVolume", into = "RawVolume")]
pub struct Volume {
    /// A remark.
    pub comment: Option<String>,
    /// Where the program sees it.
    pub mount: Option<String>,
    /// What it is.
    pub kind: VolumeKind,
}

/// What a volume is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeKind {
    /// A squashfs image, read-only.
    Immutable {
        /// The STORE message.
        reference: String,
        /// Whether later revisions by the owner count.
        use_latest: bool,
    },
    /// Empty at each start.
    Ephemeral {
        /// Its size in MiB, 1 to 1000.
        size_mib: u64,
    },
    /// Kept between starts.
    Persistent {
        /// Its size in MiB, 1 to 2097152.
        size_mib: u64,
        /// Where it is kept; `host` when the message does not say.
        persistence: Option<Persistence>,
        /// Its name; data, never a path.
        name: Option<String>,
        /// The image it starts from.
        parent: Option<ParentVolume>,
    },
}

/// The longest comment, mount and name of a volume, in characters (aleph-message 1.7).
const MAX_LABEL_CHARS: usize = 256;

/// All fields of the three kinds, told apart by which are there: the JSON has no tag.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawVolume {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    comment: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mount: Option<String>,
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    reference: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    use_latest: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ephemeral: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parent: Option<ParentVolume>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    persistence: Option<Persistence>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    size_mib: Option<u64>,
}

impl TryFrom<RawVolume> for Volume {
    type Error = String;

    fn try_from(raw: RawVolume) -> Result<Self, String> {
        for label in [&raw.comment, &raw.mount, &raw.name].into_iter().flatten() {
            if label.chars().count() > MAX_LABEL_CHARS {
                return Err(format!("a volume's comment, mount and name have at most {MAX_LABEL_CHARS} characters"));
            }
        }
        let size = |most: u64| match raw.size_mib {
            Some(size) if (1..=most).contains(&size) => Ok(size),
            Some(size) => Err(format!("size_mib is {size}: expected 1 to {most}")),
            None => Err("size_mib is missing".to_owned()),
        };
        let kind = if let Some(reference) = raw.reference {
            if raw.ephemeral.is_some()
                || raw.persistence.is_some()
                || raw.name.is_some()
                || raw.size_mib.is_some()
                || raw.parent.is_some()
            {
                return Err("a volume with `ref` is immutable: it has only `ref`, `use_latest`, `mount` and `comment`"
                    .to_owned());
            }
            VolumeKind::Immutable { reference, use_latest: raw.use_latest.unwrap_or(true) }
        } else if raw.use_latest.is_some() {
            return Err("`use_latest` needs `ref`".to_owned());
        } else if let Some(ephemeral) = raw.ephemeral {
            if !ephemeral || raw.persistence.is_some() || raw.name.is_some() || raw.parent.is_some() {
                return Err(
                    "an ephemeral volume has `ephemeral: true`, `size_mib`, `mount` and `comment`, nothing else"
                        .to_owned(),
                );
            }
            VolumeKind::Ephemeral { size_mib: size(1000)? }
        } else {
            VolumeKind::Persistent {
                size_mib: size(2_097_152)?,
                persistence: raw.persistence,
                name: raw.name,
                parent: raw.parent,
            }
        };
        Ok(Self { comment: raw.comment, mount: raw.mount, kind })
    }
}

impl From<Volume> for RawVolume {
    fn from(volume: Volume) -> Self {
        let common = Self { comment: volume.comment, mount: volume.mount, ..Self::default() };
        match volume.kind {
            VolumeKind::Immutable { reference, use_latest } => {
                Self { reference: Some(reference), use_latest: Some(use_latest), ..common }
            }
            VolumeKind::Ephemeral { size_mib } => Self { ephemeral: Some(true), size_mib: Some(size_mib), ..common },
            VolumeKind::Persistent { size_mib, persistence, name, parent } => {
                Self { size_mib: Some(size_mib), persistence, name, parent, ..common }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_apart_and_return_to_the_same_json() {
        for json in [
            r#"{"mount":"/lib","ref":"aa","use_latest":false}"#,
            r#"{"mount":"/tmp/x","ephemeral":true,"size_mib":5}"#,
            r#"{"mount":"/data","persistence":"host","name":"db","size_mib":10}"#,
            r#"{"parent":{"ref":"aa","use_latest":true},"size_mib":10}"#,
        ] {
            let volume: Volume = serde_json::from_str(json).unwrap();
            assert_eq!(serde_json::to_string(&volume).unwrap(), json);
        }
    }

    #[test]
    fn mixed_or_oversized_volumes_are_refused() {
        for json in [
            r"{}",
            r#"{"ref":"aa","size_mib":5}"#,
            r#"{"ephemeral":true,"size_mib":1001}"#,
            r#"{"ephemeral":true,"size_mib":5,"name":"x"}"#,
            r#"{"ephemeral":false,"size_mib":5}"#,
            r#"{"size_mib":0}"#,
            r#"{"size_mib":2097153}"#,
            r#"{"size_mib":5,"colour":"red"}"#,
            r#"{"size_mib":5,"persistence":"moon"}"#,
        ] {
            assert!(serde_json::from_str::<Volume>(json).is_err(), "{json}");
        }
        let long = format!(r#"{{"size_mib":5,"name":"{}"}}"#, "n".repeat(300));
        assert!(serde_json::from_str::<Volume>(&long).is_err());
    }
}

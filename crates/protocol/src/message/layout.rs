//! Where a program sees its volumes. The message format allows any text as name and mount; this says which of them mean
//! something.

use std::collections::BTreeSet;

use super::{Volume, VolumeKind};

/// What programs find in every sandbox; no volume may cover it or lie in it.
const RESERVED: [&str; 6] = ["/opt/code", "/opt/aleph", "/opt/aleph-api", "/proc", "/sys", "/dev"];

/// Why volumes cannot be mounted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Immutable and ephemeral volumes have nothing else that says where they go.
    #[error("volume {0} has neither `mount` nor `name`: say where the program shall see it")]
    NoMount(usize),
    /// No path.
    #[error("{mount:?} is no place for a volume: a mount is an absolute path without `..`")]
    NotAPath {
        /// What the message says.
        mount: String,
    },
    /// It would hide what belongs to the sandbox.
    #[error("a volume cannot be mounted at {mount}: it would cover or lie in {reserved}")]
    Reserved {
        /// Where it would go.
        mount: String,
        /// What is there.
        reserved: &'static str,
    },
    /// Two at one place.
    #[error("two volumes are mounted at {0}")]
    SameMount(String),
    /// Two of one name.
    #[error("two persistent volumes are named {0:?}")]
    SameName(String),
}

/// A volume with the place where the program sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedVolume {
    /// An absolute path without `.`, `..`, empty parts or a slash at the end.
    pub mount: String,
    /// The name of a persistent volume, made up as upstream does if the message has none. Data, never a path.
    pub name: Option<String>,
    /// What it is.
    pub kind: VolumeKind,
}

/// Where a program's volumes go, in the order in which they have to be mounted: one that lies in another after it.
///
/// A volume without a mount goes to `/mnt/<name>`, a persistent one without a name is called `unamed_volume_<number>`, as
/// aleph-vm has it (`vm/volumes.py`).
///
/// # Errors
/// [`LayoutError`] for the first volume that has no place.
pub fn place_volumes(volumes: &[Volume]) -> Result<Vec<PlacedVolume>, LayoutError> {
    let (mut names, mut mounts, mut placed) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for (number, volume) in volumes.iter().enumerate() {
        let name = match &volume.kind {
            VolumeKind::Persistent { name, .. } => {
                let name = name.clone().filter(|name| !name.is_empty());
                Some(name.unwrap_or_else(|| format!("unamed_volume_{number}")))
            }
            VolumeKind::Immutable { .. } | VolumeKind::Ephemeral { .. } => None,
        };
        if let Some(name) = name.iter().find(|name| !names.insert((*name).clone())) {
            return Err(LayoutError::SameName(name.clone()));
        }
        let mount = match (volume.mount.as_deref().filter(|mount| !mount.is_empty()), &name) {
            (Some(mount), _) => path(mount)?,
            (None, Some(name)) => path(&format!("/mnt/{name}"))?,
            (None, None) => return Err(LayoutError::NoMount(number)),
        };
        if !mounts.insert(mount.clone()) {
            return Err(LayoutError::SameMount(mount));
        }
        placed.push(PlacedVolume { mount, name, kind: volume.kind.clone() });
    }
    placed.sort_by_key(|volume| volume.mount.matches('/').count());
    Ok(placed)
}

/// The path without its ornaments.
fn path(mount: &str) -> Result<String, LayoutError> {
    let parts: Vec<_> = mount.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if !mount.starts_with('/') || mount.contains('\0') || parts.contains(&"..") {
        return Err(LayoutError::NotAPath { mount: mount.to_owned() });
    }
    let mount = format!("/{}", parts.join("/"));
    let lies_in = |inner: &str, outer: &str| {
        inner.strip_prefix(outer.trim_end_matches('/')).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    match RESERVED.into_iter().find(|reserved| lies_in(&mount, reserved) || lies_in(reserved, &mount)) {
        Some(reserved) => Err(LayoutError::Reserved { mount, reserved }),
        None => Ok(mount),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(mount: Option<&str>, name: Option<&str>) -> Volume {
        let name = name.map(ToOwned::to_owned);
        let kind = VolumeKind::Persistent { size_mib: 1, persistence: None, name, parent: None };
        Volume { comment: None, mount: mount.map(ToOwned::to_owned), kind }
    }

    fn ephemeral(mount: Option<&str>) -> Volume {
        let mount = mount.map(ToOwned::to_owned);
        Volume { comment: None, mount, kind: VolumeKind::Ephemeral { size_mib: 1 } }
    }

    fn one(mount: &str) -> Result<String, LayoutError> {
        place_volumes(&[volume(Some(mount), Some("a"))]).map(|placed| placed[0].mount.clone())
    }

    #[test]
    fn mounts_are_absolute_paths_in_one_spelling() {
        assert_eq!(one("/data").unwrap(), "/data");
        assert_eq!(one("//var/./lib//db/").unwrap(), "/var/lib/db");
        for bad in ["data", "./data", "/a/../../etc", "/a/..", "/nul\0byte"] {
            assert_eq!(one(bad), Err(LayoutError::NotAPath { mount: bad.to_owned() }), "{bad:?}");
        }
    }

    #[test]
    fn what_belongs_to_the_sandbox_is_not_covered() {
        for bad in ["/", "//", "/opt", "/opt/code", "/opt/code/lib", "/opt/aleph/x", "/proc/self", "/dev", "/sys/"] {
            assert!(matches!(one(bad), Err(LayoutError::Reserved { .. })), "{bad}");
        }
        for good in ["/opt/codec", "/opt/packages", "/devices", "/etc"] {
            assert!(one(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn what_the_message_leaves_out_is_made_up_as_upstream_does() {
        let placed = place_volumes(&[volume(None, Some("db")), volume(Some("/x"), None), volume(None, None)]).unwrap();
        let seen: Vec<_> = placed.iter().map(|v| (v.mount.as_str(), v.name.as_deref().unwrap())).collect();
        assert_eq!(seen, [("/x", "unamed_volume_1"), ("/mnt/db", "db"), ("/mnt/unamed_volume_2", "unamed_volume_2")]);
        assert_eq!(place_volumes(&[ephemeral(None)]), Err(LayoutError::NoMount(0)));
    }

    #[test]
    fn names_are_data_and_become_no_path() {
        let placed = place_volumes(&[volume(Some("/data"), Some("../../etc/passwd"))]).unwrap();
        assert_eq!(placed[0].name.as_deref(), Some("../../etc/passwd"));
        assert!(matches!(place_volumes(&[volume(None, Some("../x"))]), Err(LayoutError::NotAPath { .. })));
    }

    #[test]
    fn two_of_one_name_or_at_one_place_are_refused() {
        let same_name = [volume(Some("/a"), Some("x")), volume(Some("/b"), Some("x"))];
        assert_eq!(place_volumes(&same_name), Err(LayoutError::SameName("x".into())));
        let same_mount = [volume(Some("/a/"), Some("x")), ephemeral(Some("/a"))];
        assert_eq!(place_volumes(&same_mount), Err(LayoutError::SameMount("/a".into())));
    }

    #[test]
    fn one_that_lies_in_another_is_mounted_after_it() {
        let placed = place_volumes(&[ephemeral(Some("/a/b/c")), ephemeral(Some("/z")), ephemeral(Some("/a/b"))]);
        let mounts: Vec<_> = placed.unwrap().into_iter().map(|volume| volume.mount).collect();
        assert_eq!(mounts, ["/z", "/a/b", "/a/b/c"]);
    }
}

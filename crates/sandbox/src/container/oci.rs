//! The OCI runtime's configuration of a sandbox (runtime-spec 1.0): what a program can see and do, as far as that is the same
//! whatever stands between it and the machine.

use guest::{API_DIRECTORY, GUEST_DIRECTORY};
use serde_json::{Value, json};

use super::IDS_PER_CONTAINER;
use crate::layout::SandboxDirectory;
use crate::spec::ContainerSpec;

/// How many files a program may have open, if the machine allows as many.
const MAX_OPEN_FILES: u64 = 16_384;

/// The configuration; what makes it begins here and says the rest.
pub(super) fn config(name: &str, spec: &ContainerSpec, directory: &SandboxDirectory) -> Value {
    let ids = json!([{ "containerID": 0, "hostID": spec.first_uid, "size": IDS_PER_CONTAINER }]);
    let files = open_files();
    json!({
        "ociVersion": "1.0.2",
        "hostname": name,
        "root": { "path": directory.path().join("rootfs"), "readonly": false },
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": [format!("{GUEST_DIRECTORY}/aleph-init")],
            "env": ["PATH=/usr/bin:/bin"],
            "cwd": "/",
            "capabilities": { "bounding": [], "effective": [], "permitted": [], "inheritable": [], "ambient": [] },
            "noNewPrivileges": true,
            "rlimits": [
                { "type": "RLIMIT_NOFILE", "soft": files, "hard": files },
                { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 },
            ],
        },
        "mounts": mounts(directory),
        "linux": {
            "namespaces": [{ "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "uts" }, { "type": "user" }],
            "uidMappings": ids,
            "gidMappings": ids,
        },
    })
}

/// Adds to a list in the configuration.
pub(super) fn add(list: &mut Value, more: Value) {
    let (Some(list), Value::Array(more)) = (list.as_array_mut(), more) else { unreachable!("both are lists") };
    list.extend(more);
}

fn mounts(directory: &SandboxDirectory) -> Value {
    let guest = directory.path().join("guest");
    json!([
        { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] },
        { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
          "options": ["nosuid", "strictatime", "mode=755", "size=64k"] },
        { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
          "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"] },
        { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
          "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=64m"] },
        { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"] },
        { "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"] },
        { "destination": GUEST_DIRECTORY, "type": "bind", "source": guest,
          "options": ["bind", "ro", "nosuid", "nodev"] },
        { "destination": API_DIRECTORY, "type": "bind", "source": directory.api(),
          "options": ["bind", "ro", "nosuid", "nodev", "noexec"] },
    ])
}

/// [`MAX_OPEN_FILES`], or as many as this process may give.
fn open_files() -> u64 {
    let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    hard.map_or(MAX_OPEN_FILES, |hard| hard.min(MAX_OPEN_FILES))
}

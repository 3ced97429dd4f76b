//! What the supervisor cannot do from outside, because the sandbox has a kernel of its own: its name, its mounts, its files.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aleph_guest::{API_DIRECTORY, API_LINK, API_SOCKET, Placed, SetUp};
use rustix::mount::mount_bind;

/// Makes the sandbox what the program expects. The program has not been started, so nothing here is misled by its links.
pub(crate) fn set_up(wanted: &SetUp) -> io::Result<()> {
    during("name the sandbox", rustix::system::sethostname(wanted.host_name.as_bytes()).map_err(io::Error::from))?;
    // Before the volumes: what is written here is no volume's.
    if !wanted.name_servers.is_empty() {
        during("write /etc/resolv.conf", write_name_servers(wanted))?;
    }
    for Placed { from, to } in &wanted.mounts {
        let mount = fs::create_dir_all(to).and_then(|()| Ok(mount_bind(from, to)?));
        during(&format!("mount {}", to.display()), mount)?;
    }
    // After the volumes, one of which may be there. If that one is full or cannot be written to, the program starts all the
    // same: it finds the API at its other place.
    if let Err(e) = link_api() {
        eprintln!("cannot link {API_LINK}: {e}");
    }
    Ok(())
}

fn during<T>(what: &str, result: io::Result<T>) -> io::Result<T> {
    result.map_err(|e| io::Error::new(e.kind(), format!("cannot {what}: {e}")))
}

fn write_name_servers(wanted: &SetUp) -> io::Result<()> {
    let path = Path::new("/etc/resolv.conf");
    remove(path)?;
    let lines = wanted.name_servers.iter().map(|server| format!("nameserver {server}\n"));
    fs::write(path, lines.collect::<String>())
}

/// Makes the guest API be where programs expect it.
fn link_api() -> io::Result<()> {
    let (link, socket) = (Path::new(API_LINK), PathBuf::from(API_DIRECTORY).join(API_SOCKET));
    if fs::read_link(link).is_ok_and(|there| there == socket) {
        return Ok(());
    }
    fs::create_dir_all(link.parent().expect("it is in a directory"))?;
    remove(link)?;
    std::os::unix::fs::symlink(&socket, link)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

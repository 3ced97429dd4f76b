//! Work that must be done in another namespace, by a child process for the moment: this process has one thread, so it can
//! fork safely and go on using Rust in the child.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use guest::{API_DIRECTORY, API_LINK, API_SOCKET};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, set_parent_process_death_signal, waitpid};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use super::mounts;

/// What is done inside a container when it is claimed.
pub(super) struct Inside {
    /// Its new host name.
    pub(super) host_name: String,
    /// Code and volumes, mounted nowhere yet, each with the place where it goes.
    pub(super) mounts: Vec<(OwnedFd, PathBuf)>,
    /// The id that owns what is made there.
    pub(super) owner: u32,
    /// What `/etc/resolv.conf` will say.
    pub(super) name_servers: Vec<Ipv4Addr>,
}

/// A user namespace in which `first` and the ids after it are 0 and up. It is used to map ids in mounts, nothing runs in
/// it.
pub(super) fn user_namespace(first: u32, count: u32) -> io::Result<OwnedFd> {
    let (mut unshared, tell_unshared) = io::pipe()?;
    let child = fork(0, || {
        // SAFETY: the child has one thread.
        unsafe { unshare_unsafe(UnshareFlags::NEWUSER) }?;
        (&tell_unshared).write_all(&[0])?;
        // Holds the namespace until it is killed.
        loop {
            std::thread::park();
        }
    })?;
    drop(tell_unshared);
    let mut open = || {
        unshared.read_exact(&mut [0])?;
        let pid = child.as_raw_nonzero();
        for file in ["uid_map", "gid_map"] {
            fs::write(format!("/proc/{pid}/{file}"), format!("0 {first} {count}"))?;
        }
        Ok(OwnedFd::from(File::open(format!("/proc/{pid}/ns/user"))?))
    };
    let namespace = open();
    kill_process(child, Signal::KILL)?;
    waitpid(Some(child), WaitOptions::empty())?;
    namespace
}

/// Gives a container its host name, name servers, code and volumes.
pub(super) fn set_up_inside(init: Pid, inside: &Inside) -> io::Result<()> {
    let namespace = |kind: &str| File::open(format!("/proc/{}/ns/{kind}", init.as_raw_nonzero()));
    let (uts, mounts_of_init) = (namespace("uts")?, namespace("mnt")?);
    in_child(|| {
        move_into_link_name_space(uts.as_fd(), Some(LinkNameSpaceType::HostNameAndNISDomainName))?;
        rustix::system::sethostname(inside.host_name.as_bytes())?;
        // From here on `/` is the container's: a link in the image leads nowhere else.
        move_into_link_name_space(mounts_of_init.as_fd(), Some(LinkNameSpaceType::Mount))?;
        // Before the volumes: what is written here is no volume's.
        if !inside.name_servers.is_empty() {
            write_name_servers(&inside.name_servers, inside.owner)?;
        }
        for (mount, at) in &inside.mounts {
            make_directories(at, inside.owner)?;
            mounts::attach(mount.as_fd(), at)?;
        }
        // After the volumes, one of which may be there. If that one is full or cannot be written to, the program starts all
        // the same: it finds the API at its other place.
        if let Err(e) = link_api(inside.owner) {
            eprintln!("cannot link {API_LINK}: {e}");
        }
        Ok(())
    })
}

fn make_directories(path: &Path, owner: u32) -> io::Result<()> {
    for directory in path.ancestors().collect::<Vec<_>>().into_iter().rev().skip(1) {
        // As the container's root, who is who also where ids are mapped: in a volume that this directory lies in.
        match as_owner(owner, || fs::create_dir(directory)) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// Makes files as another user, who owns them then.
fn as_owner<T>(owner: u32, work: impl FnOnce() -> T) -> T {
    let set = |id: u32| {
        // SAFETY: these system calls only change with which ids this thread opens files.
        unsafe { (libc::setfsgid(id), libc::setfsuid(id)) }
    };
    set(owner);
    let result = work();
    set(0);
    result
}

/// Makes the guest API be where programs expect it.
fn link_api(owner: u32) -> io::Result<()> {
    let (link, socket) = (Path::new(API_LINK), Path::new(API_DIRECTORY).join(API_SOCKET));
    if fs::read_link(link).is_ok_and(|there| there == socket) {
        return Ok(());
    }
    make_directories(link.parent().expect("it is in a directory"), owner)?;
    as_owner(owner, || {
        match fs::remove_file(link) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        symlink(&socket, link)
    })
}

fn write_name_servers(servers: &[Ipv4Addr], owner: u32) -> io::Result<()> {
    let path = Path::new("/etc/resolv.conf");
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
    for server in servers {
        writeln!(file, "nameserver {server}")?;
    }
    lchown(path, Some(owner), Some(owner))
}

/// A child of this process that has ended and was not asked how. It can still be.
pub(super) fn ended_child() -> Option<Pid> {
    let mut about = MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: the kernel writes one of these there, and zeros are one as well.
    let about = unsafe {
        libc::waitid(libc::P_ALL, 0, about.as_mut_ptr(), libc::WEXITED | libc::WNOHANG | libc::WNOWAIT);
        about.assume_init()
    };
    // SAFETY: it is about a child, or nothing but zeros.
    Pid::from_raw(unsafe { about.si_pid() })
}

/// Does something in a child process and hands back its error.
fn in_child(work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let (mut error, mut tell_error) = io::pipe()?;
    let child = fork(0, || {
        let result = work();
        if let Err(e) = &result {
            let _ = tell_error.write_all(e.to_string().as_bytes());
        }
        result
    })?;
    drop(tell_error);
    let mut message = String::new();
    error.read_to_string(&mut message)?;
    match waitpid(Some(child), WaitOptions::empty())? {
        Some((_, status)) if status.exit_status() == Some(0) => Ok(()),
        _ => Err(io::Error::other(message)),
    }
}

/// Starts a child process that does this and exits, with 0 if it went well. It dies with this process. It is in new namespaces
/// of these kinds (`CLONE_NEW…`); in a new pid namespace it is process 1, with which everything else in it dies.
pub(super) fn fork(namespaces: libc::c_int, work: impl FnOnce() -> io::Result<()>) -> io::Result<Pid> {
    let flags = libc::c_ulong::try_from(namespaces | libc::SIGCHLD).expect("flags are not negative");
    // SAFETY: this process has one thread, so the child's memory is whole and no lock is held in it. Without a stack of its
    // own it goes on here, as after fork(2).
    match unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let bound = set_parent_process_death_signal(Some(Signal::KILL)).map_err(io::Error::from);
            let code = i32::from(bound.and_then(|()| work()).is_err());
            // SAFETY: ends the child without running the parent's exit handlers.
            unsafe { libc::_exit(code) }
        }
        pid => Ok(i32::try_from(pid).ok().and_then(Pid::from_raw).expect("clone gives process ids to parents")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_childs_error_reaches_the_parent() {
        assert!(in_child(|| Ok(())).is_ok());
        let error = in_child(|| Err(io::Error::other("no luck"))).unwrap_err();
        assert_eq!(error.to_string(), "no luck");
    }

    #[test]
    fn a_user_namespace_can_be_opened() {
        // Needs root, as the supervisor does.
        let namespace = user_namespace(100_000, 65_536).unwrap();
        assert!(rustix::fs::fstat(&namespace).is_ok());
    }
}

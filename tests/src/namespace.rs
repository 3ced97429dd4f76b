//! Network namespaces. They have no names: each vanishes with the last process, thread or socket in it, and its interfaces
//! with it, so that nothing is left of a test, however it ends.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// A network namespace.
#[derive(Debug)]
pub struct Namespace(File);

impl Namespace {
    /// A new one, with nothing but its loopback interface.
    ///
    /// # Panics
    /// When the kernel refuses; the tests need root.
    #[allow(clippy::new_without_default)] // It is made, not an empty value.
    pub fn new() -> Self {
        let made = std::thread::spawn(|| {
            // SAFETY: descriptors are shared as before, and nothing of this thread depends on its network.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("root may make network namespaces");
            File::open("/proc/thread-self/ns/net").expect("a thread has a network namespace")
        });
        let namespace = Self(made.join().expect("it does not panic"));
        namespace.ip("link set lo up");
        namespace
    }

    /// Does something in it, on a thread of its own. Processes that are started meanwhile are in it, too, and sockets that
    /// are opened stay in it.
    ///
    /// # Panics
    /// When the work does.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may enter");
                work()
            });
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Has a command's process run in it, once it is started; it must be started by root.
    ///
    /// # Panics
    /// When there are no descriptors left.
    pub fn host(&self, command: &mut Command) {
        let namespace = self.0.try_clone().expect("a descriptor is left");
        // SAFETY: only a system call that is async-signal-safe.
        unsafe {
            command
                .pre_exec(move || Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?));
        }
    }

    /// Runs `ip` in it.
    ///
    /// # Panics
    /// When it fails.
    pub fn ip(&self, arguments: &str) {
        let output = self.run(|| Command::new("ip").args(arguments.split(' ')).output().expect("ip is installed"));
        assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Connects an interface here with one in another namespace.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn connect(&self, interface: &str, other: &Self, theirs: &str) {
        let there = format!("/proc/{}/fd/{}", std::process::id(), other.0.as_raw_fd());
        self.ip(&format!("link add {interface} type veth peer name {theirs} netns {there}"));
        self.ip(&format!("link set {interface} up"));
        other.ip(&format!("link set {theirs} up"));
    }
}

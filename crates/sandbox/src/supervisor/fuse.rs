//! The fuse: a kernel timer that kills this very process.
//!
//! It works while the process is stopped, hung or starved, and counts the time the machine sleeps. The sandbox's init is
//! bound to this process by its parent-death signal, so the kernel kills the sandbox with it.

use std::io;
use std::mem::MaybeUninit;

use lease::BootTime;

/// An armed timer.
pub(crate) struct Fuse(libc::timer_t);

impl Fuse {
    /// Makes a timer that is not armed yet.
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: sigevent is plain data for which zero is valid; its fields are set right after.
        let mut event: libc::sigevent = unsafe { MaybeUninit::zeroed().assume_init() };
        event.sigev_notify = libc::SIGEV_SIGNAL;
        event.sigev_signo = libc::SIGKILL;
        let mut timer: libc::timer_t = std::ptr::null_mut();
        // SAFETY: both pointers are valid for the call.
        if unsafe { libc::timer_create(libc::CLOCK_BOOTTIME, &raw mut event, &raw mut timer) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(timer))
    }

    /// Has the kernel kill this process at that time, instead of any time set before. A time in the past kills at once.
    #[allow(clippy::cast_possible_wrap)] // Seconds since boot.
    pub(crate) fn arm(&self, at: BootTime) -> io::Result<()> {
        let nanos = at.as_nanos().max(1); // Zero would disarm it.
        let when = libc::timespec { tv_sec: (nanos / 1_000_000_000) as i64, tv_nsec: (nanos % 1_000_000_000) as i64 };
        let never = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let setting = libc::itimerspec { it_interval: never, it_value: when };
        // SAFETY: the timer was made by timer_create, and the setting is valid for the call.
        match unsafe { libc::timer_settime(self.0, libc::TIMER_ABSTIME, &raw const setting, std::ptr::null_mut()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

//! Privileges that the init has until the sandbox is a program's, where it sets the sandbox up itself. They count in the
//! sandbox's own kernel alone.

use std::io;

/// `struct __user_cap_header_struct` of `linux/capability.h`.
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// `struct __user_cap_data_struct`, of which version 3 has two.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const VERSION_3: u32 = 0x2008_0522;

/// One after the last number that a capability can have.
const NUMBERS: libc::c_ulong = 64;

/// Gives up every capability for good, in this process and in all that it starts. It makes system calls only, so that it can
/// be used between fork and exec.
///
/// # Errors
/// What the kernel says.
pub(crate) fn give_up() -> io::Result<()> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    let mut sets = [Sets::default(); 2];
    // SAFETY: both structures are those of the kernel, and live during the call.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) })?;
    if sets != [Sets::default(); 2] {
        for number in 0..NUMBERS {
            // SAFETY: takes numbers only.
            unsafe {
                if libc::prctl(libc::PR_CAPBSET_READ, number, 0, 0, 0) == 1 {
                    check(libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0).into())?;
                }
            }
        }
        // SAFETY: as above.
        check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, [Sets::default(); 2].as_ptr()) })?;
    }
    // SAFETY: takes numbers only.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into())
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

//! A sandbox's way to the internet: a pair of interfaces, made by `ip`. What may pass is decided by the machine's firewall
//! rules, which the agent sets up before any sandbox has a network. The pair vanishes with the sandbox.

use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};

use rustix::process::Pid;

use crate::spec::NetworkSpec;

/// Makes the pair and configures both ends.
pub(super) fn connect(network: &NetworkSpec, init: Pid) -> io::Result<()> {
    let NetworkSpec { interface, gateway, address, .. } = network;
    let pid = init.as_raw_nonzero().to_string();
    run(
        Command::new("ip").args(["-batch", "-"]),
        &format!(
            "link add {interface} type veth peer name eth0 netns {pid}\n\
             address add {gateway}/30 dev {interface}\n\
             link set {interface} up\n"
        ),
    )?;
    run(
        Command::new("nsenter").args(["--net", "--target", &pid, "ip", "-batch", "-"]),
        &format!(
            "address add {address}/30 dev eth0\n\
             link set eth0 up\n\
             route add default via {gateway}\n"
        ),
    )
}

/// Makes this process's network namespace one in which programs reach themselves.
pub(super) fn bring_loopback_up() -> io::Result<()> {
    // SAFETY: `ifreq` is plain data for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(c"lo".to_bytes()) {
        *to = (*from).cast_signed();
    }
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_UP | libc::IFF_RUNNING).expect("both are small");
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // SAFETY: the structure is the one that the kernel defines, and lives during the call.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn run(command: &mut Command, input: &str) -> io::Result<()> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().expect("it was asked for").write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

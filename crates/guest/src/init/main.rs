//! `aleph-init`: process 1 of a sandbox. See the library's documentation for its protocol and states.

mod capabilities;
mod control;
mod program;
mod proxy;
mod set_up;
mod warm;

use std::io;
use std::os::fd::IntoRawFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use aleph_guest::{FromGuest, Interface, LISTEN, LISTENER_FD, ToGuest};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use crate::control::Control;
use crate::program::Program;
use crate::warm::Interpreter;

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("aleph-init: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> io::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|argument| argument == LISTEN)
        && let Some(path) = arguments.next()
    {
        // Before anything else takes its number.
        listen(Path::new(&path))?;
    }
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run())
}

/// Makes the socket that requests enter by, where it cannot be passed.
fn listen(path: &Path) -> io::Result<()> {
    let listener = UnixListener::bind(path)?;
    let descriptor = listener.into_raw_fd();
    if descriptor != LISTENER_FD {
        // SAFETY: both numbers are this function's: nothing else was opened yet.
        if unsafe { libc::dup3(descriptor, LISTENER_FD, libc::O_CLOEXEC) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: as above; it goes on under its other number.
        unsafe { libc::close(descriptor) };
    }
    Ok(())
}

/// Waits to be configured, runs the program, and returns when it ended or the supervisor is gone.
async fn run() -> io::Result<()> {
    let mut control = Control::open()?;
    // Before anything can be started, so that no exit of a child is missed.
    let mut children = signal(SignalKind::child())?;
    control.send(&FromGuest::Waiting).await?;

    let mut interpreter = None;
    let configure = loop {
        match control.receive().await? {
            Some(ToGuest::Configure(configure)) => break configure,
            Some(ToGuest::Warm) => {
                let warmed = Interpreter::warm().await;
                let failure = warmed.as_ref().err().cloned();
                interpreter = warmed.ok();
                control.send(&FromGuest::Warmed { failure }).await?;
            }
            Some(ToGuest::SetUp(wanted)) => {
                if let Err(error) = set_up::set_up(&wanted) {
                    return control.send(&FromGuest::SetUpFailed { message: error.to_string() }).await;
                }
            }
            Some(ToGuest::Stop { .. }) | None => return Ok(()),
        }
    };
    capabilities::give_up()?;
    // From now on the sandbox dies with the supervisor, whatever either of them does.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;

    let mut program = match Program::start(&configure, interpreter).await {
        Ok(program) => program,
        Err((kind, message)) => return control.send(&FromGuest::Failed { kind, message }).await,
    };
    let mut kill_at: Option<Instant> = None;
    loop {
        tokio::select! {
            message = control.receive() => match message? {
                Some(ToGuest::Stop { grace_ms }) => {
                    program.terminate();
                    kill_at = Some(Instant::now() + Duration::from_millis(grace_ms));
                }
                Some(ToGuest::Configure(_) | ToGuest::SetUp(_) | ToGuest::Warm) => {}
                None => return Ok(()),
            },
            event = program.next_event() => {
                if event == FromGuest::Ready && let Interface::Binary { port, .. } = configure.interface {
                    proxy::serve(port)?;
                }
                let failed = matches!(event, FromGuest::Failed { .. });
                control.send(&event).await?;
                if failed {
                    return Ok(());
                }
            }
            _ = children.recv() => {
                if let Some(exited) = program.reap() {
                    // What the program said about its end comes first.
                    if let Some(failed) = program.last_words().await {
                        return control.send(&failed).await;
                    }
                    return control.send(&exited).await;
                }
            }
            () = sleep_until(kill_at.unwrap_or_else(Instant::now)), if kill_at.is_some() => {
                program.kill();
                kill_at = None;
            }
        }
    }
}

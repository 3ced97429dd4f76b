//! The supervisor's shell: one thread, one poll loop. It turns what descriptors bring into events for the core and the
//! core's commands into effects, and decides nothing.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use guest::{FromGuest, ToGuest};
use lease::{BootTime, clock};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::core::{Command, Core, Event};
use super::fuse::Fuse;
use super::output::Output;
use super::peers::Peers;
use crate::container::{ClaimError, Container, GuestChannels};
use crate::layout::SandboxDirectory;
use crate::spec::{ClaimSpec, DriverSpec, End, PrepareSpec, Report, Request};

/// How long one round of killing may take before the loop looks at the rest again.
const KILL_ROUND: Duration = Duration::from_millis(50);

/// Owns the sandbox in this directory until nothing of it runs. Standard input is the listening socket for the agent.
///
/// # Errors
/// When it cannot even begin: the specification is missing, or another supervisor owns the directory.
pub fn run(directory: &Path) -> io::Result<()> {
    let directory = SandboxDirectory::new(directory);
    let mut lock = File::create(directory.lock())?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    write!(lock, "{}", std::process::id())?;
    let spec: PrepareSpec = serde_json::from_slice(&fs::read(directory.spec())?)?;
    // The fuse is armed before there is anything to kill.
    let fuse = Fuse::new()?;
    let (core, commands) = Core::new(spec.deadline);
    // SAFETY: standard input is the agent's gift to this process, and nothing else here uses it.
    let listener = unsafe { UnixListener::from_raw_fd(0) };
    let DriverSpec::Container(container) = spec.driver;
    let mut process = Process {
        container: Container::new(spec.name, container, directory.clone(), spec.warm),
        warm: spec.warm,
        directory,
        core,
        fuse,
        timer: timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?,
        peers: Peers::new(listener)?,
        guest: None,
        output: None,
        claim: None,
        finished: false,
    };
    process.perform(commands);
    process.prepare();
    while !process.finished {
        process.turn()?;
    }
    Ok(())
}

struct Process {
    container: Container,
    /// Whether an interpreter is to wait with it.
    warm: bool,
    directory: SandboxDirectory,
    core: Core,
    fuse: Fuse,
    timer: OwnedFd,
    peers: Peers,
    guest: Option<GuestConnection>,
    output: Option<Output>,
    claim: Option<ClaimSpec>,
    finished: bool,
}

impl Process {
    fn prepare(&mut self) {
        match self.container.prepare() {
            Ok(GuestChannels { control, stdout, stderr }) => {
                self.guest = Some(GuestConnection { stream: control, received: Vec::new() });
                self.output = Some(Output::new(stdout, stderr));
            }
            Err(error) => self.handle(Event::PrepareFailed(error.to_string())),
        }
    }

    /// Waits for something to happen and deals with it.
    fn turn(&mut self) -> io::Result<()> {
        self.set_timer()?;
        let (peers, guest, outputs) = self.wait()?;
        self.container.bury_helpers();
        if peers {
            self.peers.accept(&self.report());
            for request in self.peers.read() {
                self.request(request);
            }
        }
        if let Some(output) = &mut self.output {
            outputs.into_iter().for_each(|index| output.read(index));
        }
        if guest && let Some(connection) = &mut self.guest {
            let (messages, closed) = connection.read();
            for message in messages {
                self.guest_said(message);
            }
            if closed {
                self.guest = None;
                self.handle(Event::GuestClosed);
            }
        }
        self.handle(Event::Tick);
        Ok(())
    }

    fn set_timer(&self) -> io::Result<()> {
        let at = self.core.next_wakeup().unwrap_or(BootTime::BOOT).as_nanos().max(1);
        #[allow(clippy::cast_possible_wrap)] // Seconds since boot.
        let when = Timespec { tv_sec: (at / 1_000_000_000) as i64, tv_nsec: (at % 1_000_000_000) as i64 };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: when };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &once)?;
        Ok(())
    }

    /// Which of peers, guest and outputs have something.
    fn wait(&self) -> io::Result<(bool, bool, Vec<usize>)> {
        let outputs: Vec<_> = self.output.iter().flat_map(Output::open_pipes).collect();
        let mut fds = vec![PollFd::new(&self.timer, PollFlags::IN)];
        fds.extend(outputs.iter().map(|(_, fd)| PollFd::from_borrowed_fd(*fd, PollFlags::IN)));
        fds.extend(self.guest.iter().map(|guest| PollFd::from_borrowed_fd(guest.stream.as_fd(), PollFlags::IN)));
        fds.extend(self.peers.descriptors().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let guest_at = 1 + outputs.len();
        let peers_at = guest_at + usize::from(self.guest.is_some());
        let readable = outputs.iter().zip(&ready[1..]).filter(|(_, ready)| **ready).map(|((i, _), _)| *i).collect();
        Ok((ready[peers_at..].contains(&true), self.guest.is_some() && ready[guest_at], readable))
    }

    fn request(&mut self, request: Request) {
        match request {
            Request::Claim(claim) => {
                let event = Event::Claim {
                    deadline: claim.deadline,
                    ready_within: Duration::from_millis(claim.ready_within_ms),
                };
                if self.claim.is_none() {
                    self.claim = Some(*claim);
                    self.handle(event);
                }
            }
            Request::Renew { deadline } => self.handle(Event::Renew(deadline)),
            Request::Stop { grace_ms } => self.handle(Event::Stop { grace: Duration::from_millis(grace_ms) }),
        }
    }

    fn guest_said(&mut self, message: FromGuest) {
        match message {
            FromGuest::Waiting if self.warm => self.tell_guest(&ToGuest::Warm),
            FromGuest::Waiting => self.handle(Event::Prepared),
            FromGuest::Warmed { failure } => {
                if let Some(failure) = failure {
                    eprintln!("no interpreter waits: {failure}");
                }
                self.handle(Event::Prepared);
            }
            FromGuest::SetUpFailed { message } => self.handle(Event::ClaimFailed(End::SandboxError { message })),
            FromGuest::Ready => {
                self.note("ready");
                self.handle(Event::Guest(FromGuest::Ready));
            }
            other => self.handle(Event::Guest(other)),
        }
    }

    fn handle(&mut self, event: Event) {
        let commands = self.core.handle(clock::now(), event);
        self.perform(commands);
    }

    fn perform(&mut self, commands: Vec<Command>) {
        for command in commands {
            match command {
                Command::SetFuse(at) => self.set_fuse(at),
                Command::Claim => self.make_it_theirs(),
                Command::StopProgram { grace } => {
                    self.wake();
                    let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
                    self.tell_guest(&ToGuest::Stop { grace_ms });
                }
                Command::Kill => self.kill(),
                Command::Report => {
                    let report = self.report();
                    self.peers.tell(&report);
                }
                Command::Finish(end) => self.finish(&end),
            }
        }
    }

    fn set_fuse(&mut self, at: BootTime) {
        if let Err(e) = self.fuse.arm(at) {
            // Without a fuse the promise cannot be kept, so there must be nothing to keep it for.
            eprintln!("cannot set the kernel's timer: {e}");
            self.kill();
            std::process::exit(1);
        }
    }

    fn make_it_theirs(&mut self) {
        let claim = self.claim.clone().expect("the core claims only after a claim arrived");
        if let Some(output) = &mut self.output {
            output.open_log(&claim.logs);
        }
        let epoch = claim.epoch.map_or_else(|| "on demand".to_owned(), |epoch| format!("epoch {epoch}"));
        self.note(&format!("starting ({epoch})"));
        match self.container.claim(&claim) {
            Ok(set_up) => {
                if let Some(set_up) = set_up {
                    self.tell_guest(&ToGuest::SetUp(set_up));
                }
                self.tell_guest(&ToGuest::Configure(claim.configure));
            }
            Err(ClaimError::Code(message)) => self.handle(Event::ClaimFailed(End::BadCode { message })),
            Err(error) => self.handle(Event::ClaimFailed(End::SandboxError { message: error.to_string() })),
        }
    }

    /// Copies on demand are frozen while nobody uses them, and what is frozen cannot end by itself. Who holds a persistent
    /// program still needs it to stay so, and lets it go on after a moment.
    fn wake(&self) {
        if self.claim.as_ref().is_some_and(|claim| claim.epoch.is_none())
            && let Err(e) = self.container.thaw()
        {
            // It is killed when its time is over.
            eprintln!("cannot let the program go on to end: {e}");
        }
    }

    fn tell_guest(&mut self, message: &ToGuest) {
        if let Some(guest) = &mut self.guest
            && let Err(e) = guest.send(message)
        {
            // The end of the socket is noticed when it is read.
            eprintln!("cannot tell the init: {e}");
        }
    }

    fn kill(&mut self) {
        let out_of_memory = self.container.oom_kills() > 0;
        match self.container.kill(KILL_ROUND) {
            Ok(()) => self.handle(Event::Gone { out_of_memory }),
            Err(e) => eprintln!("killing the sandbox: {e}"),
        }
    }

    fn finish(&mut self, end: &End) {
        if let Some(output) = &mut self.output {
            output.drain();
        }
        self.note(&end.sentence());
        self.container.clean_up();
        let written =
            serde_json::to_vec(end).map_err(io::Error::from).and_then(|json| fs::write(self.directory.end(), json));
        if let Err(e) = written {
            eprintln!("cannot write how it ended: {e}");
        }
        self.finished = true;
    }

    fn note(&mut self, message: &str) {
        if let Some(output) = &mut self.output {
            output.note(message);
        }
    }

    fn report(&self) -> Report {
        let (program, epoch) = self.claim.as_ref().map_or((None, None), |claim| (Some(claim.program), claim.epoch));
        Report { state: self.core.state(), program, epoch, ready_at: self.core.ready_at() }
    }
}

/// The control socket to the init.
struct GuestConnection {
    stream: UnixStream,
    received: Vec<u8>,
}

impl GuestConnection {
    fn send(&mut self, message: &ToGuest) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        // Blocking: the init reads at once, and a claim may be larger than the socket's buffer. The fuse guards the wait.
        self.stream.set_nonblocking(false)?;
        self.stream.write_all(&line)?;
        self.stream.set_nonblocking(true)
    }

    /// The messages that arrived, and whether the other side is gone.
    fn read(&mut self) -> (Vec<FromGuest>, bool) {
        let mut buffer = [0; 4096];
        let mut messages = Vec::new();
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return (messages, true),
                Ok(n) => self.received.extend_from_slice(&buffer[..n]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return (messages, false),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return (messages, true),
            }
            while let Some(end) = self.received.iter().position(|b| *b == b'\n') {
                // The program could write here if it broke the init; what cannot be read is not believed.
                messages.extend(serde_json::from_slice::<FromGuest>(&self.received[..end]));
                self.received.drain(..=end);
            }
            if self.received.len() > guest::MAX_MESSAGE_BYTES {
                return (messages, true);
            }
        }
    }
}

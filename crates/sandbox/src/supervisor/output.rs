//! The program's output, from the pipes to its log. A disk that refuses loses lines, never the program.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use protocol::api::compute_node::LogSource;

use crate::logs::{LineSplitter, LogWriter};
use crate::spec::LogSpec;

/// One of the program's two outputs.
struct Pipe {
    source: LogSource,
    fd: Option<OwnedFd>,
    splitter: LineSplitter,
}

/// Both outputs and the log.
pub(crate) struct Output {
    pipes: [Pipe; 2],
    log: Option<LogWriter>,
}

impl Output {
    /// Takes the reading ends of both pipes, which must not block.
    pub(crate) fn new(stdout: OwnedFd, stderr: OwnedFd) -> Self {
        let pipe = |source, fd| Pipe { source, fd: Some(fd), splitter: LineSplitter::default() };
        Self { pipes: [pipe(LogSource::Stdout, stdout), pipe(LogSource::Stderr, stderr)], log: None }
    }

    /// From now on lines go to this log.
    pub(crate) fn open_log(&mut self, spec: &LogSpec) {
        match LogWriter::open(&spec.directory, spec.max_bytes) {
            Ok(log) => self.log = Some(log),
            Err(e) => eprintln!("cannot open the log in {}: {e}", spec.directory.display()),
        }
    }

    /// The pipes that may still bring something.
    pub(crate) fn open_pipes(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>)> {
        self.pipes.iter().enumerate().filter_map(|(i, pipe)| Some((i, pipe.fd.as_ref()?.as_fd())))
    }

    /// Reads what is there, up to 64 KiB so that nothing else waits for long.
    pub(crate) fn read(&mut self, index: usize) {
        let Pipe { source, fd, splitter } = &mut self.pipes[index];
        let Some(pipe) = fd else { return };
        let mut buffer = [0; 64 << 10];
        match rustix::io::read(&*pipe, &mut buffer) {
            Ok(0) => *fd = None,
            Ok(n) => splitter.push(&buffer[..n], |line| append(&mut self.log, *source, line)),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(_) => *fd = None,
        }
    }

    /// Reads what is left when nothing can write any more, and finishes the last lines.
    pub(crate) fn drain(&mut self) {
        for index in 0..self.pipes.len() {
            while self.pipes[index].fd.as_ref().is_some_and(has_data) {
                self.read(index);
            }
            let Pipe { source, splitter, .. } = &mut self.pipes[index];
            splitter.finish(|line| append(&mut self.log, *source, line));
        }
    }

    /// Notes something that happened to the program.
    pub(crate) fn note(&mut self, message: &str) {
        append(&mut self.log, LogSource::System, message.as_bytes());
    }
}

fn has_data(fd: &OwnedFd) -> bool {
    rustix::io::ioctl_fionread(fd).is_ok_and(|bytes| bytes > 0)
}

fn append(log: &mut Option<LogWriter>, source: LogSource, line: &[u8]) {
    if let Some(log) = log
        && let Err(e) = log.write(source, line)
        && e.kind() != io::ErrorKind::StorageFull
    {
        eprintln!("cannot write the log: {e}");
    }
}

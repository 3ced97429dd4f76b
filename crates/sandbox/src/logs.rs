//! A program's output on disk: JSON lines, two files of at most half the allowed size each, kept when the program is gone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use protocol::api::compute_node::LogSource;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

/// The longest line that is kept as one, in bytes; longer ones are cut into several.
pub const MAX_LINE_BYTES: usize = 16 << 10;

/// One line of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Microseconds since 1970.
    #[serde(rename = "t")]
    pub time_micros: u64,
    /// Where it came from.
    #[serde(rename = "f")]
    pub source: LogSource,
    /// The line, without its end.
    #[serde(rename = "m")]
    pub message: String,
}

/// The file that is written to.
pub fn current_file(directory: &Path) -> PathBuf {
    directory.join("log.jsonl")
}

/// The file that was written before it.
pub fn previous_file(directory: &Path) -> PathBuf {
    directory.join("log.previous.jsonl")
}

/// Writes a program's log. Several may write to the same: the copies of a program, or one that ends and the next.
pub struct LogWriter {
    directory: PathBuf,
    max_file_bytes: u64,
    file: File,
}

impl LogWriter {
    /// Opens the log for more lines.
    ///
    /// # Errors
    /// When the directory or file cannot be made.
    pub fn open(directory: &Path, max_bytes: u64) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let file = OpenOptions::new().create(true).append(true).open(current_file(directory))?;
        Ok(Self { directory: directory.to_owned(), max_file_bytes: max_bytes / 2, file })
    }

    /// Adds a line.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn write(&mut self, source: LogSource, message: &[u8]) -> io::Result<()> {
        let time_micros = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_micros());
        let line = LogLine {
            time_micros: u64::try_from(time_micros).unwrap_or(u64::MAX),
            source,
            message: String::from_utf8_lossy(message).into_owned(),
        };
        let mut bytes = serde_json::to_vec(&line)?;
        bytes.push(b'\n');
        while self.has_no_room_for(bytes.len())? {
            self.rotate()?;
        }
        self.file.write_all(&bytes)
    }

    /// Whether as much would be too much for the file. Whatever it is, an empty one takes it.
    fn has_no_room_for(&self, bytes: usize) -> io::Result<bool> {
        let written = self.file.metadata()?.len();
        Ok(written > 0 && written + bytes as u64 > self.max_file_bytes)
    }

    fn rotate(&mut self) -> io::Result<()> {
        // Until the end of this function: whoever else comes here then sees that it is done.
        let lock = File::create(self.directory.join("log.lock"))?;
        flock(&lock, FlockOperation::LockExclusive)?;
        let (current, ours) = (current_file(&self.directory), self.file.metadata()?);
        let is_ours = |current: fs::Metadata| (current.dev(), current.ino()) == (ours.dev(), ours.ino());
        if fs::metadata(&current).is_ok_and(is_ours) {
            fs::rename(&current, previous_file(&self.directory))?;
        }
        self.file = OpenOptions::new().create(true).append(true).open(current)?;
        Ok(())
    }
}

/// The last lines of a log, oldest first; none when there is no log.
///
/// # Errors
/// When a file is there but cannot be read.
pub fn read_tail(directory: &Path, lines: usize) -> io::Result<Vec<LogLine>> {
    let mut all = std::collections::VecDeque::new();
    for path in [previous_file(directory), current_file(directory)] {
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        for line in BufReader::new(file).split(b'\n') {
            // A line that was cut off by a crash is left out.
            if let Ok(line) = serde_json::from_slice(&line?) {
                all.push_back(line);
                if all.len() > lines {
                    all.pop_front();
                }
            }
        }
    }
    Ok(all.into())
}

/// Reads a log while it is written.
#[derive(Debug)]
pub struct LogFollower {
    directory: PathBuf,
    open: Option<(File, u64)>,
    pending: Vec<u8>,
}

impl LogFollower {
    /// Follows a log from its end on. It need not exist yet.
    pub fn from_end(directory: &Path) -> Self {
        let mut follower = Self { directory: directory.to_owned(), open: None, pending: Vec::new() };
        follower.reopen();
        if let Some((file, _)) = &mut follower.open {
            // At worst lines are seen twice.
            let _ = file.seek(SeekFrom::End(0));
        }
        follower
    }

    /// The lines that were added since the last call.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read_new(&mut self) -> io::Result<Vec<LogLine>> {
        if self.open.is_none() {
            self.reopen();
        }
        let mut lines = Vec::new();
        self.read_open(&mut lines)?;
        if self.was_replaced() {
            // What was written to the old file before it was replaced has been read; go on with the new one.
            self.read_open(&mut lines)?;
            self.pending.clear();
            self.reopen();
            self.read_open(&mut lines)?;
        }
        Ok(lines)
    }

    fn reopen(&mut self) {
        self.open = File::open(current_file(&self.directory))
            .and_then(|file| file.metadata().map(|metadata| (file, metadata.ino())))
            .ok();
    }

    fn was_replaced(&self) -> bool {
        let Some((_, inode)) = &self.open else { return false };
        fs::metadata(current_file(&self.directory)).is_ok_and(|metadata| metadata.ino() != *inode)
    }

    fn read_open(&mut self, lines: &mut Vec<LogLine>) -> io::Result<()> {
        let Some((file, _)) = &mut self.open else { return Ok(()) };
        file.read_to_end(&mut self.pending)?;
        while let Some(end) = self.pending.iter().position(|b| *b == b'\n') {
            lines.extend(serde_json::from_slice::<LogLine>(&self.pending[..end]));
            self.pending.drain(..=end);
        }
        Ok(())
    }
}

/// Cuts a stream of bytes into lines.
#[derive(Debug, Default)]
pub struct LineSplitter {
    pending: Vec<u8>,
}

impl LineSplitter {
    /// Adds bytes and hands every whole line to `line`. Lines longer than [`MAX_LINE_BYTES`] are cut.
    pub fn push(&mut self, mut bytes: &[u8], mut line: impl FnMut(&[u8])) {
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            self.take(&bytes[..end], &mut line);
            line(&self.pending);
            self.pending.clear();
            bytes = &bytes[end + 1..];
        }
        self.take(bytes, &mut line);
    }

    /// Hands out what is left without a line's end.
    pub fn finish(&mut self, mut line: impl FnMut(&[u8])) {
        if !self.pending.is_empty() {
            line(&self.pending);
            self.pending.clear();
        }
    }

    fn take(&mut self, mut bytes: &[u8], line: &mut impl FnMut(&[u8])) {
        while self.pending.len() + bytes.len() > MAX_LINE_BYTES {
            let (now, rest) = bytes.split_at(MAX_LINE_BYTES - self.pending.len());
            self.pending.extend_from_slice(now);
            line(&self.pending);
            self.pending.clear();
            bytes = rest;
        }
        self.pending.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(chunks: &[&[u8]]) -> Vec<Vec<u8>> {
        let (mut splitter, mut lines) = (LineSplitter::default(), Vec::new());
        for chunk in chunks {
            splitter.push(chunk, |line| lines.push(line.to_vec()));
        }
        splitter.finish(|line| lines.push(line.to_vec()));
        lines
    }

    #[test]
    fn lines_are_put_together_from_pieces_and_cut_when_endless() {
        assert_eq!(split(&[b"a\nb", b"c\n\nd"]), [&b"a"[..], b"bc", b"", b"d"]);
        let lines = split(&[&vec![b'x'; 2 * MAX_LINE_BYTES + 5]]);
        assert_eq!(lines.iter().map(Vec::len).collect::<Vec<_>>(), [MAX_LINE_BYTES, MAX_LINE_BYTES, 5]);
    }

    #[test]
    fn logs_are_bounded_and_the_newest_lines_survive() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(folder.path(), 4096).unwrap();
        for i in 0..1000 {
            log.write(LogSource::Stdout, format!("line {i}").as_bytes()).unwrap();
        }
        let size = |path: PathBuf| fs::metadata(path).unwrap().len();
        assert!(size(current_file(folder.path())) + size(previous_file(folder.path())) <= 4096);
        let tail = read_tail(folder.path(), 3).unwrap();
        assert_eq!(tail.iter().map(|l| l.message.as_str()).collect::<Vec<_>>(), ["line 997", "line 998", "line 999"]);
        // Reopened, it goes on where it was.
        LogWriter::open(folder.path(), 4096).unwrap().write(LogSource::System, b"\xffend").unwrap();
        let tail = read_tail(folder.path(), 2).unwrap();
        assert_eq!((tail[0].message.as_str(), tail[1].message.as_str()), ("line 999", "\u{fffd}end"));
    }

    #[test]
    fn several_writers_keep_to_the_bound_together() {
        let folder = tempfile::tempdir().unwrap();
        let mut logs = [0; 3].map(|_| LogWriter::open(folder.path(), 4096).unwrap());
        for i in 0..1000 {
            logs[i % 3].write(LogSource::Stdout, format!("line {i}").as_bytes()).unwrap();
            let size = |path: PathBuf| fs::metadata(path).map_or(0, |file| file.len());
            assert!(size(current_file(folder.path())) <= 2048 && size(previous_file(folder.path())) <= 2048);
        }
        let messages: Vec<_> = read_tail(folder.path(), 20).unwrap().into_iter().map(|line| line.message).collect();
        for i in 990..1000 {
            assert!(messages.contains(&format!("line {i}")), "{i}: {messages:?}");
        }
    }

    #[test]
    fn followers_see_every_line_once_also_across_files() {
        let folder = tempfile::tempdir().unwrap();
        let mut early = LogFollower::from_end(folder.path());
        assert_eq!(early.read_new().unwrap(), []);
        let mut log = LogWriter::open(folder.path(), 1000).unwrap();
        log.write(LogSource::Stdout, b"first").unwrap();
        let mut late = LogFollower::from_end(folder.path());
        let mut seen: Vec<String> = early.read_new().unwrap().into_iter().map(|line| line.message).collect();
        for i in 0..50 {
            log.write(LogSource::Stdout, format!("{i}").as_bytes()).unwrap();
            seen.extend(early.read_new().unwrap().into_iter().map(|line| line.message));
        }
        let expected: Vec<_> = std::iter::once("first".to_owned()).chain((0..50).map(|i| i.to_string())).collect();
        assert_eq!(seen, expected);
        assert!(late.read_new().unwrap().iter().all(|line| line.message != "first"));
    }

    #[test]
    fn a_program_that_never_ran_has_no_lines() {
        assert_eq!(read_tail(Path::new("/nowhere"), 5).unwrap(), []);
    }
}

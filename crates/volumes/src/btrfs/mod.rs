//! What is asked of btrfs: its own program for what changes something, the kernel directly for what is asked often.

pub(crate) mod kernel;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

use crate::error::Error;
use crate::pool::blocking;

/// A command whose words are read by us, so it speaks English. It dies with what waits for it.
pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// The error of a command that could not be started.
pub(crate) fn not_started(program: &str, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => {
            let package = match program {
                "tar" => "tar",
                _ if program.contains("btrfs") => "btrfs-progs",
                _ => "util-linux",
            };
            Error::MissingTool(program.to_owned(), package)
        }
        _ => Error::io(format!("run {program}"), error),
    }
}

/// The error of a command that said this on its standard error.
pub(crate) fn failed(command: String, stderr: &str) -> Error {
    let message = stderr.trim();
    // The words of ENOSPC in the C library.
    if message.contains("No space left on device") {
        return Error::Full;
    }
    Error::Command { command, message: message.to_owned() }
}

/// Runs a command to its end and returns what it printed.
///
/// # Errors
/// When it is not installed or fails.
pub(crate) async fn run<A: AsRef<OsStr>>(program: &str, arguments: &[A]) -> Result<String, Error> {
    let output = command(program).args(arguments).output().await.map_err(|e| not_started(program, e))?;
    if !output.status.success() {
        let words = arguments.iter().map(|a| a.as_ref().to_string_lossy().into_owned());
        let command = std::iter::once(program.to_owned()).chain(words).collect::<Vec<_>>().join(" ");
        return Err(failed(command, &String::from_utf8_lossy(&output.stderr)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs `btrfs` with these words and then these paths.
async fn btrfs(words: &[&str], paths: &[&Path]) -> Result<String, Error> {
    let arguments: Vec<&OsStr> =
        words.iter().map(AsRef::as_ref).chain(paths.iter().map(|path| path.as_os_str())).collect();
    run("btrfs", &arguments).await
}

/// Makes an empty subvolume.
pub(crate) async fn create(path: &Path) -> Result<(), Error> {
    btrfs(&["-q", "subvolume", "create"], &[path]).await.map(drop)
}

/// Makes a snapshot. What was written to the source before is in it, also what was in memory only, and it is durable.
pub(crate) async fn snapshot(from: &Path, to: &Path, access: Access) -> Result<(), Error> {
    let words: &[&str] = match access {
        Access::ReadOnly => &["-q", "subvolume", "snapshot", "-r"],
        Access::Writable => &["-q", "subvolume", "snapshot"],
    };
    btrfs(words, &[from, to]).await.map(drop)
}

/// Who may write a snapshot.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Access {
    ReadOnly,
    Writable,
}

/// Limits what a subvolume refers to, in bytes; `None` takes the limit away, which snapshots take over from their
/// source.
pub(crate) async fn limit(path: &Path, bytes: Option<u64>) -> Result<(), Error> {
    let bytes = bytes.map_or("none".to_owned(), |bytes| bytes.to_string());
    btrfs(&["qgroup", "limit", &bytes], &[path]).await.map(drop)
}

/// Deletes a subvolume and those in it: programs can make subvolumes in their volumes without any privilege.
pub(crate) async fn delete(path: &Path) -> Result<(), Error> {
    let Err(error) = btrfs(&["-q", "subvolume", "delete"], &[path]).await else { return Ok(()) };
    let nested = nested(path).await?;
    if nested.is_empty() {
        return Err(error);
    }
    for inner in nested {
        Box::pin(delete(&inner)).await?;
    }
    btrfs(&["-q", "subvolume", "delete"], &[path]).await.map(drop)
}

/// The subvolumes directly in this one.
async fn nested(path: &Path) -> Result<Vec<std::path::PathBuf>, Error> {
    let of = path.to_owned();
    // Their paths as btrfs lists them start at the top of the file system, which need not be mounted.
    blocking(move || kernel::subvolumes_below(&of).map_err(Error::at("look through", &of))).await
}

/// Removes a folder with the subvolumes in it. One that is not there is no error.
pub(crate) async fn remove_folder(folder: &Path) -> Result<(), Error> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::at("read", folder)(e)),
    };
    for entry in entries {
        remove(&entry.map_err(Error::at("read", folder))?.path()).await?;
    }
    std::fs::remove_dir(folder).map_err(Error::at("remove", folder))
}

/// Removes a subvolume, or a folder with subvolumes, or a file.
pub(crate) async fn remove(path: &Path) -> Result<(), Error> {
    let metadata = match path.symlink_metadata() {
        Ok(metadata) => metadata,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::at("look at", path)(e)),
    };
    if kernel::is_subvolume(&metadata) {
        delete(path).await
    } else if metadata.is_dir() {
        Box::pin(remove_folder(path)).await
    } else {
        std::fs::remove_file(path).map_err(Error::at("remove", path))
    }
}

/// What a subvolume refers to, and may: both in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quota {
    pub(crate) used: u64,
    /// What no other subvolume refers to.
    pub(crate) exclusive: u64,
    pub(crate) limit: Option<u64>,
}

/// Whether quotas are on.
pub(crate) async fn has_quotas(root: &Path) -> Result<bool, Error> {
    match btrfs(&["qgroup", "show", "--raw"], &[root]).await {
        Ok(_) => Ok(true),
        // "can't list qgroups: quotas not enabled"
        Err(Error::Command { message, .. }) if message.contains("not enabled") => Ok(false),
        Err(error) => Err(error),
    }
}

/// Counts from now on, and starts to count what is there.
pub(crate) async fn enable_quotas(root: &Path) -> Result<(), Error> {
    btrfs(&["quota", "enable"], &[root]).await.map(drop)
}

/// What all subvolumes use, by their ids, as of the last commit of the file system.
pub(crate) async fn quotas(root: &Path) -> Result<HashMap<u64, Quota>, Error> {
    Ok(parse_quotas(&btrfs(&["qgroup", "show", "-r", "--raw"], &[root]).await?))
}

fn parse_quotas(table: &str) -> HashMap<u64, Quota> {
    let line = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [group, used, exclusive, limit, ..] = fields[..] else { return None };
        let id = group.strip_prefix("0/")?.parse().ok()?;
        Some((id, Quota { used: used.parse().ok()?, exclusive: exclusive.parse().ok()?, limit: limit.parse().ok() }))
    };
    table.lines().filter_map(line).collect()
}

/// Lets the file system have all of its device.
pub(crate) async fn grow_to_device(root: &Path) -> Result<(), Error> {
    btrfs(&["filesystem", "resize", "max"], &[root]).await.map(drop)
}

/// What reading everything and comparing it with its checksums found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScrubReport {
    /// Bytes read.
    pub bytes: u64,
    /// Errors found.
    pub errors: u64,
    /// Of them, those that could not be repaired: something is lost.
    pub uncorrectable: u64,
}

/// Reads everything once.
pub(crate) async fn scrub(root: &Path) -> Result<ScrubReport, Error> {
    let output = command("btrfs").args(["scrub", "start", "-B", "-R"]).arg(root).output().await;
    let output = output.map_err(|e| not_started("btrfs", e))?;
    // 3: there are errors that cannot be corrected, which is a result.
    if !output.status.success() && output.status.code() != Some(3) {
        return Err(failed("btrfs scrub".to_owned(), &String::from_utf8_lossy(&output.stderr)));
    }
    Ok(parse_scrub(&String::from_utf8_lossy(&output.stdout)))
}

fn parse_scrub(text: &str) -> ScrubReport {
    let mut report = ScrubReport::default();
    for line in text.lines() {
        let Some((name, count)) = line.split_once(':') else { continue };
        let Ok(count) = count.trim().parse::<u64>() else { continue };
        match name.trim() {
            "data_bytes_scrubbed" | "tree_bytes_scrubbed" => report.bytes += count,
            "read_errors" | "csum_errors" | "verify_errors" | "super_errors" => report.errors += count,
            "uncorrectable_errors" => report.uncorrectable += count,
            _ => {}
        }
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_btrfs_are_read() {
        let table = "Qgroupid    Referenced    Exclusive  Max referenced   Path \n\
            --------    ----------    ---------  --------------   ---- \n\
            0/5              16384        16384            none   <toplevel>\n\
            0/257         10502144        16384        20971520   A/v\n\
            1/1               1            1               none   \n";
        let quotas = parse_quotas(table);
        assert_eq!(quotas.len(), 2);
        assert_eq!(quotas[&5], Quota { used: 16384, exclusive: 16384, limit: None });
        assert_eq!(quotas[&257], Quota { used: 10_502_144, exclusive: 16384, limit: Some(20_971_520) });
        let text = "scrub done for x\n\tdata_bytes_scrubbed: 100\n\ttree_bytes_scrubbed: 16\n\tcsum_errors: 2\n\
            \tuncorrectable_errors: 1\n\tcorrected_errors: 1\n";
        assert_eq!(parse_scrub(text), ScrubReport { bytes: 116, errors: 2, uncorrectable: 1 });
    }

    #[tokio::test]
    async fn what_is_not_installed_is_named() {
        let error = run("mkfs.btrfs-of-another-day", &[] as &[&str]).await.unwrap_err();
        assert_eq!(error.to_string(), "'mkfs.btrfs-of-another-day' is not installed: install the package btrfs-progs");
    }

    #[test]
    fn a_full_disk_is_told_from_other_failures() {
        assert!(matches!(failed("x".into(), "ERROR: write failed: No space left on device\n"), Error::Full));
        assert_eq!(failed("btrfs x".into(), "ERROR: no\n").to_string(), "'btrfs x' failed: ERROR: no");
    }
}

//! `aleph-node volumes`: what the operator asks the compute node that runs on this machine.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::path::Path;

use anyhow::{Context, bail};
use chrono::{DateTime, Utc};
use compute_node::admin::{AdminClient, Export, ProgramVolumes, RoleName, Volume, VolumeSet, Wanted};
use serde::Serialize;
use serde_json::json;
use tempfile::NamedTempFile;

use crate::options::{ExportOptions, VolumesCommand, VolumesOptions};
use crate::roles::end_on_signals;

/// Does what the command line says.
pub(crate) async fn run(VolumesOptions { data_dir, command }: VolumesOptions, json: bool) -> anyhow::Result<()> {
    let mut node = AdminClient::connect(&data_dir).await?;
    match command {
        VolumesCommand::List { program } => {
            let list = node.list(program.as_deref()).await?;
            print(json, &list, || list.programs.iter().map(described).collect())
        }
        VolumesCommand::Undelete { program } => {
            let now = node.undelete(&program).await?;
            print(json, &now, || format!("{}its data is kept until you forget it\n", described(&now)))
        }
        VolumesCommand::Forget { program } => {
            let now = node.forget(&program).await?;
            print(json, &now, || described(&now))
        }
        VolumesCommand::Export(options) => export(&mut node, options, json).await,
    }
}

/// Says what was found: on one line of JSON, or for people.
fn print(json: bool, value: &impl Serialize, text: impl FnOnce() -> String) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(value)?)?;
    } else {
        out.write_all(text().as_bytes())?;
    }
    Ok(out.flush()?)
}

fn described(program: &ProgramVolumes) -> String {
    let mut text = format!("{}  {}", program.program, role(program.role));
    if let Some(until) = program.kept_until {
        let _ = write!(text, ", kept until {}", time(until));
    }
    if let Some(problem) = &program.problem {
        let _ = write!(text, ": {problem}");
    }
    text.push('\n');
    if let Some(live) = &program.live {
        let _ = writeln!(text, "  live, epoch {}: {}", live.epoch, volumes(live));
    }
    for snapshot in &program.snapshots {
        let taken = snapshot.taken.map_or_else(String::new, |taken| format!(", taken {}", time(taken)));
        let _ = writeln!(text, "  snapshot {}{taken}: {}", snapshot.id, volumes(&snapshot.copy));
    }
    for point in &program.recovery_points {
        let until = point.kept_until.map_or_else(String::new, |until| format!(", kept until {}", time(until)));
        let (number, epoch) = (point.number, point.copy.epoch);
        let _ = writeln!(text, "  recovery point {number}, epoch {epoch}{until}: {}", volumes(&point.copy));
    }
    text
}

fn role(role: RoleName) -> &'static str {
    match role {
        RoleName::Live => "live",
        RoleName::Stale => "stale: it runs elsewhere now",
        RoleName::Standby => "standby copy",
        RoleName::Retired => "retired",
        RoleName::Forgotten => "forgotten",
        RoleName::Undeleted => "undeleted: the program is over, and its data is kept",
        RoleName::Damaged => "damaged",
        RoleName::Nothing => "nothing",
    }
}

fn time(at: DateTime<Utc>) -> String {
    at.format("%F %T UTC").to_string()
}

/// The names are their owner's, so they are quoted and escaped.
fn volumes(copy: &VolumeSet) -> String {
    let volume = |Volume { name, used_bytes, limit_bytes, .. }: &Volume| {
        format!("{name:?} {} of {}", size(*used_bytes), size(*limit_bytes))
    };
    copy.volumes.iter().map(volume).collect::<Vec<_>>().join(", ")
}

fn size(bytes: u64) -> String {
    if bytes < 1 << 20 {
        format!("{} KiB", bytes.div_ceil(1 << 10))
    } else {
        format!("{} MiB", bytes.div_ceil(1 << 20))
    }
}

async fn export(node: &mut AdminClient, options: ExportOptions, json: bool) -> anyhow::Result<()> {
    let ExportOptions { program, snapshot, recovery_point, output } = options;
    let wanted = match (snapshot, recovery_point) {
        (Some(id), _) => Wanted::Snapshot(id),
        (None, Some(number)) => Wanted::RecoveryPoint(number),
        (None, None) => Wanted::Newest,
    };
    let to_stdout = output.as_os_str() == "-";
    if to_stdout && io::stdout().is_terminal() {
        bail!("an archive is not for a terminal: name a file with --output, or pipe standard output into something");
    }
    if !to_stdout {
        refuse_existing(&output)?;
    }
    let ended = end_on_signals()?;
    let write = async {
        let archive = node.export(&program, wanted).await?;
        let what = archive.what.clone();
        let bytes = if to_stdout {
            let mut out = io::stdout().lock();
            let bytes = copy(archive, &mut out).await?;
            out.flush()?;
            bytes
        } else {
            to_file(archive, &output).await?
        };
        anyhow::Ok((what, bytes))
    };
    let (what, bytes) =
        ended.run_until_cancelled(write).await.context("interrupted: the archive is not complete")??;
    let said = json!({ "exported": what, "bytes": bytes, "output": output.display().to_string() });
    if to_stdout {
        // The archive has standard output for itself.
        eprintln!("{}", if json { said.to_string() } else { format!("{what}, {bytes} bytes") });
        return Ok(());
    }
    print(json, &said, || format!("{what}, {bytes} bytes, in {}\n", output.display()))
}

fn refuse_existing(output: &Path) -> anyhow::Result<()> {
    match output.symlink_metadata() {
        Ok(_) => bail!("{} exists already and is left as it is: name another file with --output", output.display()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e).with_context(|| format!("cannot look at {}", output.display())),
    }
}

/// Writes an archive to a new file, which has its name only when it is complete and durable. Only its owner may read it: it
/// is somebody's data.
async fn to_file(archive: Export, output: &Path) -> anyhow::Result<u64> {
    let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let cannot = || format!("cannot write {}", output.display());
    let mut file = NamedTempFile::with_prefix_in(".aleph-export-", folder).with_context(cannot)?;
    let bytes = copy(archive, file.as_file_mut()).await.with_context(cannot)?;
    file.as_file().sync_all().with_context(cannot)?;
    // Somebody may have made it meanwhile.
    file.persist_noclobber(output).map_err(|e| e.error).with_context(cannot)?;
    Ok(bytes)
}

async fn copy(mut archive: Export, to: &mut impl Write) -> anyhow::Result<u64> {
    let mut bytes = 0;
    while let Some(piece) = archive.next().await? {
        to.write_all(&piece)?;
        bytes += piece.len() as u64;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use compute_node::admin::{RecoveryPoint, Snapshot};
    use protocol::{Epoch, ProgramId};

    use super::*;

    #[test]
    fn people_read_everything_and_no_control_characters() {
        let at = DateTime::from_timestamp(1_700_000_000, 0);
        let copy = |epoch| VolumeSet {
            epoch: Epoch::new(epoch),
            volumes: vec![Volume {
                name: "da\u{1b}ta".to_owned(),
                used_bytes: 16 << 10,
                limit_bytes: 50 << 20,
                folder_in_export: "x".to_owned(),
            }],
        };
        let program = ProgramVolumes {
            program: ProgramId::from_bytes([0xab; 32]),
            role: RoleName::Forgotten,
            highest_epoch: Some(Epoch::new(3)),
            kept_until: at,
            live: Some(copy(3)),
            snapshots: vec![Snapshot { id: "2-17".parse().unwrap(), taken: at, copy: copy(2) }],
            recovery_points: vec![RecoveryPoint { number: 1, kept_until: at, copy: copy(1) }],
            problem: None,
        };
        let volume = "\"da\\u{1b}ta\" 16 KiB of 50 MiB";
        let expected = format!(
            "{}  forgotten, kept until 2023-11-14 22:13:20 UTC\n  live, epoch 3: {volume}\n  \
             snapshot 2-17, taken 2023-11-14 22:13:20 UTC: {volume}\n  \
             recovery point 1, epoch 1, kept until 2023-11-14 22:13:20 UTC: {volume}\n",
            "ab".repeat(32)
        );
        assert_eq!(described(&program), expected);
    }

    /// A node that ends in the middle of an archive.
    fn breaks_off(data_dir: &Path) {
        std::fs::create_dir(data_dir.join("admin")).unwrap();
        let listener = std::os::unix::net::UnixListener::bind(data_dir.join("admin/socket")).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.extend(byte);
            }
            let answer = "HTTP/1.1 200 OK\r\naleph-exported: live\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n";
            stream.write_all(answer.as_bytes()).unwrap();
        });
    }

    #[tokio::test]
    async fn an_archive_that_is_not_complete_gets_no_name() {
        let (data_dir, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        breaks_off(data_dir.path());
        let mut node = AdminClient::connect(data_dir.path()).await.unwrap();
        let archive = node.export(&"ab".repeat(32), Wanted::Newest).await.unwrap();
        assert_eq!(archive.what, "live");
        let error = to_file(archive, &folder.path().join("a.tar")).await.unwrap_err();
        assert!(format!("{error:#}").contains("the compute node broke off"), "{error:#}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_that_is_there_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.tar");
        refuse_existing(&file).unwrap();
        // Also a link that leads nowhere.
        std::os::unix::fs::symlink("/nowhere", &file).unwrap();
        let error = refuse_existing(&file).unwrap_err().to_string();
        assert!(error.contains("name another file with --output"), "{error}");
    }
}

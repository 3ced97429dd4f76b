//! `aleph volume …`

use std::path::PathBuf;

use clap::{Args, Subcommand};
use protocol::data::SnapshotId;

use super::ProgramArgs;

/// `aleph volume …`
#[derive(Debug, Subcommand)]
pub enum VolumeCommand {
    /// Show a program's volumes, and where their data is
    List(ProgramArgs),
    /// Show what the archive has of a program's volumes with the persistence `store`
    Snapshots(ProgramArgs),
    /// Download a volume from the archive, as files for `btrfs receive`
    Download(DownloadArgs),
    /// Stop a program, and start it with a snapshot of its own or of another program (its owner, or operators)
    Restore(RestoreArgs),
}

/// `aleph volume download`
#[derive(Debug, Args)]
pub struct DownloadArgs {
    /// The program: its id, the first 8 digits or more of it, or its URL
    #[arg(value_name = "ID")]
    pub program: String,
    /// The volume's name
    #[arg(long, value_name = "NAME")]
    pub volume: String,
    /// The snapshot, like 3-17 [default: the newest that can be restored]
    #[arg(long, value_name = "SNAPSHOT")]
    pub snapshot: Option<SnapshotId>,
    /// The folder for the files, which is made
    #[arg(long, value_name = "FOLDER")]
    pub to: PathBuf,
}

/// `aleph volume restore`
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The program whose snapshot it is: its id, the first 8 digits or more of it, or its URL
    #[arg(value_name = "ID")]
    pub program: String,
    /// The snapshot, like 3-17
    #[arg(long, value_name = "SNAPSHOT")]
    pub snapshot: SnapshotId,
    /// Have this program of the same owner start with it instead: its volumes become what those of the same names were
    #[arg(long, value_name = "OTHER_ID")]
    pub into: Option<String>,
    /// Return as soon as the order is taken
    #[arg(long)]
    pub no_wait: bool,
    /// The longest wait; large volumes take their time
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub wait_seconds: u64,
}

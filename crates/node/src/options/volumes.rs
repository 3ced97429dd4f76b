//! Options of `aleph-node volumes`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use protocol::data::SnapshotId;

/// `aleph-node volumes`.
#[derive(Debug, Args)]
pub(crate) struct VolumesOptions {
    /// The data directory of the compute node, which has to run on this machine
    #[arg(long, global = true, default_value = "/var/lib/aleph-node/compute-node", env = "ALEPH_NODE_DATA_DIR")]
    pub(crate) data_dir: PathBuf,

    #[command(subcommand)]
    pub(crate) command: VolumesCommand,
}

/// What to do with volumes.
#[derive(Debug, Subcommand)]
pub(crate) enum VolumesCommand {
    /// Show the programs that this node has data of: volumes, snapshots, recovery points, and until when they are kept
    List {
        /// Only this program: its id, or the first 8 digits or more of it
        program: Option<String>,
    },
    /// Keep the data of a program that was forgotten, until `forget`
    Undelete {
        /// The program: its id, or the first 8 digits or more of it
        program: String,
    },
    /// Take `undelete` back: the data is removed when the retention time, which starts anew, is over
    Forget {
        /// The program: its id, or the first 8 digits or more of it
        program: String,
    },
    /// Take a copy of all volumes of a program out, as a tar archive with a folder for each; nothing is changed
    Export(ExportOptions),
}

/// `aleph-node volumes export`.
#[derive(Debug, Args)]
pub(crate) struct ExportOptions {
    /// The program: its id, or the first 8 digits or more of it
    pub(crate) program: String,

    /// This snapshot, like 3-17; what was written last, as far as this node knows, if nothing is named
    #[arg(long, conflicts_with = "recovery_point")]
    pub(crate) snapshot: Option<SnapshotId>,

    /// The recovery point with this number
    #[arg(long)]
    pub(crate) recovery_point: Option<u64>,

    /// The file to write, which must not exist; - for standard output
    #[arg(long)]
    pub(crate) output: PathBuf,
}

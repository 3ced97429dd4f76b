//! The command line.

mod volume;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use protocol::message::program::{Encoding, Interface};
use protocol::{Address, Isolation};
use zeroize::Zeroizing;

pub use volume::{DownloadArgs, RestoreArgs, VolumeCommand};

use crate::settings::Flags;
use crate::units::{self, Variable};
use protocol::message::Volume;

/// What every help ends with.
const AFTER_HELP: &str = "\
Environment:
  ALEPH_API_HOST              URL of the message node (default: http://127.0.0.1:4024)
  ALEPH_SCHEDULER_URL         URL of the scheduler (default: what the network publishes)
  ALEPH_GATEWAY_URL           URL of the gateway (default: what the network publishes)
  ALEPH_PRIVATE_KEY_STRING    the private key, in hexadecimal
  ALEPH_PRIVATE_KEY_FILE      the file of the private key
  ALEPH_CONFIG_HOME           the folder of keys and settings (default: ~/.aleph-im)
  NO_COLOR                    no colours

Settings: api_host, scheduler_url and gateway_url in aleph.toml in the folder of keys and settings.
Flags win over the environment, the environment over the settings.

With --json, standard output has one JSON document when the command succeeds and nothing when it fails; standard error
has one JSON object a line: {\"warning\": {...}} or {\"error\": {\"code\", \"message\", \"hint\", \"details\"}}.
Exit codes: 0 success, 1 failure, 2 wrong usage, 130 interrupted.";

/// Runs programs on an Aleph network.
#[derive(Debug, Parser)]
#[command(name = "aleph", version, after_long_help = AFTER_HELP, after_help = "See --help for the environment, settings and exit codes.")]
#[command(arg_required_else_help = true, subcommand_required = true, max_term_width = 100)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct GlobalArgs {
    /// Print JSON, for programs
    #[arg(long, global = true)]
    pub json: bool,
    /// The message node
    #[arg(long, global = true, value_name = "URL")]
    pub api_host: Option<String>,
    /// The scheduler
    #[arg(long, global = true, value_name = "URL", hide_short_help = true)]
    pub scheduler_url: Option<String>,
    /// The gateway, where programs are reached
    #[arg(long, global = true, value_name = "URL", hide_short_help = true)]
    pub gateway_url: Option<String>,
    /// The private key in hexadecimal; others on this machine may see it, a file is safer
    #[arg(long, global = true, value_name = "HEX", hide_short_help = true)]
    pub private_key: Option<String>,
    /// The private key's file, or its name in the folder of keys
    #[arg(long, global = true, value_name = "FILE")]
    pub private_key_file: Option<PathBuf>,
}

impl GlobalArgs {
    /// The settings among them.
    pub fn flags(&self) -> Flags {
        Flags {
            api_host: self.api_host.clone(),
            scheduler_url: self.scheduler_url.clone(),
            gateway_url: self.gateway_url.clone(),
            private_key: self.private_key.clone().map(Zeroizing::new),
            private_key_file: self.private_key_file.clone(),
        }
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make, show and export the key that signs
    #[command(subcommand)]
    Account(AccountCommand),
    /// Upload, find, update and delete programs
    #[command(subcommand)]
    Program(Box<ProgramCommand>),
    /// Make an on-demand program persistent (as `program persist`)
    Persist(PersistArgs),
    /// Make a persistent program on-demand (as `program unpersist`)
    Unpersist(PersistArgs),
    /// Look at the volumes of programs, and go back to a snapshot in the archive
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Look at the compute nodes
    #[command(subcommand)]
    Node(NodeCommand),
    /// Look at messages
    #[command(subcommand)]
    Message(MessageCommand),
    /// Print a shell's completions, to be put where the shell looks for them
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// `aleph account …`
#[derive(Debug, Subcommand)]
pub enum AccountCommand {
    /// Make a new key, or import one with --private-key
    Create(CreateAccountArgs),
    /// Show the account and where its key comes from
    Show,
    /// Show what an account holds
    Balance {
        /// Another account's address
        address: Option<String>,
    },
    /// Print the private key
    #[command(alias = "export-private-key")]
    Export {
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

/// `aleph account create`. The key to import and the file to write are `--private-key` and `--private-key-file`.
#[derive(Debug, Args)]
#[command(after_help = "\
Without --private-key-file, the key is written to private-keys/ethereum.key. With --private-key HEX, that key is imported;
`--private-key -` reads it from standard input.")]
pub struct CreateAccountArgs {
    /// The chain of the account
    #[arg(long, default_value = "ETH")]
    pub chain: String,
    /// Replace an existing key; the old one is kept under another name
    #[arg(long)]
    pub replace: bool,
    /// Do not make it the key in use
    #[arg(long)]
    pub no_active: bool,
}

/// `aleph program …`
#[derive(Debug, Subcommand)]
pub enum ProgramCommand {
    /// Upload code and publish it as a program
    #[command(alias = "create")]
    Upload(UploadArgs),
    /// List your programs
    #[command(alias = "ls")]
    List {
        /// Print ids in full
        #[arg(long)]
        full: bool,
    },
    /// Show what a program is made of, and its price
    Show(ProgramArgs),
    /// Show where a program runs, or why it does not
    Find(ProgramArgs),
    /// Show where a program ran, when and why it moved: a history signed by scheduler and nodes
    History(HistoryArgs),
    /// Print what a program wrote
    Logs(LogsArgs),
    /// Upload new code for a program; its id and URL stay
    Update(UpdateArgs),
    /// Delete a program and its code
    #[command(alias = "rm")]
    Delete(DeleteArgs),
    /// Make an on-demand program persistent
    Persist(PersistArgs),
    /// Make a persistent program on-demand
    Unpersist(PersistArgs),
    /// Run a persistent program on another node, with its data (its owner, or operators)
    Move(MoveArgs),
}

/// Commands that only take a program.
#[derive(Debug, Args)]
pub struct ProgramArgs {
    /// The program: its id, the first 8 digits or more of it, or its URL
    #[arg(value_name = "ID")]
    pub program: String,
}

/// `aleph program history`
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// The program: its id, the first 8 digits or more of it, or its URL
    #[arg(value_name = "ID")]
    pub program: String,
    /// Check chain and signatures, and that no two copies were allowed at the same time
    #[arg(long)]
    pub verify: bool,
    /// The scheduler's account to believe [default: those that the network publishes]
    #[arg(long, value_name = "ADDRESS", requires = "verify")]
    pub scheduler_address: Option<Address>,
}

/// `aleph program move`
#[derive(Debug, Args)]
pub struct MoveArgs {
    /// The program: its id, the first 8 digits or more of it, or its URL
    #[arg(value_name = "ID")]
    pub program: String,
    /// The node to run it on: its id, or its start [default: the one that keeps copies, or the best other one]
    #[arg(long, value_name = "NODE", conflicts_with = "cancel")]
    pub to: Option<String>,
    /// Leave it where it is: possible until it is stopped
    #[arg(long)]
    pub cancel: bool,
    /// Return as soon as the order is taken
    #[arg(long)]
    pub no_wait: bool,
    /// The longest wait; large volumes take their time
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub wait_seconds: u64,
}

/// How long to wait.
#[derive(Debug, Clone, Args)]
pub struct WaitArgs {
    /// Return as soon as the message is accepted
    #[arg(long)]
    pub no_wait: bool,
    /// The longest wait
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub wait_seconds: u64,
}

/// Ways to pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PackArg {
    /// An image; needs `mksquashfs`
    Squashfs,
    /// An archive
    Zip,
}

impl From<PackArg> for Encoding {
    fn from(arg: PackArg) -> Self {
        match arg {
            PackArg::Squashfs => Self::Squashfs,
            PackArg::Zip => Self::Zip,
        }
    }
}

/// Ways to pass requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum InterfaceArg {
    /// A Python ASGI application
    Asgi,
    /// An executable that listens on port 8080
    Binary,
}

impl From<InterfaceArg> for Interface {
    fn from(arg: InterfaceArg) -> Self {
        match arg {
            InterfaceArg::Asgi => Self::Asgi,
            InterfaceArg::Binary => Self::Binary,
        }
    }
}

/// `aleph program upload`
#[derive(Debug, Args)]
#[command(after_help = "\
Files that .gitignore and .alephignore in PATH name are left out, as are .git, __pycache__ and virtual environments.
Everything that is uploaded is public, variables included.

Examples:
  aleph program upload ./src main:app                       a Python ASGI application, run on demand
  aleph program upload --persistent ./src main:app          always running, on one node
  aleph program upload --persistent --memory 2GiB --env LOG=debug ./src main:app
  aleph program upload ./server                             a static executable that listens on port 8080")]
pub struct UploadArgs {
    /// The folder with the code, one file, or an archive that is packed already (zip or squashfs)
    pub path: PathBuf,
    /// What to start: MODULE:NAME of a Python application, or an executable's path in PATH
    pub entrypoint: Option<String>,

    /// Run always, on exactly one node
    #[arg(long)]
    pub persistent: bool,
    /// Run when requests come; this is the default
    #[arg(long, conflicts_with_all = ["persistent", "no_http"])]
    pub on_demand: bool,
    /// Take no requests; only with --persistent
    #[arg(long, requires = "persistent")]
    pub no_http: bool,

    /// What people call it [default: the folder's name]
    #[arg(long)]
    pub name: Option<String>,
    /// Virtual processors
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub vcpus: u32,
    /// Memory, as 128, 512MiB or 2GiB; MiB without a unit
    #[arg(long, value_name = "SIZE", default_value = "128", value_parser = units::parse_mib)]
    pub memory: u64,
    /// How long one request may take
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=315_360_000))]
    pub timeout_seconds: u64,
    /// On demand: freeze a copy that nobody used for this long [default: what its node does with all]
    #[arg(long, value_name = "SECONDS", conflicts_with = "persistent", value_parser = clap::value_parser!(u64).range(..=86_400))]
    pub freeze_after: Option<u64>,
    /// On demand: stop a copy that nobody used for this long [default: what its node does with all]
    #[arg(long, value_name = "SECONDS", conflicts_with = "persistent", value_parser = clap::value_parser!(u64).range(..=86_400))]
    pub idle_after: Option<u64>,
    /// On demand: how many copies of it a node may run at once [default: what its node does with all]
    #[arg(long, value_name = "COUNT", conflicts_with = "persistent", value_parser = clap::value_parser!(u16).range(1..))]
    pub copies: Option<u16>,
    /// What stands between it and the machine: container or gvisor [default: what its node does with all]
    #[arg(long)]
    pub isolation: Option<Isolation>,
    /// An environment variable; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = units::parse_variable)]
    pub env: Vec<Variable>,
    /// Let it reach the internet
    #[arg(long)]
    pub internet: bool,
    /// The image it runs in: a name, or a STORE message's hash [default: the network's]
    #[arg(long, value_name = "HASH|NAME")]
    pub runtime: Option<String>,
    /// How requests reach it [default: asgi when ENTRYPOINT has a colon, otherwise binary]
    #[arg(long)]
    pub interface: Option<InterfaceArg>,
    /// A volume that is kept: name=data,mount=/data,size_mib=100 [,persistence=host|store]
    #[arg(long, value_name = "FIELDS", value_parser = units::parse_persistent_volume)]
    pub persistent_volume: Vec<Volume>,
    /// A volume that is empty at each start: mount=/tmp/work,size_mib=100
    #[arg(long, value_name = "FIELDS", value_parser = units::parse_ephemeral_volume)]
    pub ephemeral_volume: Vec<Volume>,
    /// A read-only image: mount=/opt/packages,ref=HASH [,use_latest=false]
    #[arg(long, value_name = "FIELDS", value_parser = units::parse_immutable_volume)]
    pub immutable_volume: Vec<Volume>,
    /// Let it be updated, persisted and unpersisted later; this is the default
    #[arg(long, overrides_with = "no_updatable")]
    pub updatable: bool,
    /// Let it stay as it is for ever
    #[arg(long, overrides_with = "updatable")]
    pub no_updatable: bool,

    /// How to pack the code [default: squashfs where mksquashfs is installed]
    #[arg(long)]
    pub encoding: Option<PackArg>,
    /// How long to wait.
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// `aleph program logs`
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// The program: its id, the first 8 digits or more of it, or its URL
    #[arg(value_name = "ID")]
    pub program: String,
    /// Go on with what it writes from now on, also when it moves to another node
    #[arg(long, short)]
    pub follow: bool,
    /// Only the last lines
    #[arg(long, short = 'n', value_name = "LINES")]
    pub tail: Option<u32>,
    /// Print when each line was written
    #[arg(long, short)]
    pub timestamps: bool,
    /// The compute node to ask [default: where it runs; for on-demand programs the gateway]
    #[arg(long, value_name = "URL")]
    pub node: Option<String>,
}

/// `aleph program update`
#[derive(Debug, Args)]
#[command(after_help = "The entrypoint, the resources and the variables stay: to change them, upload a new program.")]
pub struct UpdateArgs {
    /// The program: its id, the first 8 digits or more of it, or its URL
    #[arg(value_name = "ID")]
    pub program: String,
    /// The folder with the new code, one file, or an archive that is packed already
    pub path: PathBuf,
    /// The program's entrypoint, to be checked against
    pub entrypoint: Option<String>,
    /// The longest wait
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub wait_seconds: u64,
}

/// `aleph program delete`
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// The program: its id, the first 8 digits or more of it, or its URL
    #[arg(value_name = "ID")]
    pub program: String,
    /// Keep the uploaded code
    #[arg(long)]
    pub keep_code: bool,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
}

/// `aleph program persist` and `unpersist`
#[derive(Debug, Args)]
#[command(after_help = "\
The program gets a new id and URL: a message cannot be changed, only replaced. The old program is deleted only when the
new one is accepted.")]
pub struct PersistArgs {
    /// The program: its id, the first 8 digits or more of it, or its URL
    #[arg(value_name = "ID")]
    pub program: String,
    /// Do not delete the old program
    #[arg(long)]
    pub keep_prev: bool,
    /// How long to wait.
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// `aleph node …`
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// List the compute nodes
    #[command(alias = "ls")]
    List {
        /// Print ids in full
        #[arg(long)]
        full: bool,
    },
    /// Show a compute node and what it runs
    Show {
        /// The node's id, or its start
        id: String,
    },
    /// Give a node no new programs and move those that it has (operators)
    Drain {
        /// The node's id, or its start
        id: String,
        /// Why, for people
        #[arg(long, default_value = "drained by an operator")]
        reason: String,
    },
    /// Let a drained node have programs again (operators)
    Undrain {
        /// The node's id, or its start
        id: String,
    },
    /// Say that a machine is gone for good: its programs start elsewhere without waiting for its leases (operators)
    Lost {
        /// The node's id, or its start
        id: String,
        /// Yes: nothing of it runs any more. If that is not true, programs run twice
        #[arg(long)]
        yes: bool,
    },
    /// Go on with reallocation after many nodes were lost at once (operators)
    Resume,
}

/// `aleph message …`
#[derive(Debug, Subcommand)]
pub enum MessageCommand {
    /// Show a message and where it is in its life
    Get {
        /// The message's item hash
        hash: String,
        /// Print only the message itself, as JSON
        #[arg(long)]
        raw: bool,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn upload(arguments: &[&str]) -> Result<UploadArgs, clap::Error> {
        let cli = Cli::try_parse_from(["aleph", "program", "upload"].iter().chain(arguments))?;
        match cli.command {
            Command::Program(command) => match *command {
                ProgramCommand::Upload(args) => Ok(args),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_tutorial_parses_as_written() {
        let args = upload(&["--persistent", "./src/", "main:app"]).unwrap();
        assert!(args.persistent && !args.no_http && !args.no_updatable);
        assert_eq!((args.vcpus, args.memory, args.timeout_seconds), (1, 128, 30));
        let cli = Cli::try_parse_from(["aleph", "unpersist", "abcdef0123"]).unwrap();
        assert!(matches!(cli.command, Command::Unpersist(args) if args.program == "abcdef0123"));
    }

    #[test]
    fn a_program_that_never_runs_is_refused() {
        assert!(upload(&["--no-http", "src", "main:app"]).unwrap_err().to_string().contains("--persistent"));
        assert!(upload(&["--on-demand", "--persistent", "src", "main:app"]).is_err());
        assert!(upload(&["--persistent", "--no-http", "src", "main:app"]).is_ok());
    }

    #[test]
    fn the_last_of_contradicting_flags_wins() {
        assert!(!upload(&["--no-updatable", "--updatable", "src", "a:b"]).unwrap().no_updatable);
        assert!(upload(&["--updatable", "--no-updatable", "src", "a:b"]).unwrap().no_updatable);
    }
}

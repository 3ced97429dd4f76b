//! `aleph-node`: the server. One binary, a subcommand a role.

mod copy;
mod options;
mod roles;
mod up;
mod volumes;

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::options::{LogFormat, Options, Role};

fn main() -> ExitCode {
    let options = Options::parse();
    start_logging(&options);
    match run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("aleph-node: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> anyhow::Result<()> {
    match options.role {
        Role::Up(up) => {
            // One thread: the kernel ends its children with the thread that started them.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(up::run(up, options.json))
        }
        Role::Volumes(asked) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(volumes::run(asked, options.json))
        }
        role => {
            if let Role::ComputeNode(_) = role {
                compute_node::enter_own_namespace()
                    .context("a compute node needs mounts of its own: run it as root")?;
            }
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(roles::run(role, options.json))
        }
    }
}

/// Logs go to standard error; `RUST_LOG` says which.
fn start_logging(options: &Options) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match options.log_format {
        LogFormat::Text => subscriber.with_target(false).with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => subscriber.json().init(),
    }
}

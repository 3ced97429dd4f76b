//! What each command does.

pub mod account;
pub mod message;
pub mod node;
pub mod program;
pub mod volume;

use anyhow::Result;
use clap::CommandFactory;
use serde_json::json;

use crate::args::{Cli, Command};
use crate::context::Context;

/// Does what the command line says.
///
/// # Errors
/// Why it could not be done.
pub async fn run(context: &Context, cli: Cli) -> Result<()> {
    match cli.command {
        Command::Account(command) => account::run(context, &cli.global, command).await,
        Command::Program(command) => program::run(context, *command).await,
        Command::Persist(args) => program::persistence::persist(context, args).await,
        Command::Unpersist(args) => program::persistence::unpersist(context, args).await,
        Command::Volume(command) => volume::run(context, command).await,
        Command::Node(command) => node::run(context, command).await,
        Command::Message(command) => message::run(context, command).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "aleph", &mut script);
            let script = String::from_utf8(script)?;
            context.out.result(&json!({ "shell": shell.to_string(), "script": script }), || script.clone())
        }
    }
}

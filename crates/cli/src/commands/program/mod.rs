//! `aleph program …`

mod delete;
mod find;
mod history;
mod list;
mod logs;
mod moving;
pub mod persistence;
mod show;
mod update;
mod upload;

pub(super) use find::copies;

use anyhow::Result;
use protocol::api::message_node::{MessageStatus, MessageWithStatus};
use protocol::api::scheduler::VmRecord;
use protocol::message::{MessageType, ProgramContent};
use protocol::{Account, ProgramId};

use crate::args::ProgramCommand;
use crate::commands::message::unknown;
use crate::context::Context;
use crate::failure::{Code, Failure};
use crate::network::Network;
use crate::publish;

/// Does what the command line says.
///
/// # Errors
/// Why it could not be done.
pub async fn run(context: &Context, command: ProgramCommand) -> Result<()> {
    match command {
        ProgramCommand::Upload(args) => upload::upload(context, args).await,
        ProgramCommand::List { full } => list::list(context, full).await,
        ProgramCommand::Show(args) => show::show(context, &args.program).await,
        ProgramCommand::Find(args) => find::find(context, &args.program).await,
        ProgramCommand::History(args) => history::history(context, args).await,
        ProgramCommand::Logs(args) => logs::logs(context, args).await,
        ProgramCommand::Update(args) => update::update(context, args).await,
        ProgramCommand::Delete(args) => delete::delete(context, &args).await,
        ProgramCommand::Persist(args) => persistence::persist(context, args).await,
        ProgramCommand::Unpersist(args) => persistence::unpersist(context, args).await,
        ProgramCommand::Move(args) => moving::move_program(context, args).await,
    }
}

/// Asks for a program's message, whatever its status.
///
/// # Errors
/// [`Failure`] when the message node does not know it, or it is no program.
pub(super) async fn message(context: &Context, program: &ProgramId) -> Result<MessageWithStatus> {
    let found = context.node.message(&program.to_string()).await?;
    let found = found.ok_or_else(|| unknown(context, &format!("program {program}")))?;
    let stored = found.message.as_ref().or(found.messages.as_ref().and_then(|messages| messages.first()));
    match stored.map(|stored| stored.envelope.message_type) {
        Some(MessageType::Program) | None => Ok(found),
        Some(other) => Err(Failure::new(Code::NotFound, format!("{program} is a {other} message, not a program"))
            .hint("`aleph program list` shows your programs, `aleph message get` any message")
            .into()),
    }
}

/// What a program's message says; `None` when the message node no longer has it, as for forgotten ones.
///
/// # Errors
/// [`Failure`] when it does not follow the schema.
pub(super) fn content(found: &MessageWithStatus) -> Result<Option<ProgramContent>, Failure> {
    let Some(stored) = found.message.as_ref().or(found.messages.as_ref().and_then(|messages| messages.first())) else {
        return Ok(None);
    };
    let text = match (&stored.envelope.item_content, &stored.content) {
        (Some(text), _) => text.clone(),
        (None, Some(content)) => content.to_string(),
        (None, None) => return Ok(None),
    };
    let failure = |e| Failure::new(Code::Malformed, format!("the program's message cannot be read: {e}"));
    ProgramContent::parse(&text).map(Some).map_err(failure)
}

/// A program in force that this account may change.
///
/// # Errors
/// [`Failure`] when it is not in force, or somebody else's.
async fn own_in_force(context: &Context, account: &Account, program: &ProgramId) -> Result<ProgramContent> {
    let found = message(context, program).await?;
    if found.status == MessageStatus::Pending {
        let text = format!("the message node is still checking the program {program}");
        return Err(Failure::new(Code::TimedOut, text).hint("try again in a moment").into());
    }
    if !found.status.is_in_force() {
        return Err(publish::refusal(&found, &format!("the program {program}")).into());
    }
    let Some(content) = content(&found)? else {
        return Err(Failure::new(Code::Malformed, format!("the message node has no content of {program}")).into());
    };
    require_own(account, &content, program)?;
    Ok(content)
}

fn require_own(account: &Account, content: &ProgramContent, program: &ProgramId) -> Result<(), Failure> {
    if content.address == *account.address() {
        return Ok(());
    }
    let text = format!("the program {program} belongs to {}, and you are {}", content.address, account.address());
    Err(Failure::new(Code::NotYours, text).hint("name the owner's key with --private-key-file"))
}

/// A program's name for people.
fn name_of(content: &ProgramContent) -> &str {
    content.name().unwrap_or("-")
}

/// Where a program is reached: its stable URL as the scheduler says it, otherwise at the gateway.
fn url_of(
    network: &Network,
    program: &ProgramId,
    content: &ProgramContent,
    record: Option<&VmRecord>,
) -> Option<String> {
    let known = record.and_then(|record| record.url.clone());
    content.on.http.then(|| known.or_else(|| network.program_url(program))).flatten()
}

//! `aleph program delete`

use anyhow::Result;
use protocol::api::message_node::{MessageFilter, MessageStatus};
use protocol::message::{ErrorCode, MessageType};
use protocol::{Account, ProgramId};
use serde_json::{Value, json};

use super::{content, message, name_of, require_own};
use crate::args::DeleteArgs;
use crate::context::{Context, ask};
use crate::failure::{Code, Failure};
use crate::output::{facts, printable};
use crate::publish::{self, DECISION_LIMIT};
use crate::{ids, signing};

/// What became of the code.
enum CodeFate {
    Deleted,
    Kept(String),
}

/// Deletes a program and its code.
///
/// # Errors
/// Why it could not be done.
pub(super) async fn delete(context: &Context, args: &DeleteArgs) -> Result<()> {
    let account = context.account()?;
    let program = ids::program(context, &args.program).await?;
    let found = message(context, &program).await?;
    if found.status == MessageStatus::Forgotten {
        context.out.note("The program is deleted already.");
        return report(context, &program, false, None);
    }
    let Some(content) = content(&found)? else {
        return Err(Failure::new(Code::Malformed, format!("the message node has no content of {program}")).into());
    };
    require_own(&account, &content, &program)?;
    if !args.yes && context.out.can_ask() {
        let question = format!("Delete the program {} ({})?", printable(name_of(&content)), ids::short(&program));
        if !ask(&question, false)? {
            return Err(Failure::new(Code::Interrupted, "nothing was deleted").into());
        }
    }
    // What was rejected never came into force: only its code is there.
    let is_there = found.status != MessageStatus::Rejected;
    if is_there {
        let step = context.out.step("deleting the program");
        let forget = signing::forget(&account, vec![program.to_string()], "deleted by its owner");
        publish::publish(context, &step, &forget, "the deletion", DECISION_LIMIT).await?;
        context.interruption.leaves("The program is deleted; its code may still be there.");
    }
    let fate = match args.keep_code {
        true => CodeFate::Kept("as asked".to_owned()),
        false => delete_code(context, &account, &content.code.reference).await?,
    };
    report(context, &program, is_there, Some((&content.code.reference, fate)))
}

/// Deletes the code with all its versions. That another program uses it is no failure.
async fn delete_code(context: &Context, account: &Account, code: &str) -> Result<CodeFate> {
    let step = context.out.step("deleting the code");
    let Some(found) = context.node.message(code).await? else {
        return Ok(CodeFate::Kept("the message node does not know it".to_owned()));
    };
    let owner = found.message.as_ref().and_then(|message| message.content.as_ref()?.get("address")?.as_str());
    if !found.status.is_in_force() {
        return Ok(CodeFate::Kept(format!("it is {} already", found.status.as_str())));
    }
    if owner.is_some_and(|owner| protocol::Address::new(owner) != *account.address()) {
        return Ok(CodeFate::Kept("it belongs to somebody else".to_owned()));
    }
    let versions = MessageFilter {
        types: vec![MessageType::Store],
        refs: vec![code.to_owned()],
        owners: vec![account.address().clone()],
        ..MessageFilter::default()
    };
    let versions = context.node.all_messages(&versions).await?;
    let mut hashes = vec![code.to_owned()];
    hashes.extend(versions.into_iter().map(|version| version.envelope.item_hash));
    let forget = signing::forget(account, hashes, "code of a deleted program");
    let error = match publish::publish(context, &step, &forget, "the deletion of the code", DECISION_LIMIT).await {
        Ok(()) => return Ok(CodeFate::Deleted),
        Err(error) => error,
    };
    let failure = error.downcast::<Failure>()?;
    let details = failure.details.as_ref();
    let error_code = details.and_then(|details| details.get("error_code")).and_then(Value::as_i64);
    match error_code.is_some_and(|code| code == i64::from(ErrorCode::ForgetNotAllowed.code())) {
        true => Ok(CodeFate::Kept("another program uses it".to_owned())),
        false => Err(anyhow::Error::from(failure).context("the program is deleted, its code is not")),
    }
}

fn report(context: &Context, program: &ProgramId, deleted: bool, code: Option<(&String, CodeFate)>) -> Result<()> {
    let (hash, fate) = code.unzip();
    let (code_deleted, why) = match &fate {
        None => (false, None),
        Some(CodeFate::Deleted) => (true, None),
        Some(CodeFate::Kept(why)) => (false, Some(why)),
    };
    let value = json!({
        "item_hash": program,
        "deleted": deleted,
        "code": hash.map(|hash| json!({ "item_hash": hash, "deleted": code_deleted, "kept_because": why })),
    });
    context.out.result(&value, || {
        let code = hash.map(|hash| match why {
            None => format!("{hash} (deleted)"),
            Some(why) => format!("{hash} (kept: {why})"),
        });
        let word = if deleted { "deleted" } else { "not in force" };
        facts([("Program", Some(format!("{program} ({word})"))), ("Code", code)])
    })
}

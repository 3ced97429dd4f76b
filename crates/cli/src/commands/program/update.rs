//! `aleph program update`: publishes a later version of a program's code.

use std::time::Duration;

use anyhow::Result;
use protocol::api::message_node::StoredMessage;
use protocol::message::program::Encoding;
use protocol::message::{ProgramContent, StoreContent};
use protocol::{Account, ProgramId};
use serde_json::json;

use super::upload::{pack, remark, send_code};
use super::{own_in_force, url_of};
use crate::args::UpdateArgs;
use crate::commands::message::unknown;
use crate::context::Context;
use crate::failure::{Code, Failure};
use crate::output::{facts, printable};
use crate::pack::{Entrypoint, Source};
use crate::{ids, publish, signing};

/// Uploads new code for a program.
///
/// # Errors
/// Why it could not be done.
pub(super) async fn update(context: &Context, args: UpdateArgs) -> Result<()> {
    let account = context.account()?;
    let source = Source::open(&args.path)?;
    let program = ids::program(context, &args.program).await?;
    let content = own_in_force(context, &account, &program).await?;
    let entrypoint = check(&args, &content, &program)?;
    remark(context, &source, source.check_entrypoint(&entrypoint, &args.path)?);
    let code = newest_code(context, &account, &content).await?;

    let packed = pack(context, source, Some(content.code.encoding)).await?;
    let changed = !packed.is_called(&code.item_hash)?;
    let file = if changed { publish::name(context, &packed).await? } else { packed.hash.into() };
    let store = signing::store(&account, file, Some(content.code.reference.clone()));
    if changed {
        send_code(context, &store, &packed, file, Duration::from_secs(args.wait_seconds)).await?;
    } else {
        context.out.note("The code is the same as before; nothing was uploaded.");
    }
    let url = url_of(context.network().await?, &program, &content, None);
    let value = json!({
        "item_hash": program,
        "name": content.name(),
        "changed": changed,
        "url": url,
        "code": {
            "item_hash": changed.then_some(&store.item_hash),
            "revision_of": content.code.reference,
            "file_hash": file.to_string(),
            "encoding": packed.encoding,
            "bytes": packed.bytes,
        },
    });
    context.out.result(&value, || {
        facts([
            ("Program", Some(program.to_string())),
            ("Name", content.name().map(printable)),
            ("URL", url.clone()),
            ("New code", changed.then(|| store.item_hash.clone())),
        ])
    })?;
    if changed {
        context.out.note(match content.is_persistent() {
            true => "Its node starts it again with the new code in a moment.",
            false => "Nodes start it with the new code from now on.",
        });
    }
    Ok(())
}

/// Checks that new code can reach the program. Returns its entrypoint.
fn check(args: &UpdateArgs, content: &ProgramContent, program: &ProgramId) -> Result<Entrypoint, Failure> {
    let code = &content.code;
    if let Some(entrypoint) = args.entrypoint.as_ref().filter(|entrypoint| **entrypoint != code.entrypoint) {
        let text =
            format!("the program's entrypoint is {}, and an update cannot make it {entrypoint}", code.entrypoint);
        return Err(Failure::usage(text).hint("upload a new program, then delete this one"));
    }
    if !code.use_latest {
        let text = format!("the program {program} always runs the code that it was uploaded with");
        return Err(Failure::new(Code::NotUpdatable, text)
            .hint("it was uploaded with --no-updatable; upload a new program, then delete this one"));
    }
    if code.encoding == Encoding::Plain {
        let text = format!("the code of {program} is a single plain file, which this client does not make");
        return Err(Failure::new(Code::NotUpdatable, text).hint("upload a new program, then delete this one"));
    }
    Entrypoint::parse(&code.entrypoint, Some(code.interface()))
}

/// The newest version of a program's code, which must be the account's own: others' versions do not count.
async fn newest_code(context: &Context, account: &Account, content: &ProgramContent) -> Result<StoreContent> {
    let hash = &content.code.reference;
    let found =
        context.node.message(hash).await?.ok_or_else(|| unknown(context, &format!("the program's code {hash}")))?;
    if !found.status.is_in_force() {
        return Err(publish::refusal(&found, &format!("the program's code {hash}")).into());
    }
    let first = found.message.as_ref().map(read).transpose()?;
    let Some(first) = first.filter(|store| store.address == *account.address()) else {
        let text = format!("the program's code {hash} belongs to somebody else, whose versions it follows");
        return Err(Failure::new(Code::NotYours, text).into());
    };
    match context.node.latest_revision(hash, account.address()).await? {
        Some(revision) => read(&revision),
        None => Ok(first),
    }
}

fn read(message: &StoredMessage) -> Result<StoreContent> {
    let content = message.content.clone().unwrap_or_default();
    serde_json::from_value(content).map_err(|e| {
        let text = format!("the message {} of the code cannot be read: {e}", message.envelope.item_hash);
        Failure::new(Code::Malformed, text).into()
    })
}

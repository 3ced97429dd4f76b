//! Sends messages and waits until they are in force.

use std::io;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use futures_util::{Stream, TryFutureExt, TryStreamExt};
use protocol::FileName;
use protocol::api::message_node::{BalanceError, MessageStatus, MessageWithStatus, UploadLimits};
use protocol::client::ClientError;
use protocol::message::{Envelope, ErrorCode};
use rust_decimal::Decimal;
use serde_json::{Value, json};
use tokio::fs::File;
use tokio::time::Instant;
use tokio_util::io::ReaderStream;

use crate::context::Context;
use crate::failure::{Code, Failure};
use crate::output::Step;
use crate::pack::Packed;
use crate::price;

/// How long to wait between two questions about a message.
const POLL: Duration = Duration::from_millis(500);

/// How long a message may be undecided before we give up waiting for it, where the command line does not say.
pub const DECISION_LIMIT: Duration = Duration::from_secs(120);

/// How much of a file is read at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// Sends a message and waits until it is in force. `what` names it to people, as "the program".
///
/// # Errors
/// [`Failure`] when it is rejected, stays undecided for as long as `limit`, or the message node cannot be asked.
pub async fn publish(context: &Context, step: &Step, message: &Envelope, what: &str, limit: Duration) -> Result<()> {
    let deadline = Instant::now() + limit;
    let send = async || context.node.submit(message, true).await;
    if send_until_taken(context, step, message, send, deadline).await?.is_some_and(MessageStatus::is_in_force) {
        return Ok(());
    }
    settle(context, step, &message.item_hash, what, limit).await
}

/// Uploads a packed file, by the name that its STORE message has for it, and waits until that is in force.
///
/// # Errors
/// [`Failure`] when the file or the message is refused, or the message node cannot be asked.
pub async fn upload(
    context: &Context,
    step: &Step,
    message: &Envelope,
    packed: &Packed,
    name: FileName,
    limit: Duration,
) -> Result<()> {
    let deadline = Instant::now() + limit;
    let send = async || {
        step.restart();
        let bytes = chunks(packed, step);
        match name {
            FileName::Sha256(_) => context.node.add_file(message, true, packed.bytes, bytes).await.map(FileName::from),
            FileName::DagPb(_) => context.node.add_ipfs_file(message, true, packed.bytes, bytes).await,
        }
    };
    match send_until_taken(context, step, message, send, deadline).await {
        Ok(Some(stored)) if stored != name => {
            let text = format!("the message node stored {stored}, but {name} was sent");
            return Err(Failure::new(Code::Malformed, text)
                .hint("the upload was damaged on its way; try again")
                .into());
        }
        Ok(_) => {}
        Err(ClientError::Status { status: 413, .. }) => return Err(more_than_taken(packed.bytes, None).into()),
        Err(ClientError::Status { status: 402, message, body, .. }) => {
            let reason = body.as_ref().and_then(|body| balance_error(body.pointer("/details/errors/0")?));
            return Err(reason.unwrap_or_else(|| price::insufficient(&message)).into());
        }
        Err(error) => return Err(error.into()),
    }
    settle(context, step, &message.item_hash, "the code", limit).await
}

/// Sends a message until the node has it: again when the node is busy, and not again when only the answer was lost or was
/// a refusal (`None`): the node then knows what became of the message.
async fn send_until_taken<T>(
    context: &Context,
    step: &Step,
    message: &Envelope,
    send: impl AsyncFn() -> Result<T, ClientError>,
    deadline: Instant,
) -> Result<Option<T>, ClientError> {
    loop {
        let error = match send().await {
            Ok(answer) => return Ok(Some(answer)),
            Err(error) => error,
        };
        let is_busy = matches!(error.status(), Some(429 | 503));
        match context.node.message(&message.item_hash).await {
            Ok(Some(_)) => return Ok(None),
            Ok(None) if is_busy && Instant::now() + POLL < deadline => {
                step.say("the message node is busy, trying again");
                tokio::time::sleep(POLL).await;
            }
            _ => return Err(error),
        }
    }
}

/// The bytes of a packed file as they are read.
fn chunks(packed: &Packed, step: &Step) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let (path, step) = (packed.path().to_owned(), step.clone());
    let opened = async move { File::open(path).await };
    opened.map_ok(move |file| ReaderStream::with_capacity(file, CHUNK_BYTES)).try_flatten_stream().inspect_ok(
        move |chunk| {
            step.advance(chunk.len() as u64);
        },
    )
}

/// Decides by which name a file is published: by its SHA-256, or by its CID where the message node takes larger files so.
/// Nodes that do not say what they take decide when the file is sent.
///
/// # Errors
/// [`Failure`] with [`Code::TooLarge`], or when the message node cannot be asked.
pub async fn name(context: &Context, packed: &Packed) -> Result<FileName> {
    let limits = match context.node.upload_limits().await {
        Ok(limits) => limits,
        Err(ClientError::Status { .. }) => UploadLimits::default(),
        Err(error) => return Err(error.into()),
    };
    let fits = |limit: Option<u64>| limit.is_none_or(|most| packed.bytes <= most);
    match limits {
        limits if fits(limits.storage) => Ok(packed.hash.into()),
        UploadLimits { ipfs: Some(most), .. } if packed.bytes <= most => {
            context.out.note("It is more than the message node takes into its storage; it is sent as a file of IPFS.");
            Ok(packed.cid()?)
        }
        limits => Err(more_than_taken(packed.bytes, limits.storage.max(limits.ipfs)).into()),
    }
}

fn more_than_taken(bytes: u64, most: Option<u64>) -> Failure {
    let most = most.map(|most| format!(" ({})", size(most))).unwrap_or_default();
    too_large(format!("the code has {} packed, more than the message node takes{most}", size(bytes)))
}

/// There is too much code.
pub fn too_large(text: String) -> Failure {
    Failure::new(Code::TooLarge, text)
        .hint("leave out what the program does not need at run time: list it in a file `.alephignore`")
}

/// Bytes in words.
pub fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// Waits until a message that the node has is decided.
async fn settle(context: &Context, step: &Step, hash: &str, what: &str, limit: Duration) -> Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        let found = context.node.message(hash).await;
        match found {
            Ok(Some(message)) if message.status.is_in_force() => return Ok(()),
            Ok(Some(message)) if message.status == MessageStatus::Pending => {
                step.say(format!("{what} is accepted, the message node is checking it"));
            }
            Ok(Some(message)) => return Err(refusal(&message, what).into()),
            Ok(None) => step.say(format!("waiting for the message node to take {what}")),
            Err(error) if error.is_transient() => step.say(format!("the message node does not answer ({error})")),
            Err(error) => return Err(error.into()),
        }
        if Instant::now() + POLL >= deadline {
            return Err(Failure::new(Code::TimedOut, format!("the message node has not decided about {what} yet"))
                .hint(format!("it may still do so: look with `aleph message get {hash}`"))
                .details(json!({ "item_hash": hash }))
                .into());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Why a message is not in force and never will be.
pub fn refusal(message: &MessageWithStatus, what: &str) -> Failure {
    let hash = &message.item_hash;
    match message.status {
        MessageStatus::Rejected => rejection(message, what),
        MessageStatus::Forgotten => {
            let by = message.forgotten_by.as_deref().unwrap_or_default().join(", ");
            Failure::new(Code::Forgotten, format!("{what} was deleted by {by}")).details(json!({ "item_hash": hash }))
        }
        status => {
            let reason = message.reason.as_deref().unwrap_or("the message node does not say why");
            Failure::new(Code::Rejected, format!("{what} is {}: {reason}", status.as_str()))
                .details(json!({ "item_hash": hash }))
        }
    }
}

fn rejection(message: &MessageWithStatus, what: &str) -> Failure {
    let code = message.error_code.and_then(ErrorCode::from_code);
    let errors = message.details.as_ref().and_then(|details| details.get("errors")?.as_array());
    if code == Some(ErrorCode::BalanceInsufficient)
        && let Some(balance) = errors.and_then(|errors| balance_error(errors.first()?))
    {
        return balance.details(json!({ "item_hash": message.item_hash, "error_code": message.error_code }));
    }
    let explanation = code.map_or_else(
        || format!("error code {}", message.error_code.map_or("unknown".to_owned(), |code| code.to_string())),
        |code| code.explanation().to_owned(),
    );
    let errors: Vec<String> = errors.into_iter().flatten().map(plain).collect();
    let errors = if errors.is_empty() { String::new() } else { format!(" ({})", errors.join("; ")) };
    let details = json!({
        "item_hash": message.item_hash,
        "error_code": message.error_code,
        "details": message.details,
    });
    Failure::new(Code::Rejected, format!("the message node rejected {what}: {explanation}{errors}")).details(details)
}

fn balance_error(error: &Value) -> Option<Failure> {
    let error: BalanceError = serde_json::from_value(error.clone()).ok()?;
    let (balance, required): (Decimal, Decimal) =
        (error.account_balance.parse().ok()?, error.required_balance.parse().ok()?);
    Some(price::insufficient(&format!(
        "your programs and files together need {} ALEPH, and the account holds {} ALEPH",
        price::tokens(required),
        price::tokens(balance)
    )))
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejected(code: i32, details: Value) -> MessageWithStatus {
        serde_json::from_value(json!({
            "status": "rejected", "item_hash": "ab", "reception_time": "2026-01-01T00:00:00Z",
            "error_code": code, "details": details,
        }))
        .unwrap()
    }

    #[test]
    fn rejections_explain_themselves() {
        let details = json!({"errors": [{"account_balance": "12.50", "required_balance": "2000.000"}]});
        let failure = refusal(&rejected(5, details), "the program");
        assert_eq!(failure.code, Code::InsufficientBalance);
        assert!(failure.message.contains("2000 ALEPH") && failure.message.contains("12.5"), "{failure}");
        assert!(failure.hint.unwrap().contains("--vcpus"));

        let failure = refusal(&rejected(301, json!({"errors": ["ref aa"]})), "the program");
        assert_eq!(failure.code, Code::Rejected);
        assert!(failure.message.contains("upload it first") && failure.message.contains("ref aa"), "{failure}");
        assert!(refusal(&rejected(9999, Value::Null), "it").message.contains("9999"));
        assert!(refusal(&rejected(5, Value::Null), "it").message.contains("balance"));
    }
}

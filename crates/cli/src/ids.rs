//! The programs that people name: by id, by the start of an id, or by URL.

use anyhow::Result;
use protocol::api::message_node::{MessageFilter, MessageStatus, StoredMessage};
use protocol::message::MessageType;
use protocol::{Address, ProgramId};
use serde_json::json;
use url::Url;

use crate::context::Context;
use crate::failure::{Code, Failure};
use crate::keys;

/// The fewest digits of an abbreviated id.
const FEWEST_DIGITS: usize = 8;
/// How many digits of an id tables show.
const SHORT_DIGITS: usize = 12;
/// How many programs an ambiguous id lists.
const CANDIDATES: usize = 5;

/// The start of an id, for tables.
pub fn short(id: &impl std::fmt::Display) -> String {
    id.to_string().chars().take(SHORT_DIGITS).collect()
}

/// What somebody wrote to name a program.
#[derive(Debug, PartialEq, Eq)]
enum Name {
    Whole(ProgramId),
    /// Lower-case digits.
    Start(String),
}

fn parse(text: &str) -> Result<Name, Failure> {
    let text = text.trim();
    if let Ok(id) = text.parse() {
        return Ok(Name::Whole(id));
    }
    if let Ok(id) = ProgramId::from_host_label(text) {
        return Ok(Name::Whole(id));
    }
    if let Some(id) = text.contains("://").then(|| from_url(text)).flatten() {
        return Ok(Name::Whole(id));
    }
    if (FEWEST_DIGITS..64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(Name::Start(text.to_ascii_lowercase()));
    }
    Err(Failure::usage(format!("'{text}' names no program")).hint(format!(
        "write the program's id (64 hexadecimal digits, or at least the first {FEWEST_DIGITS}) or its URL; `aleph \
         program list` shows your programs"
    )))
}

/// The program that a URL names: `…/vm/<id>…`, or by its host label.
fn from_url(text: &str) -> Option<ProgramId> {
    let url = Url::parse(text).ok()?;
    let mut segments = url.path_segments()?;
    if let Some(id) = segments.find(|segment| *segment == "vm").and_then(|_| segments.next()?.parse().ok()) {
        return Some(id);
    }
    ProgramId::from_host_label(url.host_str()?.split('.').next()?).ok()
}

/// The program that somebody names. Only the start of an id needs the message node and an account.
///
/// # Errors
/// [`Failure`] when it names none, or several.
pub async fn program(context: &Context, text: &str) -> Result<ProgramId> {
    let start = match parse(text)? {
        Name::Whole(id) => return Ok(id),
        Name::Start(start) => start,
    };
    let Some(account) = keys::load(&context.settings)? else {
        let failure = keys::no_key(&context.settings);
        return Err(failure.hint("write the whole id: abbreviated ids are looked up among your own programs").into());
    };
    let found: Vec<String> = own(context, account.address(), true)
        .await?
        .into_iter()
        .map(|message| message.envelope.item_hash)
        .filter(|hash| hash.starts_with(&start))
        .collect();
    match &found[..] {
        [hash] => Ok(hash.parse()?),
        [] => Err(Failure::new(Code::NotFound, format!("you have no program whose id starts with {start}"))
            .hint("`aleph program list` shows your programs")
            .into()),
        several => {
            let list = several.iter().take(CANDIDATES).map(|hash| format!("\n  {hash}")).collect::<String>();
            Err(Failure::new(Code::Ambiguous, format!("{} programs start with {start}:{list}", several.len()))
                .hint("write more digits")
                .details(json!({ "candidates": several }))
                .into())
        }
    }
}

/// An owner's programs that are in force; also those that are not yet or no longer, when `all` says so.
///
/// # Errors
/// When the message node cannot be asked.
pub async fn own(context: &Context, owner: &Address, all: bool) -> Result<Vec<StoredMessage>> {
    let mut statuses = vec![MessageStatus::Processed, MessageStatus::Removing];
    if all {
        statuses.extend([MessageStatus::Pending, MessageStatus::Rejected, MessageStatus::Removed]);
    }
    let filter = MessageFilter {
        types: vec![MessageType::Program],
        statuses,
        owners: vec![owner.clone()],
        ..MessageFilter::default()
    };
    Ok(context.node.all_messages(&filter).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_named_by_id_label_url_or_start() {
        let id = ProgramId::from_bytes([0xab; 32]);
        for text in [
            id.to_string(),
            id.to_string().to_uppercase(),
            id.host_label(),
            format!("http://127.0.0.1:4020/vm/{id}/items?x=1"),
            format!("https://{}.aleph.sh/", id.host_label()),
        ] {
            assert_eq!(parse(&text).unwrap(), Name::Whole(id), "{text}");
        }
        assert_eq!(parse("ABCDEF01").unwrap(), Name::Start("abcdef01".into()));
        for text in ["abcdef0", "xyzxyzxyz", "", "https://example.org/", &"a".repeat(65)] {
            assert_eq!(parse(text).unwrap_err().code, Code::Usage, "{text}");
        }
    }
}

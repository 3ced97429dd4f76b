//! Reads programs from messages. A message node is not trusted to invent them: hash and signature are checked here.
//!
//! Whether the sender may act for the owner that the content names, and whether the program is paid for, is for the message
//! node to judge.

use futures_util::StreamExt;
use protocol::ProgramId;
use protocol::client::{ClientError, MessageNode};
use protocol::message::{ContentError, Envelope, EnvelopeError, ItemType, MAX_ITEM_CONTENT_CHARS, MessageType};

use crate::core::ProgramSpec;

/// The longest content that is read from a file, in bytes: as much as may be inline, whatever its characters.
const MAX_CONTENT_BYTES: usize = 4 * MAX_ITEM_CONTENT_CHARS;

/// Why a message is not taken for a program.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    /// The hash or the signature is wrong.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// It is no program's content.
    #[error("its content is not a program's: {0}")]
    Content(#[from] ContentError),
    /// It is named by something else than a SHA-256.
    #[error("only programs that are named by a SHA-256 are supported")]
    Name,
    /// It is too long, or no text.
    #[error("its content has more than {MAX_CONTENT_BYTES} bytes or is not UTF-8")]
    Unreadable,
}

/// Reads a program from its message; `Ok(Ok(None))` when the message does not ask for it to run always.
///
/// # Errors
/// [`ClientError`] when the message node cannot be asked for the content; whether the message is usable is not known then.
pub(super) async fn read(
    client: &MessageNode,
    message: &Envelope,
) -> Result<Result<Option<ProgramSpec>, Unusable>, ClientError> {
    let content = match (&message.item_type, &message.item_content) {
        (ItemType::Inline, Some(content)) => content.clone(),
        (ItemType::Storage, None) => match fetch(client, &message.item_hash).await? {
            Some(content) => content,
            None => return Ok(Err(Unusable::Unreadable)),
        },
        _ => return Ok(Err(Unusable::Name)),
    };
    Ok(check(message, content))
}

fn check(message: &Envelope, content: String) -> Result<Option<ProgramSpec>, Unusable> {
    if message.message_type != MessageType::Program {
        return Ok(None);
    }
    let id: ProgramId = message.item_hash.parse().map_err(|_| Unusable::Name)?;
    // Most programs run on demand: those are not worth the price of a signature.
    let Some(spec) = ProgramSpec::read(id, content)? else { return Ok(None) };
    message.verify_content(&spec.content)?;
    message.verify()?;
    Ok(Some(spec))
}

async fn fetch(client: &MessageNode, hash: &str) -> Result<Option<String>, ClientError> {
    let Some(file) = client.file(hash).await? else { return Ok(None) };
    let (mut bytes, mut chunks) = (Vec::new(), std::pin::pin!(file.bytes()));
    while let Some(chunk) = chunks.next().await {
        bytes.extend_from_slice(&chunk?);
        if bytes.len() > MAX_CONTENT_BYTES {
            return Ok(None);
        }
    }
    Ok(String::from_utf8(bytes).ok())
}

#[cfg(test)]
mod tests {
    use protocol::Account;
    use protocol::message::MessageTime;

    use super::*;

    fn signed() -> Envelope {
        let content = crate::core::tests::content(1, 128).to_string();
        Envelope::sign_inline(&Account::generate(), MessageType::Program, content, MessageTime::now(), None)
    }

    fn read(message: &Envelope) -> Result<Option<ProgramSpec>, Unusable> {
        check(message, message.item_content.clone().unwrap())
    }

    #[test]
    fn a_signed_persistent_program_is_desired() {
        let message = signed();
        assert_eq!(read(&message).unwrap().unwrap().id.to_string(), message.item_hash);
    }

    #[test]
    fn invented_programs_are_refused() {
        let unsigned = Envelope { signature: None, ..signed() };
        assert!(matches!(read(&unsigned), Err(Unusable::Envelope(EnvelopeError::Signature(_)))));
        let content = crate::core::tests::content(2, 128).to_string();
        let replaced = Envelope { item_content: Some(content), ..signed() };
        assert!(matches!(read(&replaced), Err(Unusable::Envelope(EnvelopeError::WrongHash { .. }))));
        let foreign = Envelope { signature: signed().signature, ..signed() };
        assert!(matches!(read(&foreign), Err(Unusable::Envelope(EnvelopeError::Signature(_)))));
        let nonsense = Envelope { item_content: Some("{}".into()), ..signed() };
        assert!(matches!(read(&nonsense), Err(Unusable::Content(_))));
        let by_ipfs = Envelope { item_hash: "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG".into(), ..signed() };
        assert!(matches!(read(&by_ipfs), Err(Unusable::Name)));
    }
}

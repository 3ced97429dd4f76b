//! The rules of the network: for each type of message, what has to hold for it to be accepted; and those of the archive.
//!
//! Everything here is pure. The pipeline looks the facts up, asks, and carries out what is decided. Each check returns
//! `Ok` with what there is to do, or a [`Refusal`].

pub(crate) mod aggregate;
pub mod archive;
pub(crate) mod balances;
pub(crate) mod car;
pub(crate) mod chain;
pub(crate) mod content;
pub(crate) mod follow;
pub(crate) mod forget;
pub(crate) mod hold;
pub(crate) mod network;
pub(crate) mod payment;
pub(crate) mod permission;
pub(crate) mod post;
pub(crate) mod program;
pub(crate) mod quota;
pub mod retention;
pub(crate) mod store;
pub(crate) mod unixfs;

use protocol::FileName;
use protocol::message::{ErrorCode, MessageType};
use serde_json::{Value, json};

/// Why a message is rejected.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rejection {
    /// The code that clients know.
    pub code: ErrorCode,
    /// What exactly is wrong, in the shapes that clients know where there is one.
    pub errors: Vec<Value>,
}

impl Rejection {
    /// A rejection with a sentence for people.
    pub(crate) fn new(code: ErrorCode, sentence: impl Into<String>) -> Self {
        Self { code, errors: vec![Value::String(sentence.into())] }
    }

    /// A rejection with the error code's own explanation.
    pub(crate) fn of(code: ErrorCode) -> Self {
        Self::new(code, code.explanation())
    }

    /// The `details` of `GET /messages/{hash}`.
    pub(crate) fn details(&self) -> Value {
        json!({ "errors": self.errors })
    }
}

/// Something that a message may wait for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Awaited {
    /// The outcome of the message with this hash.
    Message(String),
    /// The file that this is a name of.
    File(FileName),
    /// What this account holds, canonical. However long that takes: unknown is not zero.
    Balance(String),
}

/// Why a message is not accepted now.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Refusal {
    /// It never will be.
    Final(Rejection),
    /// It may be once this has arrived; if it does not in time, it is rejected like this.
    Until(Awaited, Rejection),
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Self {
        Self::Final(rejection)
    }
}

/// What the node knows of a message that another one refers to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Known<T> {
    /// Nothing, or only that it waits to be decided: it may still come into force.
    NotYet,
    /// It was decided and is not in force, or is of another type: it never will be what is asked for.
    Never,
    /// It is in force.
    InForce(T),
}

impl<T> Known<T> {
    /// The facts of the message if it is in force; otherwise a refusal that waits for it if that makes sense.
    fn or_refuse(self, hash: &str, code: ErrorCode) -> Result<T, Refusal> {
        let rejection = |why: &str| {
            let sentence = format!("{hash} {why}: {}", code.explanation());
            Rejection { code, errors: vec![json!({ "message": hash, "error": sentence })] }
        };
        match self {
            Self::InForce(facts) => Ok(facts),
            Self::NotYet => Err(Refusal::Until(Awaited::Message(hash.to_owned()), rejection("did not arrive"))),
            Self::Never => Err(rejection("is not in force or of another type").into()),
        }
    }
}

/// The message type with this word.
pub(crate) fn type_from_name(name: &str) -> Option<MessageType> {
    serde_json::from_value(Value::String(name.to_owned())).ok()
}

/// Whether a text has the form of an item hash: SHA-256 in lower-case hexadecimal, or a CID.
pub(crate) fn is_item_hash(text: &str) -> bool {
    is_native_hash(text)
        || (text.len() >= 44 && text.len() <= 46 && text.starts_with("Qm"))
        || (text.len() == 59 && text.starts_with("bafy"))
}

/// Whether a text is a SHA-256 in lower-case hexadecimal.
pub(crate) fn is_native_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_comes_is_refused_at_once_and_what_may_come_is_awaited() {
        let code = ErrorCode::VmRefNotFound;
        assert_eq!(Known::InForce(7).or_refuse("h", code), Ok(7));
        assert!(matches!(Known::<()>::Never.or_refuse("h", code), Err(Refusal::Final(r)) if r.code == code));
        assert!(matches!(
            Known::<()>::NotYet.or_refuse("h", code),
            Err(Refusal::Until(Awaited::Message(hash), r)) if hash == "h" && r.code == code
        ));
    }

    #[test]
    fn type_names_return_to_themselves() {
        for name in protocol::openapi::MESSAGE_TYPES {
            assert_eq!(type_from_name(name).unwrap().to_string(), name);
        }
        assert_eq!(type_from_name("program"), None);
    }

    #[test]
    fn hashes_are_told_from_names() {
        assert!(is_item_hash(&"a1".repeat(32)));
        assert!(is_item_hash("QmYULJoNGPDmoRq4WNWTDTUvJGJv1hosox8H6vVd1kCsY8"));
        for text in ["", "my-file", &"A1".repeat(32), &"g1".repeat(32), &"a1".repeat(31)] {
            assert!(!is_item_hash(text), "{text}");
        }
    }
}

//! FORGET: takes messages back.
//!
//! Whoever could have made a message can take it back: the sender of the FORGET is checked against each target, with the
//! target's type, channel and so on. The FORGET's own `address` grants nothing and is not checked.

use protocol::Address;
use protocol::message::{ErrorCode, ForgetContent, MessageType};
use serde_json::json;

use super::permission::{self, Authorizations, Subject};
use super::{Awaited, Refusal, Rejection};

/// What is known of one message that is to be forgotten.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Target {
    /// Nothing, or it waits to be decided.
    NotYet,
    /// It was rejected or removed: there is nothing to take back.
    Over,
    /// It is in force, or forgotten already (then only `forgotten_by` grows).
    Decided {
        /// What it is and whose.
        subject: Subject,
        /// Who may act for its owner.
        given: Authorizations,
        /// A program in force, not forgotten by the same message, that needs this file.
        used_by: Option<String>,
    },
}

/// Decides on a FORGET message.
///
/// # Errors
/// [`Refusal`] with one of the codes 2, 500, 501, 502, 503.
pub(crate) fn check(sender: &Address, content: &ForgetContent, targets: &[(String, Target)]) -> Result<(), Refusal> {
    if content.hashes.is_empty() && content.aggregates.is_empty() {
        return Err(Rejection::of(ErrorCode::ForgetNoTarget).into());
    }
    for (hash, target) in targets {
        match target {
            Target::Over => {}
            Target::NotYet => {
                let rejection = about(hash, ErrorCode::ForgetTargetNotFound);
                return Err(Refusal::Until(Awaited::Message(hash.clone()), rejection));
            }
            Target::Decided { subject, given, used_by } => {
                if subject.message_type == MessageType::Forget {
                    return Err(about(hash, ErrorCode::ForgetForget).into());
                }
                permission::check(sender, subject, given)?;
                if let Some(program) = used_by {
                    let sentence = format!("File {hash} is used by program {program}: forget the program first");
                    return Err(Rejection::new(ErrorCode::ForgetNotAllowed, sentence).into());
                }
            }
        }
    }
    Ok(())
}

fn about(hash: &str, code: ErrorCode) -> Rejection {
    Rejection { code, errors: vec![json!({ "message": hash, "error": code.explanation() })] }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forget(hashes: &[&str]) -> ForgetContent {
        serde_json::from_value(json!({"address": "0xAnybody", "time": 1, "hashes": hashes})).unwrap()
    }

    fn target(owner: &str, message_type: MessageType, used_by: Option<&str>) -> Target {
        let subject = Subject {
            owner: Address::new(owner),
            message_type,
            chain: "ETH".into(),
            channel: None,
            post_type: None,
            aggregate_key: None,
        };
        let given = Authorizations::from_json(&json!([{"address": "0xFriend", "types": ["STORE"]}]));
        Target::Decided { subject, given, used_by: used_by.map(str::to_owned) }
    }

    fn decide(sender: &str, target: Target) -> Result<(), ErrorCode> {
        check(&Address::new(sender), &forget(&["h"]), &[("h".to_owned(), target)]).map_err(|refusal| match refusal {
            Refusal::Final(rejection) | Refusal::Until(_, rejection) => rejection.code,
        })
    }

    #[test]
    fn who_could_have_made_it_can_take_it_back() {
        assert_eq!(decide("0xOWNER", target("0xOwner", MessageType::Post, None)), Ok(()));
        assert_eq!(decide("0xFriend", target("0xOwner", MessageType::Store, None)), Ok(()));
        assert_eq!(decide("0xFriend", target("0xOwner", MessageType::Post, None)), Err(ErrorCode::PermissionDenied));
        assert_eq!(decide("0xAnybody", target("0xOwner", MessageType::Post, None)), Err(ErrorCode::PermissionDenied));
    }

    #[test]
    fn what_cannot_be_forgotten_is_refused_with_its_code() {
        assert_eq!(decide("0xOwner", target("0xOwner", MessageType::Forget, None)), Err(ErrorCode::ForgetForget));
        assert_eq!(
            decide("0xOwner", target("0xOwner", MessageType::Store, Some("p"))),
            Err(ErrorCode::ForgetNotAllowed)
        );
        assert_eq!(
            decide("0xStranger", target("0xOwner", MessageType::Store, Some("p"))),
            Err(ErrorCode::PermissionDenied),
            "a stranger learns nothing about programs"
        );
        assert_eq!(decide("0xOwner", Target::NotYet), Err(ErrorCode::ForgetTargetNotFound));
        assert_eq!(decide("0xOwner", Target::Over), Ok(()));
        let nothing = check(&Address::new("0x1"), &forget(&[]), &[]);
        assert!(matches!(nothing, Err(Refusal::Final(r)) if r.code == ErrorCode::ForgetNoTarget));
    }
}

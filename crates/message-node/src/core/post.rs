//! POST: a document. A post of type `amend` replaces the document of the post that its `ref` names.

use protocol::Address;
use protocol::message::{ErrorCode, PostContent};

use super::content::post_reference;
use super::{Known, Refusal, Rejection};

/// The type of posts that replace others.
const AMEND: &str = "amend";

/// A post in force that another one amends.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Amended {
    /// Its owner.
    pub owner: Address,
    /// Its type.
    pub post_type: String,
    /// Whether it is an amend itself.
    pub is_amend: bool,
}

/// Whether the post replaces another one.
pub(crate) fn is_amend(content: &PostContent) -> bool {
    content.post_type == AMEND
}

/// The post that is amended; `None` for posts that stand for themselves.
///
/// # Errors
/// [`ErrorCode::PostAmendNoTarget`] when an amend names none.
pub(crate) fn target(content: &PostContent) -> Result<Option<&str>, Rejection> {
    match (is_amend(content), post_reference(content)) {
        (false, _) => Ok(None),
        (true, Some(hash)) => Ok(Some(hash)),
        (true, None) => Err(Rejection::of(ErrorCode::PostAmendNoTarget)),
    }
}

/// Decides whether the content may amend the post `hash`; whether the sender may act for the owner is checked apart, as for
/// the amended post.
///
/// # Errors
/// [`Refusal`] with one of the codes 2, 101, 102.
pub(crate) fn check_amend(content: &PostContent, hash: &str, known: Known<Amended>) -> Result<Amended, Refusal> {
    let amended = known.or_refuse(hash, ErrorCode::PostAmendTargetNotFound)?;
    if amended.is_amend {
        return Err(Rejection::of(ErrorCode::PostAmendAmend).into());
    }
    if amended.owner != content.address {
        let sentence = format!("{hash} belongs to {}; only its owner can amend it", amended.owner);
        return Err(Rejection::new(ErrorCode::PermissionDenied, sentence).into());
    }
    Ok(amended)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn post(post_type: &str, reference: serde_json::Value) -> PostContent {
        let content = json!({"address": "0xOwner", "time": 1, "type": post_type, "ref": reference, "content": {}});
        serde_json::from_value(content).unwrap()
    }

    #[test]
    fn only_amends_have_a_target() {
        assert_eq!(target(&post("note", json!("h"))), Ok(None));
        assert_eq!(target(&post("amend", json!("h"))), Ok(Some("h")));
        assert_eq!(target(&post("amend", json!({"item_hash": "h"}))), Ok(Some("h")));
        assert_eq!(target(&post("amend", json!(null))).unwrap_err().code, ErrorCode::PostAmendNoTarget);
    }

    #[test]
    fn amends_replace_an_original_of_the_same_owner() {
        let amend = post("amend", json!("h"));
        let known = |owner: &str, is_amend| {
            Known::InForce(Amended { owner: Address::new(owner), post_type: "note".into(), is_amend })
        };
        let code = |known| match check_amend(&amend, "h", known).unwrap_err() {
            Refusal::Final(rejection) | Refusal::Until(_, rejection) => rejection.code,
        };
        assert_eq!(check_amend(&amend, "h", known("0xOWNER", false)).unwrap().post_type, "note");
        assert_eq!(code(known("0xOwner", true)), ErrorCode::PostAmendAmend);
        assert_eq!(code(known("0xOther", false)), ErrorCode::PermissionDenied);
        assert_eq!(code(Known::NotYet), ErrorCode::PostAmendTargetNotFound);
        assert!(matches!(check_amend(&amend, "h", Known::NotYet), Err(Refusal::Until(..))));
    }
}

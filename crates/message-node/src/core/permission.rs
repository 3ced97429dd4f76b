//! Who may act for whom.
//!
//! An account acts for itself. It may let others act for it with its `security` aggregate:
//! `{"authorizations": [{"address": "0x…", "types": ["POST"], "channels": […], "chain": "ETH", "post_types": […],
//! "aggregate_keys": […]}]}`; an absent or empty list allows everything. The rules are pyaleph's (`permissions.py`).

use protocol::Address;
use protocol::message::{ErrorCode, MessageType};
use serde::Deserialize;
use serde_json::Value;

use super::Rejection;

/// The key of the aggregate that holds the authorisations.
pub(crate) const SECURITY_KEY: &str = "security";

/// What somebody wants to make, or to take back.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Subject {
    /// The account that it belongs to.
    pub owner: Address,
    /// The type of the message.
    pub message_type: MessageType,
    /// The word of its chain.
    pub chain: String,
    /// Its channel.
    pub channel: Option<String>,
    /// `content.type` of a POST.
    pub post_type: Option<String>,
    /// `content.key` of an AGGREGATE.
    pub aggregate_key: Option<String>,
}

/// The authorisations that an account gave.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Authorizations(Vec<Authorization>);

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Authorization {
    address: Address,
    chain: Option<String>,
    channels: Option<Vec<String>>,
    types: Option<Vec<String>>,
    post_types: Option<Vec<String>>,
    aggregate_keys: Option<Vec<String>>,
}

impl Authorizations {
    /// Reads the `authorizations` of a `security` aggregate. Entries that cannot be read allow nothing.
    pub(crate) fn from_json(authorizations: &Value) -> Self {
        let entries = authorizations.as_array().into_iter().flatten();
        Self(entries.filter_map(|entry| Authorization::deserialize(entry).ok()).collect())
    }
}

/// Checks that `sender` may act on the subject.
///
/// # Errors
/// [`ErrorCode::PermissionDenied`].
pub(crate) fn check(sender: &Address, subject: &Subject, given: &Authorizations) -> Result<(), Rejection> {
    if *sender == subject.owner || given.0.iter().any(|authorization| authorization.allows(sender, subject)) {
        return Ok(());
    }
    let sentence = format!("{sender} may not act for {}: {}", subject.owner, ErrorCode::PermissionDenied.explanation());
    Err(Rejection::new(ErrorCode::PermissionDenied, sentence))
}

impl Authorization {
    fn allows(&self, sender: &Address, subject: &Subject) -> bool {
        let in_list = |list: &Option<Vec<String>>, value: Option<&str>| match list.as_deref() {
            None | Some([]) => true,
            Some(allowed) => value.is_some_and(|value| allowed.iter().any(|a| a == value)),
        };
        self.address == *sender
            && self.chain.as_ref().is_none_or(|chain| chain.is_empty() || *chain == subject.chain)
            && in_list(&self.channels, subject.channel.as_deref())
            && in_list(&self.types, Some(&subject.message_type.to_string()))
            && (subject.message_type != MessageType::Post || in_list(&self.post_types, subject.post_type.as_deref()))
            && (subject.message_type != MessageType::Aggregate
                || in_list(&self.aggregate_keys, subject.aggregate_key.as_deref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn subject() -> Subject {
        Subject {
            owner: Address::new("0xOwner"),
            message_type: MessageType::Post,
            chain: "ETH".into(),
            channel: Some("here".into()),
            post_type: Some("note".into()),
            aggregate_key: None,
        }
    }

    fn allowed(authorization: Value, subject: &Subject) -> bool {
        let given = Authorizations::from_json(&json!([authorization]));
        check(&Address::new("0xFRIEND"), subject, &given).is_ok()
    }

    #[test]
    fn everybody_acts_for_himself_in_any_case_of_letters() {
        assert_eq!(check(&Address::new("0xOWNER"), &subject(), &Authorizations::default()), Ok(()));
        let denied = check(&Address::new("0xfriend"), &subject(), &Authorizations::default()).unwrap_err();
        assert_eq!(denied.code, ErrorCode::PermissionDenied);
    }

    #[test]
    fn every_condition_of_an_authorization_must_hold() {
        assert!(allowed(json!({"address": "0xfriend"}), &subject()));
        assert!(allowed(json!({"address": "0xfriend", "types": [], "channels": null}), &subject()));
        assert!(!allowed(json!({"address": "0xother"}), &subject()));
        for (condition, right, wrong) in [
            ("types", json!(["POST", "STORE"]), json!(["STORE"])),
            ("channels", json!(["here"]), json!(["there"])),
            ("chain", json!("ETH"), json!("SOL")),
            ("post_types", json!(["note"]), json!(["other"])),
        ] {
            assert!(allowed(json!({"address": "0xfriend", condition: right}), &subject()), "{condition}");
            assert!(!allowed(json!({"address": "0xfriend", condition: wrong}), &subject()), "{condition}");
        }
    }

    #[test]
    fn conditions_on_posts_do_not_bind_other_types() {
        let store = Subject { message_type: MessageType::Store, post_type: None, ..subject() };
        assert!(allowed(json!({"address": "0xfriend", "post_types": ["note"], "aggregate_keys": ["k"]}), &store));
        let aggregate = Subject { message_type: MessageType::Aggregate, aggregate_key: Some("k".into()), ..subject() };
        assert!(allowed(json!({"address": "0xfriend", "aggregate_keys": ["k"]}), &aggregate));
        assert!(!allowed(json!({"address": "0xfriend", "aggregate_keys": ["other"]}), &aggregate));
    }

    #[test]
    fn a_list_that_is_set_wants_a_value() {
        let without = Subject { channel: None, ..subject() };
        assert!(!allowed(json!({"address": "0xfriend", "channels": ["here"]}), &without));
    }

    #[test]
    fn unreadable_entries_allow_nothing_and_spoil_nothing() {
        let given =
            Authorizations::from_json(&json!([7, {"address": "0xfriend", "types": "POST"}, {"address": "0xok"}]));
        assert!(check(&Address::new("0xfriend"), &subject(), &given).is_err());
        assert!(check(&Address::new("0xok"), &subject(), &given).is_ok());
        assert_eq!(Authorizations::from_json(&json!("nonsense")), Authorizations::default());
    }
}

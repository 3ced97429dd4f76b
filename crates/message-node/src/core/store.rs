//! STORE: publishes a file, or a new version of one.

use protocol::api::message_node::Price;
use protocol::message::{ErrorCode, ItemType, StoreContent};
use protocol::{Address, FileName};
use rust_decimal::Decimal;
use serde_json::json;

use super::payment::{Funds, check_funds, check_method};
use super::{Awaited, Known, Refusal, Rejection, is_item_hash};
use crate::config::PaymentRules;
use crate::prices::{FREE_STORE_BYTES, PriceTable, store_price};

/// A STORE message in force that another one is a revision of.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Original {
    /// Its owner.
    pub owner: Address,
    /// Whether it is a revision itself.
    pub is_revision: bool,
}

/// What has to be known to decide.
#[derive(Debug)]
pub(crate) struct Facts {
    /// The size of the file in bytes, if it is there.
    pub file: Option<u64>,
    /// The message that `ref` names, if it names one.
    pub original: Option<Known<Original>>,
    /// What the owner has.
    pub funds: Funds,
}

/// What there is to do.
#[derive(Debug, PartialEq)]
pub(crate) struct Accepted {
    /// What all versions of the file share.
    pub tag: String,
    /// What it costs.
    pub price: Price,
    /// What has to be held of it; nothing for small files.
    pub cost: Decimal,
}

/// The message that the content is a revision of; `None` when `ref` is absent or a name of the owner's choice.
pub(crate) fn original(content: &StoreContent) -> Option<&str> {
    content.reference.as_deref().filter(|reference| is_item_hash(reference))
}

/// What all versions of a file share: the first message's hash, or the owner's name for it.
pub(crate) fn tag(content: &StoreContent, item_hash: &str) -> String {
    match &content.reference {
        None => item_hash.to_owned(),
        Some(reference) if is_item_hash(reference) => reference.clone(),
        Some(name) => named_tag(&content.address, name),
    }
}

/// The tag of a file that its owner calls by a name.
pub(crate) fn named_tag(owner: &Address, name: &str) -> String {
    format!("{}/{name}", owner.canonical())
}

/// Decides on a STORE message whose sender may act for the owner.
///
/// # Errors
/// [`Refusal`] with one of the codes 0, 2, 4, 5, 200, 201, 202.
pub(crate) fn check(
    content: &StoreContent,
    item_hash: &str,
    facts: &Facts,
    table: &PriceTable,
    rules: &PaymentRules,
) -> Result<Accepted, Refusal> {
    let name = file_name(content)?;
    if let (Some(hash), Some(known)) = (original(content), &facts.original) {
        let original = known.clone().or_refuse(hash, ErrorCode::StoreRefNotFound)?;
        if original.owner != content.address {
            let sentence = format!("{hash} belongs to {}; only its owner can publish a new version", original.owner);
            return Err(Rejection::new(ErrorCode::PermissionDenied, sentence).into());
        }
        if original.is_revision {
            return Err(Rejection::of(ErrorCode::StoreUpdateUpdate).into());
        }
    }
    let Some(bytes) = facts.file else {
        let rejection = Rejection::new(ErrorCode::FileUnavailable, not_found(content));
        return Err(Refusal::Until(Awaited::File(name), rejection));
    };
    let price = store_price(&content.address, bytes, table);
    // Files that are free are accepted with every payment type: some clients always write `credit` for files.
    let mut cost = Decimal::ZERO;
    if !is_free(bytes) {
        cost = check_method(content.into(), rules)?.of(amount(&price));
        check_funds(&content.address, facts.funds, cost)?;
    }
    Ok(Accepted { tag: tag(content, item_hash), price, cost })
}

/// Whether nothing has to be held for a file with this many bytes.
pub(crate) const fn is_free(bytes: u64) -> bool {
    bytes <= FREE_STORE_BYTES
}

/// What the content calls its file: a SHA-256 in the store, a CID that all clients know on IPFS.
///
/// # Errors
/// [`ErrorCode::InvalidFormat`].
pub(crate) fn file_name(content: &StoreContent) -> Result<FileName, Rejection> {
    let wrong = |message: String| Rejection {
        code: ErrorCode::InvalidFormat,
        errors: vec![json!({ "loc": ["content", "item_hash"], "msg": message, "type": "value_error" })],
    };
    let text = &content.item_hash;
    match (content.item_type, text.parse()) {
        (ItemType::Storage, Ok(name @ FileName::Sha256(_))) if text.len() == 64 => Ok(name),
        (ItemType::Storage, _) => Err(wrong(format!("'{text}' is no SHA-256 in lower-case hexadecimal"))),
        (ItemType::Ipfs, Ok(name @ FileName::DagPb(_))) => Ok(name),
        (ItemType::Ipfs, _) => Err(wrong(format!("'{text}' is no CID of a file, 'Qm…' or 'bafy…'"))),
        (ItemType::Inline, _) => Err(wrong("a file cannot be inline; use item_type 'storage'".to_owned())),
    }
}

fn not_found(content: &StoreContent) -> String {
    let hash = &content.item_hash;
    match content.item_type {
        ItemType::Ipfs => format!(
            "File not found: {hash}. This node does not fetch files from IPFS: upload it with ipfs/add_file or ipfs/add_car first"
        ),
        ItemType::Storage | ItemType::Inline => {
            format!("File not found: {hash}. Upload it with storage/add_file first")
        }
    }
}

/// The price as a number.
pub(super) fn amount(price: &Price) -> Decimal {
    price.cost.parse().expect("a price is written as a decimal number")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::chain::Holding;
    use crate::prices::default_pricing;
    use serde_json::{Value, json};

    const MIB: u64 = 1024 * 1024;

    fn content(change: impl FnOnce(&mut Value)) -> StoreContent {
        let mut content =
            json!({"address": "0xOwner", "time": 1.0, "item_type": "storage", "item_hash": "ab".repeat(32)});
        change(&mut content);
        serde_json::from_value(content).unwrap()
    }

    fn decide(
        content: &StoreContent,
        file: Option<u64>,
        original: Option<Known<Original>>,
    ) -> Result<Accepted, Refusal> {
        let funds = Funds { balance: Holding::Tokens(Decimal::TEN), locked: Decimal::ZERO };
        let facts = Facts { file, original, funds };
        check(content, "own-hash", &facts, &PriceTable::from_aggregate(default_pricing()), &PaymentRules::default())
    }

    fn code(result: Result<Accepted, Refusal>) -> ErrorCode {
        match result.unwrap_err() {
            Refusal::Final(rejection) | Refusal::Until(_, rejection) => rejection.code,
        }
    }

    fn original_of(owner: &str, is_revision: bool) -> Option<Known<Original>> {
        Some(Known::InForce(Original { owner: Address::new(owner), is_revision }))
    }

    #[test]
    fn tags_are_what_versions_share() {
        let first = "cd".repeat(32);
        assert_eq!(tag(&content(|_| ()), "own-hash"), "own-hash");
        assert_eq!(tag(&content(|c| c["ref"] = json!(first)), "own-hash"), first);
        assert_eq!(tag(&content(|c| c["ref"] = json!("site")), "own-hash"), "0xowner/site");
    }

    #[test]
    fn a_missing_file_is_awaited() {
        let Err(Refusal::Until(awaited, rejection)) = decide(&content(|_| ()), None, None) else {
            panic!("it must wait")
        };
        assert_eq!(awaited, Awaited::File("ab".repeat(32).parse().unwrap()));
        assert_eq!(rejection.code, ErrorCode::FileUnavailable);
    }

    #[test]
    fn files_on_ipfs_are_files_by_another_name() {
        let names = protocol::FileNames::of(b"x");
        for cid in [names.v0.to_string(), names.v0.to_cid_v1()] {
            let ipfs = content(|c| (c["item_type"], c["item_hash"]) = (json!("ipfs"), json!(cid)));
            assert_eq!(decide(&ipfs, Some(30 * MIB), None).unwrap().cost.to_string(), "9.999999990000000000");
            let Err(Refusal::Until(awaited, rejection)) = decide(&ipfs, None, None) else { panic!("it must wait") };
            assert_eq!(awaited, Awaited::File(names.v0), "both texts wait for the same");
            assert_eq!(rejection.code, ErrorCode::FileUnavailable);
            assert!(rejection.errors[0].as_str().unwrap().contains("ipfs/add_file"));
        }
    }

    #[test]
    fn revisions_name_the_first_version_of_the_same_owner() {
        let revision = content(|c| c["ref"] = json!("cd".repeat(32)));
        assert!(decide(&revision, Some(1), original_of("0xOWNER", false)).is_ok());
        assert_eq!(code(decide(&revision, Some(1), original_of("0xOwner", true))), ErrorCode::StoreUpdateUpdate);
        assert_eq!(code(decide(&revision, Some(1), original_of("0xOther", false))), ErrorCode::PermissionDenied);
        assert_eq!(code(decide(&revision, Some(1), Some(Known::Never))), ErrorCode::StoreRefNotFound);
        assert!(matches!(decide(&revision, Some(1), Some(Known::NotYet)), Err(Refusal::Until(..))));
        assert!(decide(&content(|c| c["ref"] = json!("site")), Some(1), None).is_ok(), "names need no first version");
    }

    #[test]
    fn other_kinds_of_files_are_refused() {
        assert_eq!(
            code(decide(&content(|c| c["item_hash"] = json!("AB".repeat(32))), Some(1), None)),
            ErrorCode::InvalidFormat
        );
        assert_eq!(
            code(decide(&content(|c| c["item_type"] = json!("inline")), Some(1), None)),
            ErrorCode::InvalidFormat
        );
        let names = protocol::FileNames::of(b"x");
        for (item_type, hash) in [
            ("ipfs", "ab".repeat(32)),
            ("ipfs", names.v1.to_cid_v1()),
            ("ipfs", "Q".repeat(46)),
            ("storage", names.v0.to_string()),
            ("storage", names.v1.to_cid_v1()),
        ] {
            let mixed = content(|c| (c["item_type"], c["item_hash"]) = (json!(item_type), json!(hash)));
            assert_eq!(code(decide(&mixed, Some(1), None)), ErrorCode::InvalidFormat, "{item_type} {hash}");
        }
    }

    #[test]
    fn small_files_are_free_and_large_ones_are_held_for() {
        let credit = content(|c| c["payment"] = json!({"type": "credit"}));
        assert_eq!(decide(&credit, Some(25 * MIB), None).unwrap().cost, Decimal::ZERO);
        assert_eq!(code(decide(&credit, Some(26 * MIB), None)), ErrorCode::InvalidPaymentMethod);
        assert_eq!(decide(&content(|_| ()), Some(30 * MIB), None).unwrap().cost.to_string(), "9.999999990000000000");
        assert_eq!(code(decide(&content(|_| ()), Some(31 * MIB), None)), ErrorCode::BalanceInsufficient);
    }
}

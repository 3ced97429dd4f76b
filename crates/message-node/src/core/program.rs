//! PROGRAM: something to run.

use std::collections::HashMap;

use protocol::Address;
use protocol::api::message_node::Price;
use protocol::message::{ErrorCode, ProgramContent, VolumeKind};
use rust_decimal::Decimal;
use serde_json::json;

use super::payment::{Funds, check_funds, check_method};
use super::store::amount;
use super::{Known, Refusal, Rejection};
use crate::config::PaymentRules;
use crate::prices::{PriceTable, Slot, VolumeSizes, mib, program_price};

/// A program in force that another one replaces.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Replaced {
    /// Its owner.
    pub owner: Address,
    /// Whether it may be replaced.
    pub allow_amend: bool,
    /// What it needs its owner to hold.
    pub cost: Decimal,
}

/// A file that a program needs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Needed {
    /// Its hash.
    pub file_hash: String,
    /// Its size in bytes.
    pub bytes: u64,
}

/// The files that a program needs, by the STORE message and whether the newest version counts.
pub(crate) type References = HashMap<(String, bool), Known<Needed>>;

/// What has to be known to decide.
#[derive(Debug)]
pub(crate) struct Facts {
    /// The program that `replaces` names, if it names one.
    pub replaced: Option<Known<Replaced>>,
    /// Every file that the content names ([`ProgramContent::references`]).
    pub references: References,
    /// What the owner has; what the replaced program needs is part of what is locked.
    pub funds: Funds,
}

/// What there is to do.
#[derive(Debug, PartialEq)]
pub(crate) struct Accepted {
    /// What it costs.
    pub price: Price,
    /// What has to be held of it.
    pub cost: Decimal,
    /// Whether the balance covers the program only if the one that it replaces is forgotten.
    pub on_condition: bool,
}

/// The sizes of the files that are there.
impl VolumeSizes for References {
    fn size(&self, _: Slot, reference: &str, use_latest: bool) -> Option<Decimal> {
        match self.get(&(reference.to_owned(), use_latest)) {
            Some(Known::InForce(needed)) => Some(mib(needed.bytes)),
            _ => None,
        }
    }
}

/// Decides on a PROGRAM message whose sender may act for the owner.
///
/// `replaces` is checked but never followed: both versions are programs of their own, and forgetting one leaves the other.
/// Replacing a replacement is allowed, because that is what clients do who switch a program back and forth.
///
/// # Errors
/// [`Refusal`] with one of the codes 2, 5, 202, 300, 301, 302, 304.
pub(crate) fn check(
    content: &ProgramContent,
    facts: &Facts,
    table: &PriceTable,
    rules: &PaymentRules,
) -> Result<Accepted, Refusal> {
    let charge = check_method(content.into(), rules)?;
    let replaced = check_replaced(content, facts)?;
    for (reference, use_latest) in content.references() {
        let known = facts.references.get(&(reference.to_owned(), use_latest)).cloned().unwrap_or(Known::NotYet);
        known.or_refuse(reference, ErrorCode::VmVolumeNotFound)?;
    }
    check_parents(content, &facts.references)?;
    let price = program_price(content, &facts.references, table);
    let cost = charge.of(amount(&price));
    let released = replaced.map_or(Decimal::ZERO, |replaced| replaced.cost);
    let owner = &content.address;
    check_funds(owner, Funds { locked: facts.funds.locked - released, ..facts.funds }, cost)?;
    Ok(Accepted { price, cost, on_condition: check_funds(owner, facts.funds, cost).is_err() })
}

fn check_replaced(content: &ProgramContent, facts: &Facts) -> Result<Option<Replaced>, Refusal> {
    let (Some(hash), Some(known)) = (&content.replaces, &facts.replaced) else { return Ok(None) };
    let replaced = known.clone().or_refuse(hash, ErrorCode::VmRefNotFound)?;
    if replaced.owner != content.address {
        let sentence = format!("{hash} belongs to {}; only its owner can replace it", replaced.owner);
        return Err(Rejection::new(ErrorCode::PermissionDenied, sentence).into());
    }
    if !replaced.allow_amend {
        return Err(Rejection::of(ErrorCode::VmAmendNotAllowed).into());
    }
    Ok(Some(replaced))
}

/// A volume must have room for the image that it starts from.
fn check_parents(content: &ProgramContent, references: &References) -> Result<(), Rejection> {
    for volume in &content.volumes {
        let VolumeKind::Persistent { size_mib, name, parent: Some(parent), .. } = &volume.kind else { continue };
        let key = (parent.reference.clone(), parent.use_latest);
        let Some(Known::InForce(image)) = references.get(&key) else { continue };
        let bytes = size_mib * 1024 * 1024;
        if image.bytes > bytes {
            let errors = vec![json!({
                "volume_name": name, "volume_size": bytes,
                "parent_ref": parent.reference, "parent_file": image.file_hash, "parent_size": image.bytes,
            })];
            return Err(Rejection { code: ErrorCode::VmVolumeTooSmall, errors });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Awaited;
    use crate::core::chain::Holding;
    use crate::prices::default_pricing;
    use serde_json::Value;

    fn content(change: impl FnOnce(&mut Value)) -> ProgramContent {
        let mut content = json!({
            "address": "0xOwner", "time": 1.0, "allow_amend": true, "type": "vm-function",
            "environment": {}, "resources": {}, "volumes": [],
            "code": {"encoding": "zip", "entrypoint": "main:app", "ref": "code", "use_latest": true},
            "runtime": {"ref": "runtime", "use_latest": true, "comment": ""},
            "on": {"http": true, "persistent": false},
        });
        change(&mut content);
        ProgramContent::parse(&content.to_string()).unwrap()
    }

    fn file(bytes: u64) -> Known<Needed> {
        Known::InForce(Needed { file_hash: "file".into(), bytes })
    }

    fn facts(balance: u32, locked: u32) -> Facts {
        let references =
            [("code", file(1)), ("runtime", file(1))].map(|(name, file)| ((name.to_owned(), true), file)).into();
        let funds = Funds { balance: Holding::Tokens(balance.into()), locked: locked.into() };
        Facts { replaced: None, references, funds }
    }

    fn replacing(owner: &str, allow_amend: bool, cost: u32) -> Option<Known<Replaced>> {
        Some(Known::InForce(Replaced { owner: Address::new(owner), allow_amend, cost: cost.into() }))
    }

    fn decide(content: &ProgramContent, facts: &Facts) -> Result<Accepted, Refusal> {
        check(content, facts, &PriceTable::from_aggregate(default_pricing()), &PaymentRules::default())
    }

    fn code(result: Result<Accepted, Refusal>) -> ErrorCode {
        match result.unwrap_err() {
            Refusal::Final(rejection) | Refusal::Until(_, rejection) => rejection.code,
        }
    }

    #[test]
    fn an_exact_balance_is_enough() {
        let persistent = content(|c| c["on"]["persistent"] = json!(true));
        let accepted = decide(&persistent, &facts(2000, 0)).unwrap();
        assert_eq!((accepted.cost, accepted.on_condition), (Decimal::from(2000), false));
        assert_eq!(code(decide(&persistent, &facts(1999, 0))), ErrorCode::BalanceInsufficient);
        assert_eq!(code(decide(&persistent, &facts(2000, 1))), ErrorCode::BalanceInsufficient);
    }

    #[test]
    fn the_replaced_program_is_not_counted_twice() {
        let next = content(|c| c["replaces"] = json!("old"));
        let on_2000 = Facts { replaced: replacing("0xOWNER", true, 2000), ..facts(2000, 2000) };
        assert!(decide(&next, &on_2000).unwrap().on_condition);
        let rich = Facts { replaced: replacing("0xOwner", true, 2000), ..facts(2200, 2000) };
        assert!(!decide(&next, &rich).unwrap().on_condition);
        let others = Facts { replaced: replacing("0xOwner", true, 200), ..facts(2000, 2200) };
        assert_eq!(code(decide(&next, &others)), ErrorCode::BalanceInsufficient, "what else is in force counts");
    }

    #[test]
    fn only_an_amendable_program_of_the_same_owner_is_replaced() {
        let next = content(|c| c["replaces"] = json!("old"));
        let with = |replaced| Facts { replaced, ..facts(5000, 0) };
        assert!(decide(&next, &with(replacing("0xOwner", true, 0))).is_ok());
        assert_eq!(code(decide(&next, &with(replacing("0xOther", true, 0)))), ErrorCode::PermissionDenied);
        assert_eq!(code(decide(&next, &with(replacing("0xOwner", false, 0)))), ErrorCode::VmAmendNotAllowed);
        assert!(
            matches!(decide(&next, &with(Some(Known::Never))), Err(Refusal::Final(r)) if r.code == ErrorCode::VmRefNotFound)
        );
        let Err(Refusal::Until(awaited, rejection)) = decide(&next, &with(Some(Known::NotYet))) else {
            panic!("it must wait")
        };
        assert_eq!((awaited, rejection.code), (Awaited::Message("old".into()), ErrorCode::VmRefNotFound));
    }

    #[test]
    fn every_file_must_be_in_force() {
        let mut missing = facts(5000, 0);
        missing.references.insert(("runtime".into(), true), Known::NotYet);
        let Err(Refusal::Until(awaited, rejection)) = decide(&content(|_| ()), &missing) else {
            panic!("it must wait")
        };
        assert_eq!((awaited, rejection.code), (Awaited::Message("runtime".into()), ErrorCode::VmVolumeNotFound));
        missing.references.insert(("runtime".into(), true), Known::Never);
        assert!(matches!(decide(&content(|_| ()), &missing), Err(Refusal::Final(_))));
    }

    #[test]
    fn a_volume_has_room_for_its_parent() {
        let mut facts = facts(5000, 0);
        facts.references.insert(("image".into(), true), file(11 * 1024 * 1024));
        let with =
            |size| content(|c| c["volumes"] = json!([{"parent": {"ref": "image"}, "size_mib": size, "name": "db"}]));
        assert_eq!(code(decide(&with(10), &facts)), ErrorCode::VmVolumeTooSmall);
        assert!(decide(&with(11), &facts).is_ok());
    }

    #[test]
    fn other_ways_to_pay_are_refused_before_anything_else() {
        let credit = content(|c| c["payment"] = json!({"type": "credit"}));
        assert_eq!(code(decide(&credit, &facts(0, 0))), ErrorCode::InvalidPaymentMethod);
    }
}

//! Which ways to pay are accepted, and whether the owner can.

use protocol::Address;
use protocol::api::message_node::BalanceError;
use protocol::message::{ErrorCode, Payment, PaymentKind};
use rust_decimal::Decimal;
use serde_json::json;

use super::chain::Holding;
use super::{Awaited, Refusal, Rejection};
use crate::prices::check_hold;

/// What an owner has, and what its messages in force need it to hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Funds {
    /// What it has.
    pub balance: Holding,
    /// Tokens that its messages in force need together.
    pub locked: Decimal,
}

/// Checks that a message that costs something is paid for by holding tokens.
///
/// # Errors
/// [`ErrorCode::InvalidPaymentMethod`].
pub(crate) fn check_method(payment: Option<&Payment>) -> Result<(), Rejection> {
    let kind = match payment.map(|payment| payment.kind) {
        None | Some(PaymentKind::Hold) => return Ok(()),
        Some(PaymentKind::Superfluid) => "superfluid",
        Some(PaymentKind::Credit) => "credit",
    };
    let sentence = format!("payment type '{kind}' is not accepted on this network; use 'hold'");
    Err(Rejection::new(ErrorCode::InvalidPaymentMethod, sentence))
}

/// Checks that the owner holds enough for everything that is in force and this.
///
/// # Errors
/// [`ErrorCode::BalanceInsufficient`] with both amounts, as clients read them. What has to be paid for waits while the
/// balance is unknown.
pub(crate) fn check_funds(owner: &Address, funds: Funds, cost: Decimal) -> Result<(), Refusal> {
    let balance = match funds.balance {
        Holding::Unlimited => return Ok(()),
        Holding::Tokens(balance) => balance,
        Holding::Unknown if cost.is_zero() => return Ok(()),
        Holding::Unknown => {
            let sentence = format!("the balance of {owner} is not known yet");
            let rejection = Rejection::new(ErrorCode::BalanceInsufficient, sentence);
            return Err(Refusal::Until(Awaited::Balance(owner.canonical()), rejection));
        }
    };
    let checked = check_hold(balance, funds.locked, cost);
    checked.map_err(|BalanceError { account_balance, required_balance }| {
        let amounts = json!({ "account_balance": account_balance, "required_balance": required_balance });
        Rejection { code: ErrorCode::BalanceInsufficient, errors: vec![amounts] }.into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_holding_is_accepted() {
        let pay = |kind| Payment { chain: None, receiver: None, kind };
        assert_eq!(check_method(None), Ok(()));
        assert_eq!(check_method(Some(&pay(PaymentKind::Hold))), Ok(()));
        for (kind, word) in [(PaymentKind::Credit, "credit"), (PaymentKind::Superfluid, "superfluid")] {
            let rejection = check_method(Some(&pay(kind))).unwrap_err();
            assert_eq!(rejection.code, ErrorCode::InvalidPaymentMethod);
            assert!(rejection.errors[0].as_str().unwrap().contains(word));
        }
    }

    #[test]
    fn nothing_is_checked_where_nothing_is_paid_for() {
        let owner = Address::new("0xAB");
        let check = |balance, cost| check_funds(&owner, Funds { balance, locked: Decimal::ZERO }, Decimal::from(cost));
        assert_eq!(check(Holding::Unlimited, 1_000_000), Ok(()));
        let Err(Refusal::Final(rejection)) = check(Holding::Tokens(Decimal::ZERO), 200) else { panic!() };
        assert_eq!(rejection.details(), json!({"errors": [{"account_balance": "0", "required_balance": "200"}]}));
    }

    #[test]
    fn an_unknown_balance_is_waited_for_where_something_costs() {
        let owner = Address::new("0xAB");
        let funds = Funds { balance: Holding::Unknown, locked: Decimal::TEN };
        assert_eq!(check_funds(&owner, funds, Decimal::ZERO), Ok(()));
        let Err(Refusal::Until(awaited, rejection)) = check_funds(&owner, funds, Decimal::ONE) else { panic!() };
        assert_eq!(awaited, Awaited::Balance("0xab".into()));
        assert!(rejection.errors[0].as_str().unwrap().contains("not known"));
    }
}

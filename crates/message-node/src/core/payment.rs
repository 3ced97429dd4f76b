//! Which ways to pay are accepted, and whether the owner can.

use protocol::api::message_node::BalanceError;
use protocol::message::{ErrorCode, Payment, PaymentKind};
use rust_decimal::Decimal;
use serde_json::json;

use super::Rejection;
use crate::prices::check_hold;

/// What an owner has, and what its messages in force need it to hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Funds {
    /// Tokens; `None` on a network where nothing is paid for.
    pub balance: Option<Decimal>,
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
/// [`ErrorCode::BalanceInsufficient`] with both amounts, as clients read them.
pub(crate) fn check_funds(funds: Funds, cost: Decimal) -> Result<(), Rejection> {
    let Some(balance) = funds.balance else { return Ok(()) };
    check_hold(balance, funds.locked, cost).map_err(|BalanceError { account_balance, required_balance }| Rejection {
        code: ErrorCode::BalanceInsufficient,
        errors: vec![json!({ "account_balance": account_balance, "required_balance": required_balance })],
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
        assert_eq!(check_funds(Funds { balance: None, locked: Decimal::ZERO }, Decimal::from(1_000_000)), Ok(()));
        let funds = Funds { balance: Some(Decimal::ZERO), locked: Decimal::ZERO };
        assert_eq!(
            check_funds(funds, Decimal::from(200)).unwrap_err().details(),
            json!({"errors": [{"account_balance": "0", "required_balance": "200"}]})
        );
    }
}

//! What messages cost: a pure function of the content, the sizes of the files it names and the table of prices.
//!
//! Only payment by holding tokens is priced. The rules are those of the Aleph network (pyaleph's `services/cost.py`); the
//! table is the `pricing` aggregate, so that clients compute the same amounts from what this node serves.

mod cost;
mod table;

pub(crate) use cost::{Slot, VolumeSizes, program_price, store_price};
pub(crate) use table::{PriceTable, default_pricing};

use protocol::api::message_node::BalanceError;
use rust_decimal::{Decimal, RoundingStrategy};

/// Files up to this many bytes are stored for free.
pub(crate) const FREE_STORE_BYTES: u64 = 25 * 1024 * 1024;

/// The decimals of a token.
const DECIMALS: u32 = 18;

/// An amount of tokens cut to 18 decimals, towards minus infinity.
fn floor(amount: Decimal) -> Decimal {
    amount.round_dp_with_strategy(DECIMALS, RoundingStrategy::ToNegativeInfinity)
}

/// An amount of tokens as clients read it: with 18 decimals. Padded here, because the library's own formatting with a
/// precision fails for large amounts.
pub(crate) fn format(amount: Decimal) -> String {
    let amount = if amount.is_zero() { Decimal::ZERO } else { floor(amount) };
    let text = amount.to_string();
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    format!("{whole}.{fraction:0<18}")
}

/// Bytes in MiB.
pub(crate) fn mib(bytes: u64) -> Decimal {
    Decimal::from(bytes) / Decimal::from(1024 * 1024)
}

/// Whether an account can pay by holding: what its messages need already and the new one together are covered.
///
/// # Errors
/// What it has and what it would need.
pub(crate) fn check_hold(balance: Decimal, locked: Decimal, cost: Decimal) -> Result<(), BalanceError> {
    let required = locked + cost;
    if cost.is_zero() || balance >= required {
        return Ok(());
    }
    Err(BalanceError {
        account_balance: balance.normalize().to_string(),
        required_balance: required.normalize().to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Decimal {
        text.parse().unwrap()
    }

    #[test]
    fn the_balance_must_cover_everything_together() {
        assert_eq!(check_hold(tokens("2000"), tokens("0"), tokens("2000")), Ok(()));
        assert_eq!(check_hold(tokens("2000"), tokens("1800"), tokens("200")), Ok(()));
        assert_eq!(
            check_hold(tokens("12.50"), tokens("1.000"), tokens("1000")),
            Err(BalanceError { account_balance: "12.5".into(), required_balance: "1001".into() })
        );
    }

    #[test]
    fn what_is_free_needs_no_balance_even_for_a_debtor() {
        assert_eq!(check_hold(tokens("0"), tokens("50"), Decimal::ZERO), Ok(()));
    }

    #[test]
    fn amounts_have_18_decimals_and_are_cut_downwards() {
        assert_eq!(format(tokens("1000")), "1000.000000000000000000");
        assert_eq!(format(-Decimal::ZERO), "0.000000000000000000");
        assert_eq!(format(tokens("-0.5")), "-0.500000000000000000");
        assert_eq!(format(Decimal::MAX), "79228162514264337593543950335.000000000000000000");
        assert_eq!(floor(tokens("0.1234567890123456789")), tokens("0.123456789012345678"));
        assert_eq!(floor(tokens("-0.1234567890123456781")), tokens("-0.123456789012345679"));
    }
}

//! Which ways to pay are accepted, and whether the owner can.

use protocol::Address;
use protocol::api::message_node::BalanceError;
use protocol::message::{ErrorCode, MessageTime, Payment, PaymentKind, ProgramContent, StoreContent};
use rust_decimal::Decimal;
use serde_json::json;

use super::chain::Holding;
use super::{Awaited, Refusal, Rejection};
use crate::clock::iso;
use crate::config::PaymentRules;
use crate::prices::check_hold;

/// What an owner has, and what its messages in force need it to hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Funds {
    /// What it has.
    pub balance: Holding,
    /// Tokens that its messages in force need together.
    pub locked: Decimal,
}

/// What somebody wants to pay for, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Purchase {
    kind: Option<PaymentKind>,
    time: MessageTime,
    what: Goods,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goods {
    File,
    OnDemand,
    Persistent,
}

/// What an accepted way to pay takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Charge {
    /// The price has to be held.
    Hold,
    /// Nothing.
    Nothing,
}

impl Purchase {
    fn new(payment: Option<&Payment>, time: MessageTime, what: Goods) -> Self {
        Self { kind: payment.map(|payment| payment.kind), time, what }
    }
}

impl From<&ProgramContent> for Purchase {
    fn from(program: &ProgramContent) -> Self {
        let what = if program.is_persistent() { Goods::Persistent } else { Goods::OnDemand };
        Self::new(program.payment.as_ref(), program.time, what)
    }
}

impl From<&StoreContent> for Purchase {
    fn from(file: &StoreContent) -> Self {
        Self::new(file.payment.as_ref(), file.time, Goods::File)
    }
}

impl Charge {
    /// What has to be held of a price.
    pub(crate) fn of(self, price: Decimal) -> Decimal {
        match self {
            Self::Hold => price,
            Self::Nothing => Decimal::ZERO,
        }
    }
}

/// Checks that something that costs is paid for in a way that is accepted, and says what that takes.
///
/// # Errors
/// [`ErrorCode::InvalidPaymentMethod`].
pub(crate) fn check_method(purchase: Purchase, rules: &PaymentRules) -> Result<Charge, Rejection> {
    let Purchase { kind, time, what } = purchase;
    let kind = kind.unwrap_or(PaymentKind::Hold);
    let is_over = |until: &MessageTime| time.as_micros() >= until.as_micros();
    let persistent = rules.hold_persistent_until.filter(|_| what == Goods::Persistent);
    let cut_off = [rules.hold_until, persistent].into_iter().flatten().find(is_over);
    if let (PaymentKind::Hold | PaymentKind::Superfluid, Some(since)) = (kind, cut_off) {
        return Err(refuse(kind, &format!(" for this since {}", iso(since.as_micros())), "use 'credit'"));
    }
    if kind != PaymentKind::Hold {
        return match rules.without_charge.contains(&kind) {
            true => Ok(Charge::Nothing),
            false => Err(refuse(kind, " by this node", "use 'hold'")),
        };
    }
    let was_free = rules.free_on_demand_until.is_some_and(|until| !is_over(&until));
    Ok(if what == Goods::OnDemand && was_free { Charge::Nothing } else { Charge::Hold })
}

fn refuse(kind: PaymentKind, by: &str, instead: &str) -> Rejection {
    let word = match kind {
        PaymentKind::Hold => "hold",
        PaymentKind::Superfluid => "superfluid",
        PaymentKind::Credit => "credit",
    };
    Rejection::new(ErrorCode::InvalidPaymentMethod, format!("payment type '{word}' is not accepted{by}; {instead}"))
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
            let sentence = format!("the balance of {owner} is not known yet; send this again later");
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

    fn at(seconds: f64) -> MessageTime {
        MessageTime::from_seconds(seconds).unwrap()
    }

    fn refusal(result: Result<Charge, Rejection>) -> String {
        let rejection = result.unwrap_err();
        assert_eq!(rejection.code, ErrorCode::InvalidPaymentMethod);
        rejection.errors[0].as_str().unwrap().to_owned()
    }

    #[test]
    fn only_holding_is_accepted_unless_the_operator_says_so() {
        let buy = |kind, rules: &PaymentRules| check_method(Purchase { kind, time: at(1.0), what: Goods::File }, rules);
        let strict = PaymentRules::default();
        let free = PaymentRules { without_charge: vec![PaymentKind::Credit], ..PaymentRules::default() };
        for rules in [&strict, &free] {
            assert_eq!(buy(None, rules), Ok(Charge::Hold));
            assert_eq!(buy(Some(PaymentKind::Hold), rules), Ok(Charge::Hold));
        }
        for (kind, word) in [(PaymentKind::Credit, "'credit'"), (PaymentKind::Superfluid, "'superfluid'")] {
            assert!(refusal(buy(Some(kind), &strict)).contains(word));
        }
        assert_eq!(buy(Some(PaymentKind::Credit), &free), Ok(Charge::Nothing));
        assert!(refusal(buy(Some(PaymentKind::Superfluid), &free)).contains("use 'hold'"));
        assert_eq!((Charge::Hold.of(Decimal::TEN), Charge::Nothing.of(Decimal::TEN)), (Decimal::TEN, Decimal::ZERO));
    }

    #[test]
    fn cut_offs_count_from_their_second_on() {
        let rules = PaymentRules {
            without_charge: vec![PaymentKind::Credit, PaymentKind::Superfluid],
            hold_persistent_until: Some(at(100.0)),
            hold_until: Some(at(200.0)),
            free_on_demand_until: Some(at(50.0)),
        };
        let buy = |kind, seconds, what| check_method(Purchase { kind: Some(kind), time: at(seconds), what }, &rules);
        for (what, last) in [(Goods::Persistent, 99.0), (Goods::OnDemand, 199.0), (Goods::File, 199.0)] {
            assert_eq!(buy(PaymentKind::Hold, last, what), Ok(Charge::Hold));
            assert_eq!(buy(PaymentKind::Superfluid, last, what), Ok(Charge::Nothing));
            for kind in [PaymentKind::Hold, PaymentKind::Superfluid] {
                let why = refusal(buy(kind, last + 1.0, what));
                assert!(why.contains("use 'credit'") && why.contains("1970-01-01T00:0"), "{why}");
            }
            assert_eq!(buy(PaymentKind::Credit, 300.0, what), Ok(Charge::Nothing));
        }
        assert_eq!(buy(PaymentKind::Hold, 49.0, Goods::OnDemand), Ok(Charge::Nothing));
        assert_eq!(buy(PaymentKind::Hold, 50.0, Goods::OnDemand), Ok(Charge::Hold));
        assert_eq!(buy(PaymentKind::Hold, 49.0, Goods::Persistent), Ok(Charge::Hold));
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

//! Options of payment: where balances are from, which ways to pay are accepted, and what happens to what is not paid for.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use message_node::{Config, PaymentRules, Timing};
use protocol::Address;
use protocol::message::{MessageTime, PaymentKind};
use serde_json::Value;

use super::token::TokenOptions;
use super::{in_millis, retention};

/// Payment at a message node.
#[derive(Debug, Args)]
pub(crate) struct PaymentOptions {
    /// A JSON file of balances, {"0x…": "2000"}, read again when it changes; without it, --balances-from and --token-rpc
    /// nothing has to be paid for
    #[arg(long, conflicts_with_all = ["balances_from", "token_rpc"], env = "ALEPH_NODE_LEDGER")]
    ledger: Option<PathBuf>,

    /// Accounts whose posts of the type balances-update say what others hold
    #[arg(long, value_delimiter = ',', conflicts_with = "token_rpc", env = "ALEPH_NODE_BALANCES_FROM")]
    balances_from: Vec<Address>,

    #[command(flatten)]
    token: TokenOptions,

    #[command(flatten)]
    hold: HoldOptions,

    /// Accept these payment types, credit and superfluid, without charging anything; they are refused if not given
    #[arg(long, value_delimiter = ',', value_parser = payment_kind, env = "ALEPH_NODE_ACCEPT_WITHOUT_CHARGE")]
    accept_without_charge: Vec<PaymentKind>,

    /// From this time on refuse everything but credits for persistent programs, like 2026-03-11T00:00:00Z
    #[arg(long, value_parser = time, env = "ALEPH_NODE_HOLD_PERSISTENT_UNTIL")]
    hold_persistent_until: Option<MessageTime>,

    /// From this time on refuse everything but credits
    #[arg(long, value_parser = time, env = "ALEPH_NODE_HOLD_UNTIL")]
    hold_until: Option<MessageTime>,

    /// Programs on demand from before this time are free
    #[arg(long, value_parser = time, env = "ALEPH_NODE_FREE_ON_DEMAND_UNTIL")]
    free_on_demand_until: Option<MessageTime>,
}

impl PaymentOptions {
    /// These settings with those of payment.
    pub(crate) fn set(self, config: Config) -> Config {
        let HoldOptions { grace, unpaid_retention } = self.hold;
        Config {
            ledger: self.ledger,
            balance_senders: self.balances_from,
            token: self.token.config(),
            payment: PaymentRules {
                without_charge: self.accept_without_charge,
                hold_until: self.hold_until,
                hold_persistent_until: self.hold_persistent_until,
                free_on_demand_until: self.free_on_demand_until,
            },
            timing: Timing { grace, retention: unpaid_retention, ..config.timing },
            ..config
        }
    }
}

/// What happens to what is not paid for any more.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct HoldOptions {
    /// How long programs and files stay in force that their owner's balance does not cover any more
    #[arg(long, default_value = "24h", value_parser = retention, env = "ALEPH_NODE_GRACE")]
    grace: Duration,

    /// How long after that they come back when they are paid for again
    #[arg(long, default_value = "7d", value_parser = retention, env = "ALEPH_NODE_UNPAID_RETENTION")]
    unpaid_retention: Duration,
}

impl HoldOptions {
    /// The same as arguments of another process.
    pub(crate) fn arguments(&self) -> [OsString; 4] {
        let Self { grace, unpaid_retention } = *self;
        ["--grace".into(), in_millis(grace), "--unpaid-retention".into(), in_millis(unpaid_retention)]
    }
}

fn payment_kind(text: &str) -> Result<PaymentKind, String> {
    match text {
        "credit" => Ok(PaymentKind::Credit),
        "superfluid" => Ok(PaymentKind::Superfluid),
        _ => Err("expected credit or superfluid".to_owned()),
    }
}

fn time(text: &str) -> Result<MessageTime, String> {
    let expected = "expected a time like 2027-01-01T00:00:00Z";
    serde_json::from_value(Value::from(text)).map_err(|e| format!("{e}; {expected}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::options::{Options, Role};

    const CONTRACT: &str = "0xc0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0";
    const RPC: [&str; 2] = ["--token-rpc", "http://127.0.0.1:8545"];

    fn parse(arguments: &[&str]) -> Result<Config, String> {
        let options = Options::try_parse_from([&["aleph-node", "message-node"], arguments].concat());
        let Role::MessageNode(options) = options.map_err(|e| e.to_string())?.role else { panic!("another role") };
        Ok(options.payment.set(Config::new(options.listen, options.data_dir)))
    }

    #[test]
    fn balances_have_one_source_that_is_whole() {
        let contract = ["--token-contract", CONTRACT];
        let token = [RPC, contract].concat();
        let two = format!("{CONTRACT},{CONTRACT}");
        let (ledger, senders) = (["--ledger", "ledger.json"], ["--balances-from", two.as_str()]);
        assert_eq!(parse(&senders).unwrap().balance_senders.len(), 2);
        assert_eq!(parse(&token).unwrap().token.unwrap().decimals, 18);
        for wrong in [
            &RPC[..],
            &contract,
            &[&token[..], &ledger].concat(),
            &[&token[..], &senders].concat(),
            &[ledger, senders].concat(),
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
        let error = parse(&[RPC, ["--token-contract", "0x12"]].concat()).unwrap_err();
        assert!(error.contains("40 hexadecimal digits"), "{error}");
    }

    #[test]
    fn cut_offs_are_off_unless_they_are_given() {
        let rules = parse(&[]).unwrap().payment;
        assert!(rules.without_charge.is_empty() && rules.hold_until.is_none() && rules.hold_persistent_until.is_none());
        let until = |name, time: &'static str| parse(&[name, time]).map(|config| config.payment);
        let rules = until("--hold-persistent-until", "2026-03-11T00:00:00Z").unwrap();
        assert_eq!(rules.hold_persistent_until.unwrap().as_micros(), 1_773_187_200_000_000);
        assert!(until("--hold-until", "tomorrow").unwrap_err().contains("2027-01-01T00:00:00Z"));
        let free = parse(&["--accept-without-charge", "credit,superfluid"]).unwrap().payment.without_charge;
        assert_eq!(free, [PaymentKind::Credit, PaymentKind::Superfluid]);
        assert!(parse(&["--accept-without-charge", "hold"]).unwrap_err().contains("credit or superfluid"));
    }
}

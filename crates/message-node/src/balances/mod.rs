//! What accounts hold: a ledger in a file, or a token on a chain.
//!
//! Exactly one of them: two would have to be added up, and then nobody could tell which of them a balance is from. Without
//! one nothing has to be paid for.

mod ledger;
mod token;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use protocol::Address;
use rust_decimal::Decimal;

use crate::config::Config;
use crate::core::chain::{Health, Holding, Interest};
use crate::error::RunError;
pub(crate) use ledger::Ledger;
use ledger::LedgerFile;
pub(crate) use token::TokenBalances;

/// The balances of a network.
#[derive(Debug)]
pub(crate) enum Balances {
    /// Nothing has to be paid for.
    Unlimited,
    /// What the file says.
    Ledger(LedgerFile),
    /// What the chain says.
    Token(Arc<TokenBalances>),
}

impl Balances {
    /// Reads the ledger, or gets ready to read the chain; it need not answer for that.
    ///
    /// # Errors
    /// [`RunError::Ledger`] when the file cannot be read, [`RunError::TwoBalances`].
    pub(crate) fn open(config: &Config) -> Result<Self, RunError> {
        match (&config.ledger, &config.token) {
            (None, None) => Ok(Self::Unlimited),
            (Some(path), None) => Ok(Self::Ledger(LedgerFile::open(path)?)),
            (None, Some(token)) => Ok(Self::Token(Arc::new(TokenBalances::new(token.clone())))),
            (Some(_), Some(_)) => Err(RunError::TwoBalances),
        }
    }

    /// All balances that are known now; `None` on a network where nothing is paid for.
    pub(crate) fn known(&self) -> Option<Arc<Ledger>> {
        match self {
            Self::Unlimited => None,
            Self::Ledger(file) => Some(file.current()),
            Self::Token(token) => Some(Arc::new(token.known())),
        }
    }

    /// What an account holds: nothing when the ledger does not list it.
    pub(crate) fn of(&self, address: &Address) -> Holding {
        self.holding(&address.canonical(), Interest::Passing)
    }

    /// The same for an account, canonical, that has something in force: it is told from now on when its balance changes.
    pub(crate) fn watch(&self, account: &str) -> Holding {
        self.holding(account, Interest::Lasting)
    }

    fn holding(&self, account: &str, interest: Interest) -> Holding {
        match self {
            Self::Unlimited => Holding::Unlimited,
            Self::Ledger(file) => Holding::Tokens(file.current().get(account).copied().unwrap_or_default()),
            Self::Token(token) => token.holding(account, interest),
        }
    }

    /// An account, canonical, has nothing in force any more.
    pub(crate) fn release(&self, account: &str) {
        if let Self::Token(token) = self {
            token.release(account);
        }
    }

    /// Accounts, canonical, whose balance has changed since this was asked before, some perhaps twice.
    pub(crate) fn changes(&self) -> Vec<String> {
        match self {
            Self::Unlimited => Vec::new(),
            Self::Ledger(file) => file.changes(),
            Self::Token(token) => token.changes(),
        }
    }

    /// Why a balance is not known, for people.
    pub(crate) fn why_unknown(&self) -> String {
        let trouble = self.chain().and_then(|chain| chain.health.trouble);
        trouble.unwrap_or_else(|| "it is being read from the chain".to_owned())
    }

    /// How it stands with the chain, if balances are read from one.
    pub(crate) fn chain(&self) -> Option<ChainNumbers> {
        match self {
            Self::Token(token) => Some(ChainNumbers { health: token.health(), silence: token.silence() }),
            Self::Unlimited | Self::Ledger(_) => None,
        }
    }
}

/// How it stands with a chain that balances are read from.
#[derive(Debug)]
pub(crate) struct ChainNumbers {
    /// What is known of it.
    pub health: Health,
    /// How long ago everything was answered; `None` before the first time.
    pub silence: Option<Duration>,
}

/// Balances by canonical address.
type ByAccount = HashMap<String, Decimal>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{TokenAddress, TokenConfig};

    fn config() -> Config {
        Config::new(([127, 0, 0, 1], 0).into(), "data")
    }

    #[test]
    fn without_a_source_nothing_is_paid_for() {
        assert_eq!(Balances::open(&config()).unwrap().of(&Address::new("0xABcd")), Holding::Unlimited);
    }

    #[test]
    fn there_is_one_source() {
        let token = TokenConfig::new("http://127.0.0.1:1".parse().unwrap(), TokenAddress([1; 20]));
        let both = Config { ledger: Some("ledger.json".into()), token: Some(token.clone()), ..config() };
        assert!(matches!(Balances::open(&both), Err(RunError::TwoBalances)));
        let balances = Balances::open(&Config { token: Some(token), ..config() }).unwrap();
        assert_eq!(balances.of(&Address::new("0x00000000000000000000000000000000000000AA")), Holding::Unknown);
        assert_eq!(balances.of(&Address::new("an account of another chain")), Holding::Tokens(Decimal::ZERO));
    }
}

//! What accounts hold: a ledger in a file, what trusted senders publish, or a token on a chain.
//!
//! Exactly one of them: two would have to be added up, and then nobody could tell which of them a balance is from. Without
//! one nothing has to be paid for. The network's authority never has to hold anything, because it sets the prices.

mod ledger;
mod published;
mod token;

use std::sync::Arc;
use std::time::Duration;

use protocol::Address;
use rust_decimal::Decimal;

use crate::config::Config;
use crate::core::balances::Update;
use crate::core::chain::{Health, Holding, Interest};
use crate::error::RunError;
use crate::store::balances::{self as stored, Entry};
use crate::store::{Connection, Store, Stored};
use ledger::LedgerFile;
use published::Published;
use token::TokenBalances;

/// The word of the chain of tokens whose chain nobody names.
pub(crate) const CHAIN: &str = "ETH";

/// The balances of a network.
#[derive(Debug)]
pub(crate) struct Balances {
    source: Source,
    /// The network's authority, canonical.
    exempt: Option<String>,
}

#[derive(Debug)]
enum Source {
    /// Nothing has to be paid for.
    Unlimited,
    /// What the file says.
    Ledger(LedgerFile),
    /// What trusted senders say.
    Published(Published),
    /// What the chain says.
    Token(Arc<TokenBalances>),
}

/// Whose balances changed.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Accounts, canonical, some perhaps twice.
    pub accounts: Vec<String>,
    /// No balance was known before, and now all are.
    pub everybody: bool,
}

impl Balances {
    /// Reads the ledger, or gets ready to read the chain; it need not answer for that.
    ///
    /// # Errors
    /// [`RunError::Ledger`] when the file cannot be read, [`RunError::TwoBalances`].
    pub(crate) fn open(config: &Config) -> Result<Self, RunError> {
        let authors: Vec<String> = config.balance_senders.iter().map(Address::canonical).collect();
        let source = match (&config.ledger, authors.is_empty(), &config.token) {
            (None, true, None) => Source::Unlimited,
            (Some(path), true, None) => Source::Ledger(LedgerFile::open(path)?),
            (None, false, None) => Source::Published(Published::new(authors)),
            (None, true, Some(token)) => Source::Token(Arc::new(TokenBalances::new(token.clone()))),
            _ => return Err(RunError::TwoBalances),
        };
        Ok(Self { source, exempt: config.authority.as_ref().map(Address::canonical) })
    }

    /// Drops what senders published that are not trusted any more.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) async fn drop_untrusted(&self, db: &mut Connection) -> Stored<()> {
        match &self.source {
            Source::Published(published) => stored::keep_only(db, published.authors()).await,
            Source::Unlimited | Source::Ledger(_) | Source::Token(_) => Ok(()),
        }
    }

    /// The token that is to be read from a chain.
    pub(crate) fn token(&self) -> Option<Arc<TokenBalances>> {
        match &self.source {
            Source::Token(token) => Some(Arc::clone(token)),
            Source::Unlimited | Source::Ledger(_) | Source::Published(_) => None,
        }
    }

    /// What an account holds: nothing when the ledger does not list it.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) async fn of(&self, db: &mut Connection, account: &Address) -> Stored<Holding> {
        self.holding(db, &account.canonical(), Interest::Passing).await
    }

    /// The same for an account, canonical, that has something in force: it is told from now on when its balance changes.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) async fn watch(&self, db: &mut Connection, account: &str) -> Stored<Holding> {
        self.holding(db, account, Interest::Lasting).await
    }

    async fn holding(&self, db: &mut Connection, account: &str, interest: Interest) -> Stored<Holding> {
        if self.is_exempt(account) {
            return Ok(Holding::Unlimited);
        }
        Ok(match &self.source {
            Source::Unlimited => Holding::Unlimited,
            Source::Ledger(file) => Holding::Tokens(file.current().get(account).copied().unwrap_or_default()),
            Source::Published(_) => match stored::of(db, account).await? {
                None => Holding::Unknown,
                Some(entries) => Holding::Tokens(sum(&entries)),
            },
            Source::Token(token) => token.holding(account, interest),
        })
    }

    fn is_exempt(&self, account: &str) -> bool {
        self.exempt.as_deref() == Some(account)
    }

    /// What an account holds; waits a while for it to be read from the chain.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) async fn read(&self, store: &Store, account: &Address, patience: Duration) -> Stored<Holding> {
        match &self.source {
            // Without a connection to the store: there are few.
            Source::Token(token) if !self.is_exempt(&account.canonical()) => {
                Ok(token.read(&account.canonical(), patience).await)
            }
            _ => self.of(&mut *store.read().await?, account).await,
        }
    }

    /// The same by chain; none where nothing has to be paid for, or nothing is known.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) async fn by_chain(&self, db: &mut Connection, account: &Address) -> Stored<Vec<Entry>> {
        if matches!(self.source, Source::Published(_)) && !self.is_exempt(&account.canonical()) {
            return Ok(stored::of(db, &account.canonical()).await?.unwrap_or_default());
        }
        Ok(match self.of(db, account).await? {
            Holding::Tokens(balance) => vec![entry(account.canonical(), balance)],
            Holding::Unlimited | Holding::Unknown => Vec::new(),
        })
    }

    /// A part of all balances that are known, ordered by account, and how many there are.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) async fn page(&self, db: &mut Connection, skip: u64, limit: u32) -> Stored<(Vec<Entry>, u64)> {
        let known = match &self.source {
            Source::Unlimited => return Ok((Vec::new(), 0)),
            Source::Published(_) => return stored::page(db, skip, limit).await,
            Source::Ledger(file) => file.current(),
            Source::Token(token) => Arc::new(token.known()),
        };
        let mut all: Vec<(&String, &Decimal)> = known.iter().collect();
        all.sort_unstable();
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        let page = all.iter().skip(skip).take(limit as usize);
        let page = page.map(|(account, balance)| entry((*account).clone(), **balance)).collect();
        Ok((page, all.len() as u64))
    }

    /// Keeps asking for the balance of an account, canonical, so that it is not forgotten for others.
    pub(crate) fn want(&self, account: &str) {
        if let Source::Token(token) = &self.source {
            token.holding(account, Interest::Passing);
        }
    }

    /// An account, canonical, has nothing in force any more.
    pub(crate) fn release(&self, account: &str) {
        if let Source::Token(token) = &self.source {
            token.release(account);
        }
    }

    /// Whether balances count that this account publishes.
    pub(crate) fn trusts(&self, author: &Address) -> bool {
        matches!(&self.source, Source::Published(published) if published.authors().contains(&author.canonical()))
    }

    /// Keeps balances that a trusted account published.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) async fn put(&self, db: &mut Connection, author: &Address, update: &Update) -> Stored<()> {
        let Source::Published(published) = &self.source else { return Ok(()) };
        let were_known = stored::are_known(db).await?;
        let changed = stored::put(db, &author.canonical(), update).await?;
        let are_first = !were_known && !changed.is_empty();
        tracing::info!(%author, chain = update.chain, height = update.height, changed = changed.len(), "balances");
        published.changed(changed, are_first);
        Ok(())
    }

    /// Whose balances have changed since this was asked before.
    pub(crate) fn changes(&self) -> Changes {
        let accounts = match &self.source {
            Source::Unlimited => Vec::new(),
            Source::Ledger(file) => file.changes(),
            Source::Published(published) => return published.changes(),
            Source::Token(token) => token.changes(),
        };
        Changes { accounts, everybody: false }
    }

    /// Why a balance is not known, for people.
    pub(crate) fn why_unknown(&self) -> String {
        match &self.source {
            Source::Token(token) => {
                token.health().trouble.unwrap_or_else(|| "it is being read from the chain".to_owned())
            }
            Source::Published(_) => "no trusted sender has published balances yet".to_owned(),
            Source::Unlimited | Source::Ledger(_) => "the ledger is being read".to_owned(),
        }
    }

    /// How it stands with the chain, if balances are read from one.
    pub(crate) fn chain(&self) -> Option<ChainNumbers> {
        self.token().map(|token| ChainNumbers { health: token.health(), silence: token.silence() })
    }
}

fn entry(account: String, balance: Decimal) -> Entry {
    Entry { account, chain: CHAIN.to_owned(), balance }
}

fn sum(entries: &[Entry]) -> Decimal {
    entries.iter().fold(Decimal::ZERO, |sum, entry| sum.saturating_add(entry.balance))
}

/// How it stands with a chain that balances are read from.
#[derive(Debug)]
pub(crate) struct ChainNumbers {
    /// What is known of it.
    pub health: Health,
    /// How long ago everything was answered; `None` before the first time.
    pub silence: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{TokenAddress, TokenConfig};

    fn config() -> Config {
        Config::new(([127, 0, 0, 1], 0).into(), "data")
    }

    async fn holding(config: &Config, account: &str) -> Holding {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("messages.sqlite")).await.unwrap();
        let mut db = store.read().await.unwrap();
        Balances::open(config).unwrap().of(&mut db, &Address::new(account)).await.unwrap()
    }

    fn token() -> TokenConfig {
        TokenConfig::new("http://127.0.0.1:1".parse().unwrap(), TokenAddress([1; 20]))
    }

    #[tokio::test]
    async fn without_a_source_nothing_is_paid_for() {
        assert_eq!(holding(&config(), "0xABcd").await, Holding::Unlimited);
    }

    #[tokio::test]
    async fn what_was_not_read_is_unknown_and_the_authority_holds_nothing() {
        let account = "0x00000000000000000000000000000000000000AA";
        let from_chain = Config { token: Some(token()), ..config() };
        assert_eq!(holding(&from_chain, account).await, Holding::Unknown);
        assert_eq!(holding(&from_chain, "an account of another chain").await, Holding::Tokens(Decimal::ZERO));
        let published = Config { balance_senders: vec![Address::new("0xAB")], ..config() };
        assert_eq!(holding(&published, account).await, Holding::Unknown);
        let authority = Config { authority: Some(Address::new(account)), ..from_chain };
        assert_eq!(holding(&authority, account).await, Holding::Unlimited);
    }

    #[test]
    fn there_is_one_source() {
        let ledger = || Some("ledger.json".into());
        let senders = || vec![Address::new("0xAB")];
        for two in [
            Config { ledger: ledger(), token: Some(token()), ..config() },
            Config { ledger: ledger(), balance_senders: senders(), ..config() },
            Config { token: Some(token()), balance_senders: senders(), ..config() },
        ] {
            assert!(matches!(Balances::open(&two), Err(RunError::TwoBalances)));
        }
    }
}

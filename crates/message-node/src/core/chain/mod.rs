//! Follows a token on a chain: which balances are known, as of which block, and what to ask next.
//!
//! Pure: the shell sends what [`Chain::request`] says and gives the answer to [`Chain::take`], until there is no request
//! left; then it begins the next round after a while.
//!
//! ```text
//!  Idle ─begin─▶ Head ─▶ Tip ─▶ Base ─▶ Transfers ─▶ Again ─┬▶ Tip (there are more blocks)
//!   ▲                     │ nothing new, or the first block  ▼
//!   │                     └──────────────────────────────▶ Balances ─▶ Idle
//!   └─ trouble, anywhere: what is known stays in force
//! ```
//! * All that is known is as of one block, `at`, which is deep enough. A balance is read (`balanceOf` at the hash of that
//!   block) when somebody first asks for it. Later blocks are looked through for transfers, and the balances of those who
//!   took part are read again. So a transfer is never computed with: tokens that take a fee, say, are counted rightly.
//! * `Tip` is asked for before and after the transfers, and the block that all is as of in between. When all are the same
//!   as before, the transfers were those of one chain.
//! * After a reorganisation that reaches `at`, or a very long pause, all balances are read again. Until then, and however
//!   long the other side does not answer, the last known ones stay in force: **unknown is not zero**.
//! * An account that nobody holds anything for is forgotten when there are too many of its kind.

mod erc20;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};

use rust_decimal::Decimal;

pub(crate) use erc20::{MAX_ANSWER_BYTES, Token, account};

/// An account on the chain.
pub(crate) type Account = [u8; 20];
/// The hash of a block.
pub(crate) type Hash = [u8; 32];

/// Blocks that are looked through for transfers with one question. Providers allow 1000 and more, or say so.
const MAX_RANGE: u64 = 1000;
/// Blocks after which it is less to read everything again.
const CATCH_UP: u64 = 50_000;
/// Balances that are read with one question.
const MAX_WIDTH: usize = 50;

/// A block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block {
    /// Its number.
    pub number: u64,
    /// Its hash.
    pub hash: Hash,
    /// Its time, seconds since 1970.
    pub time: u64,
}

/// Something to ask an RPC node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    /// The number of the newest block.
    Head,
    /// The block with this number.
    Block(u64),
    /// Who took part in transfers from this block on.
    Transfers {
        /// The first block.
        from: u64,
        /// The last one.
        to: Block,
    },
    /// Balances as of a block.
    Balances {
        /// The block.
        at: Hash,
        /// Whose.
        of: Vec<Account>,
    },
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Reply {
    /// The number of the newest block.
    Head(u64),
    /// The block, if there is one with this number.
    Block(Option<Block>),
    /// Who took part.
    Transfers(Vec<Account>),
    /// The balances, in the order of the question, in tokens.
    Balances(Vec<Decimal>),
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// There was none, or nonsense.
    Failed(String),
    /// The other side does not want to answer this question; perhaps a smaller one.
    Refused(String),
}

/// What is known of an account.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Holding {
    /// Nothing has to be paid for.
    Unlimited,
    /// It was not read yet.
    Unknown,
    /// This many tokens.
    Tokens(Decimal),
}

/// Why somebody wants to know a balance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interest {
    /// The account has something in force: it stays known.
    Lasting,
    /// Somebody asked.
    Passing,
}

/// How things stand, for operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Health {
    /// The block that balances are of.
    pub at: Option<Block>,
    /// Why the last round failed, if it did.
    pub trouble: Option<String>,
    /// Rounds that failed.
    pub failures: u64,
    /// Reorganisations that reached a block which was deep enough.
    pub reorganisations: u64,
    /// Accounts whose balance is known or wanted.
    pub accounts: usize,
    /// Accounts whose balance is to be read.
    pub unread: usize,
}

#[derive(Debug)]
struct Entry {
    balance: Option<Decimal>,
    is_queued: bool,
    interest: Interest,
    /// The number of the question that asked for it last.
    asked: u64,
}

#[derive(Debug)]
enum Stage {
    Idle,
    Head,
    Tip {
        number: u64,
        target: u64,
    },
    Base {
        tip: Block,
        target: u64,
    },
    Transfers {
        tip: Block,
        target: u64,
    },
    Again {
        tip: Block,
        target: u64,
        touched: Vec<Account>,
    },
    /// Whose: accounts may be forgotten, and others come, while this is asked.
    Balances {
        of: Vec<Account>,
    },
}

/// The balances of a token.
#[derive(Debug)]
pub(crate) struct Chain {
    confirmations: u64,
    /// Accounts of passing interest that are remembered.
    most_passing: usize,
    passing: usize,
    accounts: HashMap<Account, Entry>,
    unread: VecDeque<Account>,
    at: Option<Block>,
    stage: Stage,
    range: u64,
    width: usize,
    questions: u64,
    trouble: Option<String>,
    failures: u64,
    reorganisations: u64,
}

impl Chain {
    /// Nothing is known. A block counts when this many others are on top of it.
    pub(crate) fn new(confirmations: u64, most_passing: usize) -> Self {
        Self {
            confirmations,
            most_passing: most_passing.max(1),
            passing: 0,
            accounts: HashMap::new(),
            unread: VecDeque::new(),
            at: None,
            stage: Stage::Idle,
            range: MAX_RANGE,
            width: MAX_WIDTH,
            questions: 0,
            trouble: None,
            failures: 0,
            reorganisations: 0,
        }
    }

    /// What an account holds, as far as is known; if it is not, it will be read.
    pub(crate) fn holding(&mut self, account: Account, interest: Interest) -> Holding {
        self.questions += 1;
        let asked = self.questions;
        if !self.accounts.contains_key(&account) {
            self.make_room(interest);
            self.accounts.insert(account, Entry { balance: None, is_queued: true, interest, asked });
            self.unread.push_back(account);
        }
        let Some(entry) = self.accounts.get_mut(&account) else { return Holding::Unknown };
        entry.asked = asked;
        if interest == Interest::Lasting && entry.interest == Interest::Passing {
            entry.interest = Interest::Lasting;
            self.passing -= 1;
        }
        entry.balance.map_or(Holding::Unknown, Holding::Tokens)
    }

    /// An account has nothing in force any more.
    pub(crate) fn release(&mut self, account: &Account) {
        if let Some(entry) = self.accounts.get_mut(account)
            && entry.interest == Interest::Lasting
        {
            entry.interest = Interest::Passing;
            self.passing += 1;
        }
    }

    /// Counts a new account, and forgets a quarter of those of passing interest when there are too many.
    fn make_room(&mut self, interest: Interest) {
        if interest == Interest::Lasting {
            return;
        }
        if self.passing >= self.most_passing {
            let passing = self.accounts.iter().filter(|(_, entry)| entry.interest == Interest::Passing);
            let mut oldest: Vec<(u64, Account)> = passing.map(|(account, entry)| (entry.asked, *account)).collect();
            oldest.sort_unstable();
            oldest.truncate(oldest.len().div_ceil(4));
            for (_, account) in &oldest {
                self.accounts.remove(account);
            }
            self.passing -= oldest.len();
            self.unread.retain(|account| self.accounts.contains_key(account));
        }
        self.passing += 1;
    }

    /// How things stand.
    pub(crate) fn health(&self) -> Health {
        Health {
            at: self.at,
            trouble: self.trouble.clone(),
            failures: self.failures,
            reorganisations: self.reorganisations,
            accounts: self.accounts.len(),
            unread: self.unread.len(),
        }
    }

    /// Balances that are known, by account.
    pub(crate) fn known(&self) -> impl Iterator<Item = (&Account, Decimal)> {
        self.accounts.iter().filter_map(|(account, entry)| Some((account, entry.balance?)))
    }

    /// Begins a round. What was left of the last one, whose answer never came, is dropped.
    pub(crate) fn begin(&mut self) {
        self.stage = Stage::Head;
    }

    /// What to ask now; `None` when the round is over.
    pub(crate) fn request(&self) -> Option<Request> {
        Some(match &self.stage {
            Stage::Idle => return None,
            Stage::Head => Request::Head,
            Stage::Tip { number, .. } => Request::Block(*number),
            Stage::Base { .. } => Request::Block(self.at?.number),
            Stage::Transfers { tip, .. } => Request::Transfers { from: self.at?.number + 1, to: *tip },
            Stage::Again { tip, .. } => Request::Block(tip.number),
            Stage::Balances { of } => Request::Balances { at: self.at?.hash, of: of.clone() },
        })
    }

    /// The answer to [`Chain::request`]. Gives the accounts whose balance came to be known or changed.
    pub(crate) fn take(&mut self, answer: Result<Reply, Trouble>) -> Vec<Account> {
        let stage = std::mem::replace(&mut self.stage, Stage::Idle);
        match (stage, answer) {
            (Stage::Head, Ok(Reply::Head(head))) => self.head(head),
            (Stage::Tip { number, target }, Ok(Reply::Block(Some(tip)))) if tip.number == number => {
                self.tip(tip, target);
            }
            (Stage::Base { tip, target }, Ok(Reply::Block(Some(base)))) => match self.at {
                Some(at) if at.hash == base.hash => self.stage = Stage::Transfers { tip, target },
                _ => self.reorganised(target),
            },
            (Stage::Transfers { tip, target }, Ok(Reply::Transfers(touched))) => {
                self.stage = Stage::Again { tip, target, touched };
            }
            (Stage::Transfers { target, .. }, Err(Trouble::Refused(_))) => self.ask_for_less(target),
            (Stage::Again { tip, target, touched }, Ok(Reply::Block(Some(again)))) => {
                self.again(tip, target, &touched, again);
            }
            (Stage::Balances { of }, Ok(Reply::Balances(balances))) => return self.balances(&of, &balances),
            (Stage::Balances { .. }, Err(Trouble::Refused(why))) => self.read_fewer(why),
            (_, Ok(Reply::Block(None))) => self.fail("the RPC node does not know a block below its newest one"),
            (_, Ok(_)) => self.fail("the RPC node answered something else than it was asked for"),
            (_, Err(Trouble::Failed(why) | Trouble::Refused(why))) => self.fail(why),
        }
        Vec::new()
    }

    fn head(&mut self, head: u64) {
        let Some(target) = head.checked_sub(self.confirmations) else {
            let wanted = self.confirmations;
            return self
                .fail(format!("the chain has {head} blocks, and {wanted} have to be on top of one that counts"));
        };
        let number = match self.at {
            Some(at) if target < at.number => {
                let known = at.number.saturating_add(self.confirmations);
                return self.fail(format!("the RPC node is behind: it is at block {head}, and was at {known} before"));
            }
            Some(at) if target - at.number <= CATCH_UP => target.min(at.number + self.range),
            _ => {
                self.at = None;
                target
            }
        };
        self.stage = Stage::Tip { number, target };
    }

    fn tip(&mut self, tip: Block, target: u64) {
        match self.at {
            None => {
                self.at = Some(tip);
                let all: Vec<Account> = self.accounts.keys().copied().collect();
                self.queue(&all);
                self.read();
            }
            Some(at) if at.hash == tip.hash => self.read(),
            Some(at) if at.number == tip.number => self.reorganised(target),
            Some(_) => self.stage = Stage::Base { tip, target },
        }
    }

    /// What all is as of is no part of the chain any more. Everything is read again; the last known balances stay until then.
    fn reorganised(&mut self, target: u64) {
        self.reorganisations += 1;
        self.at = None;
        self.stage = Stage::Tip { number: target, target };
    }

    /// There were too many transfers, or too many blocks.
    fn ask_for_less(&mut self, target: u64) {
        let Some(at) = self.at else { return };
        if self.range > 1 {
            self.range /= 2;
            self.stage = Stage::Tip { number: target.min(at.number + self.range), target };
        } else {
            // Not even those of one block are told: reading everything needs none.
            self.at = None;
            self.stage = Stage::Tip { number: target, target };
        }
    }

    fn again(&mut self, tip: Block, target: u64, touched: &[Account], again: Block) {
        if again.hash != tip.hash {
            return self.fail("the chain was reorganised while it was read");
        }
        self.at = Some(tip);
        self.queue(touched);
        if tip.number < target {
            self.stage = Stage::Tip { number: target.min(tip.number + self.range), target };
        } else {
            self.range = (self.range * 2).min(MAX_RANGE);
            self.read();
        }
    }

    /// Those of these accounts that matter are to be read again.
    fn queue(&mut self, accounts: &[Account]) {
        for account in accounts {
            if let Some(entry) = self.accounts.get_mut(account)
                && !entry.is_queued
            {
                entry.is_queued = true;
                self.unread.push_back(*account);
            }
        }
    }

    /// Goes on with the balances that are to be read, or ends the round.
    fn read(&mut self) {
        if self.unread.is_empty() {
            self.trouble = None;
            self.stage = Stage::Idle;
        } else {
            self.stage = Stage::Balances { of: self.unread.iter().take(self.width).copied().collect() };
        }
    }

    fn balances(&mut self, of: &[Account], balances: &[Decimal]) -> Vec<Account> {
        let mut changed = Vec::new();
        for (account, balance) in of.iter().zip(balances) {
            let Some(entry) = self.accounts.get_mut(account) else { continue };
            entry.is_queued = false;
            if entry.balance.replace(*balance) != Some(*balance) {
                changed.push(*account);
            }
        }
        self.unread.retain(|account| self.accounts.get(account).is_some_and(|entry| entry.is_queued));
        self.width = (self.width * 2).min(MAX_WIDTH);
        self.read();
        changed
    }

    fn read_fewer(&mut self, why: String) {
        if self.width > 1 {
            self.width /= 2;
            return self.read();
        }
        // One that cannot be read does not keep the others from it.
        self.unread.rotate_left(1.min(self.unread.len()));
        self.fail(why);
    }

    fn fail(&mut self, why: impl Into<String>) {
        self.stage = Stage::Idle;
        self.failures += 1;
        self.trouble = Some(why.into());
    }
}

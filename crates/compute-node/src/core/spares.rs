//! How many sandboxes wait for a program, and of which kind: pure.
//!
//! ```text
//!            Prepare             made           a program takes it
//!  (none) ───────────▶ warming ────────▶ waiting ────────────────▶ (taken)
//!     ▲                   │ lost            │ lost; too many, too old, no room
//!     └───────────────────┴─────────────────┘
//! ```
//! Programs that start move it by what they want, the shell by what it reports, the clock by age. A kind is what must be the
//! same for a sandbox to be of use to a program.
//!
//! A stock is as large as the largest burst of programs that started lately: what comes at once finds a sandbox each. All
//! stocks together keep to a budget of memory, and one sandbox warms up at a time, so that others are not slowed down.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use lease::BootTime;

use super::backoff::Backoff;

/// How long a program that started counts.
const KEEP: Duration = Duration::from_secs(30 * 60);
/// Programs that start within this time are a burst.
const BURST: Duration = Duration::from_secs(5);
/// How many arrivals of a kind are remembered.
const MAX_ARRIVALS: usize = 256;
/// How long a sandbox waits at most: what it was made from may have been improved meanwhile.
const MAX_AGE: Duration = Duration::from_secs(3600);
/// What a sandbox is taken to cost until one was measured, MiB.
const UNMEASURED_MIB: u64 = 64;

/// Names a sandbox that waits, or will.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpareId(u64);

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<K> {
    /// A program starts that could use one of this kind. [`Command::Take`] answers, if there is one.
    Wanted(K),
    /// One waits now.
    Made {
        /// Which.
        id: SpareId,
        /// What it costs, MiB.
        memory_mib: u64,
    },
    /// It could not be made, or has ended by itself.
    Lost(SpareId),
    /// What they are made from takes room that something else needs: all of them end, until they are wanted again.
    MakeWay,
    /// Time passed.
    Tick {
        /// Whether the machine has little memory left.
        memory_is_short: bool,
    },
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command<K> {
    /// The program gets this one.
    Take(SpareId),
    /// Make one.
    Prepare(SpareId, K),
    /// End one that waits or warms up.
    End(SpareId),
    /// Nobody wants this kind any more: let go of what it is made from.
    Forget(K),
}

#[derive(Debug)]
struct Stock {
    arrivals: VecDeque<BootTime>,
    /// Since when each waits.
    waiting: BTreeMap<SpareId, BootTime>,
    warming: Option<SpareId>,
    memory_mib: u64,
    backoff: Backoff,
    not_before: BootTime,
}

impl Stock {
    fn new() -> Self {
        Self {
            arrivals: VecDeque::new(),
            waiting: BTreeMap::new(),
            warming: None,
            memory_mib: UNMEASURED_MIB,
            backoff: Backoff::default(),
            not_before: BootTime::BOOT,
        }
    }

    /// The largest burst lately.
    fn wanted(&self) -> usize {
        let (mut first, mut most) = (0, 0);
        for (last, arrival) in self.arrivals.iter().enumerate() {
            while arrival.since(self.arrivals[first]) > BURST {
                first += 1;
            }
            most = most.max(last + 1 - first);
        }
        most
    }

    fn len(&self) -> usize {
        self.waiting.len() + usize::from(self.warming.is_some())
    }
}

/// The sandboxes that wait on one node.
#[derive(Debug)]
pub struct Spares<K> {
    stocks: BTreeMap<K, Stock>,
    budget_mib: u64,
    memory_is_short: bool,
    most: usize,
    next: u64,
}

impl<K: Ord + Clone> Spares<K> {
    /// None yet; later `most` at most, with `budget_mib` of memory at most. No budget, no sandbox that waits.
    pub fn new(budget_mib: u64, most: usize) -> Self {
        Self { stocks: BTreeMap::new(), budget_mib, memory_is_short: false, most, next: 0 }
    }

    /// How many wait, of each kind.
    pub fn waiting(&self) -> impl Iterator<Item = (&K, usize)> {
        self.stocks.iter().map(|(kind, stock)| (kind, stock.waiting.len()))
    }

    /// Takes an event and says what to do, in this order.
    pub fn handle(&mut self, now: BootTime, event: Event<K>) -> Vec<Command<K>> {
        let mut commands = Vec::new();
        match event {
            Event::Wanted(kind) => {
                let stock = self.stocks.entry(kind).or_insert_with(Stock::new);
                if stock.arrivals.len() == MAX_ARRIVALS {
                    stock.arrivals.pop_front();
                }
                stock.arrivals.push_back(now);
                // The oldest: it is the one that would be ended next.
                commands.extend(stock.waiting.pop_first().map(|(id, _)| Command::Take(id)));
            }
            Event::Made { id, memory_mib } => {
                if let Some(stock) = self.stocks.values_mut().find(|stock| stock.warming == Some(id)) {
                    stock.warming = None;
                    stock.waiting.insert(id, now);
                    stock.memory_mib = memory_mib.max(1);
                    stock.backoff = Backoff::default();
                    self.adjust(now, &mut commands);
                }
            }
            Event::Lost(id) => self.lost(now, id),
            Event::MakeWay => {
                for (kind, stock) in std::mem::take(&mut self.stocks) {
                    commands.extend(stock.waiting.into_keys().chain(stock.warming).map(Command::End));
                    commands.push(Command::Forget(kind));
                }
            }
            Event::Tick { memory_is_short } => {
                self.memory_is_short = memory_is_short;
                self.age(now, &mut commands);
                self.adjust(now, &mut commands);
                self.forget(&mut commands);
            }
        }
        commands
    }

    fn lost(&mut self, now: BootTime, id: SpareId) {
        for stock in self.stocks.values_mut() {
            if stock.warming == Some(id) || stock.waiting.remove(&id).is_some() {
                stock.warming = stock.warming.filter(|warming| *warming != id);
                stock.not_before = stock.backoff.failed(now, None);
            }
        }
    }

    /// Forgets old arrivals, ends old sandboxes.
    fn age(&mut self, now: BootTime, commands: &mut Vec<Command<K>>) {
        for stock in self.stocks.values_mut() {
            while stock.arrivals.front().is_some_and(|arrival| now.since(*arrival) > KEEP) {
                stock.arrivals.pop_front();
            }
            stock.waiting.retain(|id, since| {
                let stays = now.since(*since) < MAX_AGE;
                if !stays {
                    commands.push(Command::End(*id));
                }
                stays
            });
        }
    }

    /// Ends what is too much; begins one that is missing, if none warms up.
    fn adjust(&mut self, now: BootTime, commands: &mut Vec<Command<K>>) {
        let shares = self.shares();
        for (kind, stock) in &mut self.stocks {
            let share = shares.get(kind).copied().unwrap_or(0);
            while stock.len() > share
                && let Some((id, _)) = stock.waiting.pop_first()
            {
                commands.push(Command::End(id));
            }
        }
        if self.stocks.values().any(|stock| stock.warming.is_some()) {
            return;
        }
        let missing = |(kind, stock): &(&K, &mut Stock)| {
            stock.not_before <= now && shares.get(*kind).is_some_and(|share| stock.len() < *share)
        };
        // What has nothing at all first.
        if let Some((kind, stock)) = self.stocks.iter_mut().filter(missing).min_by_key(|(_, stock)| stock.len()) {
            let id = SpareId(self.next);
            self.next += 1;
            stock.warming = Some(id);
            commands.push(Command::Prepare(id, kind.clone()));
        }
    }

    /// How many each kind may have: in rounds, one for each kind that wants another, those that are wanted most first, until
    /// the budget is spent.
    fn shares(&self) -> BTreeMap<K, usize> {
        let budget_mib = if self.memory_is_short { 0 } else { self.budget_mib };
        let mut kinds: Vec<_> = self.stocks.iter().map(|(kind, stock)| (kind, stock, stock.wanted())).collect();
        kinds.sort_by_key(|(kind, stock, _)| (std::cmp::Reverse(stock.arrivals.len()), *kind));
        let (mut left_mib, mut left) = (budget_mib, self.most);
        let mut shares = BTreeMap::new();
        for round in 1.. {
            let before = left;
            for (kind, stock, wanted) in &kinds {
                if *wanted >= round && left > 0 && stock.memory_mib <= left_mib {
                    (left_mib, left) = (left_mib - stock.memory_mib, left - 1);
                    *shares.entry((*kind).clone()).or_default() += 1;
                }
            }
            if left == before {
                break;
            }
        }
        shares
    }

    fn forget(&mut self, commands: &mut Vec<Command<K>>) {
        self.stocks.retain(|kind, stock| {
            let stays = !stock.arrivals.is_empty() || stock.len() > 0;
            if !stays {
                commands.push(Command::Forget(kind.clone()));
            }
            stays
        });
    }
}

#[cfg(test)]
#[path = "spares_tests.rs"]
mod tests;

//! Which messages wait for what. Pure: the worker tells what happened and when, and is told whom to try again.
//!
//! ```text
//!  (new) ──park──▶ waits for a reference ──arrived / deadline──▶ ready (the worker tries it again)
//!    │                                                              │
//!    └──park──▶ waits for its turn ──all earlier ones decided──▶ ready
//! ```
//! Who waits for a balance waits for it as long as it takes: unknown is not zero. All others have a deadline.
//!
//! A message stays known here, with its deadline, until [`Parked::decided`]. Deadlines count from the first time the
//! message was parked for anything but a balance, so that a queue of hopeless messages does not add up their windows.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use crate::core::Awaited;

/// What a parked message waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reason {
    /// Something that it refers to.
    Reference(Awaited),
    /// That all earlier messages of its sender are decided.
    Turn,
}

/// The messages that wait.
#[derive(Debug)]
pub(super) struct Parked {
    window: Duration,
    entries: BTreeMap<i64, Entry>,
    by_reference: HashMap<Awaited, BTreeSet<i64>>,
    by_sender: HashMap<String, BTreeSet<i64>>,
    by_deadline: BTreeSet<(Instant, i64)>,
}

#[derive(Debug)]
struct Entry {
    sender: String,
    deadline: Option<Instant>,
    /// `None` while the worker tries it again.
    reason: Option<Reason>,
}

impl Parked {
    /// Nobody waits; those who will, wait at most for this time.
    pub(super) fn new(window: Duration) -> Self {
        Self {
            window,
            entries: BTreeMap::new(),
            by_reference: HashMap::new(),
            by_sender: HashMap::new(),
            by_deadline: BTreeSet::new(),
        }
    }

    /// A message waits.
    pub(super) fn park(&mut self, seq: i64, sender: &str, reason: Reason, now: Instant) {
        let has_window = !matches!(reason, Reason::Reference(Awaited::Balance(_)));
        let known = self.entries.get(&seq).and_then(|entry| entry.deadline);
        let deadline = known.or_else(|| has_window.then(|| now + self.window));
        if let Reason::Reference(awaited) = &reason {
            self.by_reference.entry(awaited.clone()).or_default().insert(seq);
            if let Some(deadline) = deadline.filter(|_| has_window) {
                self.by_deadline.insert((deadline, seq));
            }
        }
        self.by_sender.entry(sender.to_owned()).or_default().insert(seq);
        self.entries.insert(seq, Entry { sender: sender.to_owned(), deadline, reason: Some(reason) });
    }

    /// Whether a message was parked for so long that it is tried for the last time.
    pub(super) fn is_last_try(&self, seq: i64, now: Instant) -> bool {
        self.entries.get(&seq).and_then(|entry| entry.deadline).is_some_and(|deadline| deadline <= now)
    }

    /// Whether an earlier message of the sender is not decided.
    pub(super) fn has_earlier(&self, seq: i64, sender: &str) -> bool {
        self.by_sender.get(sender).and_then(BTreeSet::first).is_some_and(|first| *first < seq)
    }

    /// Something came into being or was decided: gives those who waited for it.
    pub(super) fn arrived(&mut self, awaited: &Awaited) -> Vec<i64> {
        let waiting = self.by_reference.remove(awaited).unwrap_or_default();
        for seq in &waiting {
            self.release(*seq);
        }
        waiting.into_iter().collect()
    }

    /// Gives those whose time is over.
    pub(super) fn expired(&mut self, now: Instant) -> Vec<i64> {
        let later = self.by_deadline.split_off(&(now, i64::MAX));
        let over = std::mem::replace(&mut self.by_deadline, later);
        for (_, seq) in &over {
            self.release(*seq);
        }
        over.into_iter().map(|(_, seq)| seq).collect()
    }

    /// The accounts whose balances are waited for.
    pub(super) fn balances(&self) -> impl Iterator<Item = &str> {
        self.by_reference.keys().filter_map(|awaited| match awaited {
            Awaited::Balance(account) => Some(account.as_str()),
            Awaited::Message(_) | Awaited::File(_) => None,
        })
    }

    /// When the next one's time is over.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.by_deadline.first().map(|(deadline, _)| *deadline)
    }

    /// A message was decided: gives the one of the same sender whose turn has come, if it waits for that.
    pub(super) fn decided(&mut self, seq: i64) -> Option<i64> {
        self.release(seq);
        let entry = self.entries.remove(&seq)?;
        let of_sender = self.by_sender.get_mut(&entry.sender)?;
        of_sender.remove(&seq);
        let Some(first) = of_sender.first().copied() else {
            self.by_sender.remove(&entry.sender);
            return None;
        };
        let waits_for_turn = self.entries.get(&first).is_some_and(|next| next.reason == Some(Reason::Turn));
        waits_for_turn.then(|| {
            self.release(first);
            first
        })
    }

    /// Whether a message was parked and is not decided.
    pub(super) fn knows(&self, seq: i64) -> bool {
        self.entries.contains_key(&seq)
    }

    /// The worker tries a message again: it is not looked for by reason or time any more.
    fn release(&mut self, seq: i64) {
        let Some(entry) = self.entries.get_mut(&seq) else { return };
        if let Some(deadline) = entry.deadline {
            self.by_deadline.remove(&(deadline, seq));
        }
        if let Some(Reason::Reference(awaited)) = entry.reason.take()
            && let Some(waiting) = self.by_reference.get_mut(&awaited)
        {
            waiting.remove(&seq);
            if waiting.is_empty() {
                self.by_reference.remove(&awaited);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(10);

    fn message(hash: &str) -> Awaited {
        Awaited::Message(hash.to_owned())
    }

    fn waits_for(hash: &str) -> Reason {
        Reason::Reference(message(hash))
    }

    #[test]
    fn those_who_wait_for_the_same_thing_are_tried_again_together_and_once() {
        let (mut parked, now) = (Parked::new(WINDOW), Instant::now());
        parked.park(2, "s", waits_for("a"), now);
        parked.park(1, "t", waits_for("a"), now);
        parked.park(3, "s", waits_for("b"), now);
        let file = || Awaited::File(protocol::FileHash::of(b"a").into());
        parked.park(4, "s", Reason::Reference(file()), now);
        assert_eq!(parked.arrived(&message("a")), [1, 2]);
        assert!(parked.arrived(&message("a")).is_empty());
        assert_eq!(parked.arrived(&file()), [4]);
    }

    #[test]
    fn the_window_counts_from_the_first_parking() {
        let (mut parked, start) = (Parked::new(WINDOW), Instant::now());
        parked.park(1, "s", waits_for("a"), start);
        assert_eq!(parked.arrived(&message("a")), [1]);
        parked.park(1, "s", waits_for("b"), start + Duration::from_secs(9));
        assert_eq!(parked.next_deadline(), Some(start + WINDOW));
        assert!(parked.expired(start + Duration::from_secs(9)).is_empty());
        assert!(!parked.is_last_try(1, start + Duration::from_secs(9)));
        assert_eq!(parked.expired(start + WINDOW), [1]);
        assert!(parked.is_last_try(1, start + WINDOW));
        assert_eq!(parked.next_deadline(), None);
        assert_eq!(parked.decided(1), None);
        assert!(!parked.knows(1) && !parked.is_last_try(1, start + WINDOW), "nothing is left of it");
    }

    #[test]
    fn a_turn_comes_when_all_earlier_ones_of_the_sender_are_decided() {
        let (mut parked, now) = (Parked::new(WINDOW), Instant::now());
        parked.park(1, "s", waits_for("a"), now);
        parked.park(2, "s", waits_for("b"), now);
        assert!(parked.has_earlier(3, "s"));
        assert!(!parked.has_earlier(3, "other"));
        parked.park(3, "s", Reason::Turn, now);
        parked.park(4, "s", Reason::Turn, now);
        assert_eq!(parked.decided(2), None, "1 is not decided");
        assert_eq!(parked.decided(1), Some(3));
        assert!(!parked.has_earlier(3, "s"));
        assert_eq!(parked.decided(3), Some(4));
        assert_eq!(parked.decided(4), None);
        assert!(
            parked.entries.is_empty()
                && parked.by_sender.is_empty()
                && parked.by_deadline.is_empty()
                && parked.by_reference.is_empty()
        );
    }

    #[test]
    fn a_balance_is_waited_for_as_long_as_it_takes() {
        let (mut parked, start) = (Parked::new(WINDOW), Instant::now());
        let balance = Awaited::Balance("0xa".into());
        parked.park(1, "s", Reason::Reference(balance.clone()), start);
        assert_eq!((parked.next_deadline(), parked.balances().collect::<Vec<_>>()), (None, vec!["0xa"]));
        let later = start + 100 * WINDOW;
        assert!(parked.expired(later).is_empty() && !parked.is_last_try(1, later));
        assert_eq!(parked.arrived(&balance), [1]);
        assert_eq!(parked.balances().count(), 0);
        parked.park(1, "s", waits_for("a"), later);
        assert_eq!(parked.next_deadline(), Some(later + WINDOW), "for anything else its time begins now");
        assert_eq!(parked.expired(later + WINDOW), [1]);
        parked.park(1, "s", Reason::Reference(balance.clone()), later + WINDOW);
        assert_eq!(parked.next_deadline(), None);
        assert_eq!(parked.arrived(&balance), [1]);
        assert_eq!(parked.decided(1), None);
        assert!(parked.entries.is_empty() && parked.by_deadline.is_empty() && parked.by_reference.is_empty());
    }

    #[test]
    fn waiting_for_a_turn_uses_up_the_window() {
        let (mut parked, start) = (Parked::new(WINDOW), Instant::now());
        parked.park(1, "s", waits_for("a"), start);
        parked.park(2, "s", Reason::Turn, start);
        assert_eq!(parked.expired(start + WINDOW), [1], "who waits for a turn is not tried before it comes");
        assert_eq!(parked.decided(1), Some(2));
        assert!(parked.is_last_try(2, start + WINDOW));
    }

    #[test]
    fn messages_that_were_never_parked_are_no_concern() {
        let mut parked = Parked::new(WINDOW);
        assert_eq!(parked.decided(7), None);
        assert!(!parked.has_earlier(7, "s"));
    }
}

//! Who waits for something that there is not enough of, in the order in which they get it: owners take turns, so that who asks
//! for much waits for himself. Pure.
//!
//! What one owner asked for keeps its order. An owner who was served goes behind all others. When too many wait, the last of
//! the owner with the most is turned away, so that nobody fills the line for others.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// A line of `T`s, each of an owner `O`.
#[derive(Debug)]
pub struct Turns<O, T> {
    lines: HashMap<O, VecDeque<T>>,
    /// Who has something in line, in the order in which they are served.
    owners: VecDeque<O>,
    len: usize,
    most: usize,
}

impl<O: Clone + Eq + Hash, T: Copy + Eq> Turns<O, T> {
    /// Nobody waits. `most` may.
    pub fn new(most: usize) -> Self {
        Self { lines: HashMap::new(), owners: VecDeque::new(), len: 0, most }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nobody does.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts one into the line. Says who is turned away for it, who may be the same.
    pub fn push(&mut self, owner: O, item: T) -> Option<T> {
        let line = self.lines.entry(owner.clone()).or_default();
        if line.is_empty() {
            self.owners.push_back(owner);
        }
        line.push_back(item);
        self.len += 1;
        if self.len <= self.most {
            return None;
        }
        let longest = self.owners.iter().max_by_key(|owner| self.lines[*owner].len())?;
        let last = *self.lines[longest].back()?;
        self.remove(last);
        Some(last)
    }

    /// Everybody who waits, in the order in which they are served.
    pub fn in_order(&self) -> Vec<T> {
        let rounds = self.lines.values().map(VecDeque::len).max().unwrap_or(0);
        let lines: Vec<_> = self.owners.iter().map(|owner| &self.lines[owner]).collect();
        (0..rounds).flat_map(|round| lines.iter().filter_map(move |line| line.get(round).copied())).collect()
    }

    /// Takes one out who is served now: its owner goes behind the others.
    pub fn serve(&mut self, item: T) {
        if let Some(owner) = self.remove(item)
            && let Some(turn) = self.owners.iter().position(|other| *other == owner)
        {
            self.owners.remove(turn);
            self.owners.push_back(owner);
        }
    }

    /// Takes one out who does not wait any more. Says whose it was.
    pub fn remove(&mut self, item: T) -> Option<O> {
        let owner = self.owners.iter().find(|owner| self.lines[*owner].contains(&item))?.clone();
        let line = self.lines.get_mut(&owner)?;
        line.retain(|other| *other != item);
        self.len -= 1;
        if line.is_empty() {
            self.lines.remove(&owner);
            self.owners.retain(|other| *other != owner);
        }
        Some(owner)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn owners_take_turns_whatever_one_of_them_asks_for() {
        let mut turns = Turns::new(1000);
        for item in 0..100 {
            assert_eq!(turns.push("many", item), None);
        }
        turns.push("one", 1000);
        assert_eq!(turns.in_order()[..3], [0, 1000, 1]);
        turns.serve(0);
        assert_eq!(turns.in_order()[..3], [1000, 1, 2], "who was served goes behind the others");
        turns.push("another", 2000);
        turns.serve(1000);
        assert_eq!(turns.in_order()[..3], [1, 2000, 2]);
        assert_eq!(turns.remove(2000), Some("another"));
        assert_eq!(turns.remove(2000), None);
        assert_eq!(turns.in_order()[..2], [1, 2]);
        assert_eq!(turns.len(), 99);
    }

    #[test]
    fn a_full_line_turns_away_the_last_of_who_has_the_most() {
        let mut turns = Turns::new(3);
        for item in 0..3 {
            assert_eq!(turns.push("many", item), None);
        }
        assert_eq!(turns.push("many", 3), Some(3));
        assert_eq!(turns.push("one", 10), Some(2), "there is room for everybody's first");
        assert_eq!(turns.push("another", 20), Some(1));
        assert_eq!(turns.push("late", 30), Some(30), "each has one");
        assert_eq!(turns.in_order(), [0, 10, 20]);
    }

    proptest! {
        /// Nobody waits longer than one turn of each other owner for each of his own that are before it.
        #[test]
        fn nobody_waits_for_more_than_one_of_each_other_owner_at_a_time(
            pushes in prop::collection::vec(0_usize..5, 0..60),
            served_first in 0_usize..20,
        ) {
            let mut turns = Turns::new(1000);
            for (item, owner) in pushes.iter().enumerate() {
                turns.push(*owner, item);
            }
            for item in turns.in_order().into_iter().take(served_first) {
                turns.serve(item);
            }
            turns.push(9, 1000);
            let owners = turns.owners.len();
            let place = turns.in_order().iter().position(|item| *item == 1000).unwrap();
            prop_assert!(place < owners);
            prop_assert_eq!(turns.in_order().len(), turns.len());
        }
    }
}

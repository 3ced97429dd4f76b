//! Which downloads go on beside each other: pure.
//!
//! ```text
//!          a program wants a file          its owner's turn, fewer under way
//!  (none) ───────────────────────▶ waiting ────────────────────────────────▶ under way ──▶ (done)
//!                                     │ given up, or turned away
//!                                     ▼
//!                                  (none)
//! ```
//! There are so many at most, of one owner so many: a file that comes slowly takes one of its owner's places and none of
//! anybody else's, and keeps no program from starting that has its files. Owners take turns ([`super::turns`]).

use std::collections::HashMap;
use std::hash::Hash;

use super::turns::Turns;

/// Names a download that waits or is under way.
pub type DownloadId = u64;

/// How many there are at most.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Under way.
    pub most: usize,
    /// Under way of one owner.
    pub most_of_one: usize,
    /// Waiting.
    pub most_waiting: usize,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<O> {
    /// A program of this owner wants a file.
    Wanted(DownloadId, O),
    /// One that waited is not wanted any more.
    GivenUp(DownloadId),
    /// One that was under way has ended.
    Done(DownloadId),
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// It goes on.
    Begin(DownloadId),
    /// Too many wait.
    TurnAway(DownloadId),
}

/// The downloads of one node.
#[derive(Debug)]
pub struct Downloads<O> {
    bounds: Bounds,
    /// Whose those are that wait or are under way.
    owners: HashMap<DownloadId, O>,
    waiting: Turns<O, DownloadId>,
    under_way: HashMap<O, usize>,
}

impl<O: Clone + Eq + Hash> Downloads<O> {
    /// None yet.
    pub fn new(bounds: Bounds) -> Self {
        let (owners, under_way) = (HashMap::new(), HashMap::new());
        Self { bounds, owners, waiting: Turns::new(bounds.most_waiting), under_way }
    }

    /// Takes an event and says what to do, in this order.
    pub fn handle(&mut self, event: Event<O>) -> Vec<Command> {
        let mut commands = Vec::new();
        match event {
            Event::Wanted(id, owner) => {
                self.owners.insert(id, owner.clone());
                let over = self.waiting.push(owner, id);
                self.begin(&mut commands);
                // Not before it is seen whether there is a place for one.
                if let Some(last) = over {
                    self.owners.remove(&last);
                    commands.push(Command::TurnAway(last));
                }
            }
            Event::GivenUp(id) => {
                if self.waiting.remove(id).is_some() {
                    self.owners.remove(&id);
                }
            }
            Event::Done(id) => {
                if let Some(owner) = self.owners.remove(&id)
                    && let Some(count) = self.under_way.get_mut(&owner)
                {
                    *count -= 1;
                    if *count == 0 {
                        self.under_way.remove(&owner);
                    }
                    self.begin(&mut commands);
                }
            }
        }
        commands
    }

    fn begin(&mut self, commands: &mut Vec<Command>) {
        for id in self.waiting.in_order() {
            if self.under_way.values().sum::<usize>() >= self.bounds.most {
                return;
            }
            let owner = self.owners[&id].clone();
            let count = self.under_way.entry(owner).or_default();
            if *count < self.bounds.most_of_one {
                *count += 1;
                self.waiting.serve(id);
                commands.push(Command::Begin(id));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { most: 4, most_of_one: 2, most_waiting: 3 };

    #[test]
    fn one_owners_slow_downloads_take_none_of_anothers_places() {
        let mut downloads = Downloads::new(BOUNDS);
        assert_eq!(downloads.handle(Event::Wanted(1, "slow")), [Command::Begin(1)]);
        assert_eq!(downloads.handle(Event::Wanted(2, "slow")), [Command::Begin(2)]);
        assert_eq!(downloads.handle(Event::Wanted(3, "slow")), []);
        assert_eq!(downloads.handle(Event::Wanted(4, "other")), [Command::Begin(4)]);
        assert_eq!(downloads.handle(Event::Done(4)), []);
        assert_eq!(downloads.handle(Event::Done(1)), [Command::Begin(3)]);
        assert_eq!(downloads.handle(Event::Done(1)), [], "it was done already");
    }

    #[test]
    fn owners_take_turns_when_all_places_are_taken() {
        let mut downloads = Downloads::new(BOUNDS);
        for (id, owner) in [(1, "a"), (2, "a"), (3, "b"), (4, "b")] {
            assert_eq!(downloads.handle(Event::Wanted(id, owner)), [Command::Begin(id)]);
        }
        assert_eq!(downloads.handle(Event::Wanted(5, "a")), []);
        assert_eq!(downloads.handle(Event::Wanted(6, "a")), []);
        assert_eq!(downloads.handle(Event::Wanted(7, "c")), []);
        assert_eq!(downloads.handle(Event::Wanted(8, "d")), [Command::TurnAway(6)], "its owner has the most waiting");
        assert_eq!(downloads.handle(Event::Done(3)), [Command::Begin(7)], "the first has two under way");
        assert_eq!(downloads.handle(Event::Done(1)), [Command::Begin(5)]);
        downloads.handle(Event::GivenUp(8));
        assert_eq!(downloads.handle(Event::Done(2)), []);
    }
}

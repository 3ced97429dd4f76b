//! `hold` kept true: what is to happen to what an owner has in force, when its balance is not what it was.
//!
//! ```text
//!              not covered                    deadline, still not covered
//!   in force ───────────────▶ removing (until) ─────────────────────────▶ removed (until)
//!      ▲          covered        │                                          │      │ time over
//!      ├─────────────────────────┘                                          │      ▼
//!      └────────────────────────────────────────────────────────────────────┘    gone
//!                                        covered
//! ```
//! What stays is the longest run, oldest first, that the balance covers: the newest gives way first. Programs give way
//! before files, because a program whose files are gone is no use, and files can be used by others. What is removed comes
//! back in the same order, as far as the rest of the balance goes, when everything in force is covered: never a newer one
//! before an older one, so that nothing stops and comes back with the same balance. Who would rather have the newer one
//! takes the older one back (FORGET).

use rust_decimal::Decimal;

/// Something that an owner has to hold tokens for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Held {
    /// The message.
    pub item_hash: String,
    /// Whether it is a program; a file otherwise.
    pub is_program: bool,
    /// Tokens.
    pub cost: Decimal,
    /// When it arrived here, microseconds since 1970: what the sender says does not count.
    pub received_us: i64,
    /// How far it is.
    pub state: State,
}

/// How far something is. Times are microseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It is paid for.
    InForce,
    /// It is in force until then.
    Removing(i64),
    /// It can come back until then.
    Removed(i64),
}

/// What is to happen to something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// It is in force until then, unless it is paid for.
    Warn(i64),
    /// It is paid for again, in time.
    Keep,
    /// It is out of force, and can come back until then.
    Remove(i64),
    /// It comes back.
    Return,
    /// Nothing of it is kept any more.
    End,
}

/// How long things last, microseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    /// For how long something stays in force that is not paid for.
    pub grace_us: i64,
    /// For how long something can come back.
    pub retention_us: i64,
}

/// What is to happen to what an owner with this balance holds, as of `now_us`.
pub(crate) fn review(balance: Decimal, held: &[Held], now_us: i64, terms: Terms) -> Vec<(String, Change)> {
    let mut held: Vec<&Held> = held.iter().collect();
    held.sort_by_key(|held| (held.is_program, held.received_us, held.item_hash.as_str()));
    let (removed, live): (Vec<&Held>, Vec<&Held>) =
        held.into_iter().partition(|h| matches!(h.state, State::Removed(_)));
    let (mut left, mut all_covered, mut changes) = (balance, true, Vec::new());
    for held in live {
        all_covered = all_covered && held.cost <= left;
        if all_covered {
            left -= held.cost;
        }
        let change = match held.state {
            State::Removing(_) if all_covered => Change::Keep,
            State::InForce if !all_covered => Change::Warn(now_us.saturating_add(terms.grace_us)),
            State::Removing(until_us) if until_us <= now_us => {
                Change::Remove(now_us.saturating_add(terms.retention_us))
            }
            _ => continue,
        };
        changes.push((held.item_hash.clone(), change));
    }
    for held in removed {
        let State::Removed(until_us) = held.state else { continue };
        let change = match until_us <= now_us {
            true => Change::End,
            false => {
                all_covered = all_covered && held.cost <= left;
                if !all_covered {
                    continue;
                }
                left -= held.cost;
                Change::Return
            }
        };
        changes.push((held.item_hash.clone(), change));
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TERMS: Terms = Terms { grace_us: 100, retention_us: 1000 };

    fn held(item_hash: &str, cost: u32, received_us: i64, state: State) -> Held {
        Held { item_hash: item_hash.to_owned(), is_program: true, cost: cost.into(), received_us, state }
    }

    fn after(balance: u32, held: &[Held], now_us: i64) -> Vec<(String, Change)> {
        review(balance.into(), held, now_us, TERMS)
    }

    fn change(hash: &str, change: Change) -> (String, Change) {
        (hash.to_owned(), change)
    }

    #[test]
    fn the_newest_gives_way_first_and_only_as_far_as_needed() {
        let all =
            [held("c", 200, 3, State::InForce), held("a", 2000, 1, State::InForce), held("b", 200, 2, State::InForce)];
        assert_eq!(after(2400, &all, 0), []);
        assert_eq!(after(2399, &all, 5), [change("c", Change::Warn(105))]);
        assert_eq!(after(2199, &all, 5), [change("b", Change::Warn(105)), change("c", Change::Warn(105))]);
        assert_eq!(after(1999, &all, 5).len(), 3, "the oldest is not covered, so no newer one is preferred to it");
    }

    #[test]
    fn programs_give_way_before_files() {
        let file = Held { is_program: false, ..held("file", 10, 9, State::InForce) };
        let all = [held("program", 200, 1, State::InForce), file];
        assert_eq!(after(209, &all, 0), [change("program", Change::Warn(100))]);
        assert_eq!(after(9, &all, 0).len(), 2);
    }

    #[test]
    fn a_deadline_stands_and_the_balance_of_the_last_moment_counts() {
        let all = [held("a", 2000, 1, State::Removing(105))];
        assert_eq!(after(1999, &all, 104), [], "the deadline is not moved");
        assert_eq!(after(1999, &all, 105), [change("a", Change::Remove(1105))]);
        assert_eq!(after(2000, &all, 105), [change("a", Change::Keep)]);
    }

    #[test]
    fn what_was_removed_comes_back_in_time_when_the_rest_is_covered() {
        let removed = |until| held("old", 2000, 1, State::Removed(until));
        assert_eq!(after(1999, &[removed(50)], 49), []);
        assert_eq!(after(2000, &[removed(50)], 49), [change("old", Change::Return)]);
        assert_eq!(after(2000, &[removed(50)], 50), [change("old", Change::End)]);
        let newer = held("new", 200, 2, State::InForce);
        assert_eq!(after(2199, &[removed(50), newer.clone()], 0), [], "it does not push out what was accepted since");
        assert_eq!(after(2200, &[removed(50), newer.clone()], 0), [change("old", Change::Return)]);
        let small = held("small", 200, 3, State::Removed(50));
        assert_eq!(after(400, &[removed(50), small.clone(), newer.clone()], 0), [], "never a newer one before it");
        assert_eq!(after(400, &[removed(0), small, newer], 0).last(), Some(&change("small", Change::Return)));
        let not_covered = held("b", 500, 2, State::Removing(60));
        assert_eq!(after(300, &[not_covered, held("c", 200, 1, State::Removed(50))], 0), []);
    }

    proptest! {
        /// Whatever happens, what is in force and not about to be removed is covered, and nothing is taken needlessly.
        #[test]
        fn what_stays_is_covered(balance in 0_u32..1000, costs in prop::collection::vec((0_u32..400, 0_u8..3), 0..12)) {
            let state = |n| [State::InForce, State::Removing(10), State::Removed(10)][usize::from(n)];
            let all: Vec<Held> =
                costs.iter().zip(0..).map(|((cost, n), i)| held(&i.to_string(), *cost, i, state(*n))).collect();
            let changes: std::collections::HashMap<String, Change> = after(balance, &all, 5).into_iter().collect();
            let is_paid = |held: &&Held| match changes.get(&held.item_hash) {
                Some(change) => matches!(change, Change::Keep | Change::Return),
                None => held.state == State::InForce,
            };
            let paid: Decimal = all.iter().filter(is_paid).map(|held| held.cost).sum();
            prop_assert!(paid <= Decimal::from(balance));
            let unpaid = all.iter().filter(|held| !is_paid(held) && !matches!(held.state, State::Removed(_)));
            if let Some(next) = unpaid.min_by_key(|held| held.received_us) {
                prop_assert!(paid + next.cost > Decimal::from(balance), "{next:?} could have stayed");
            }
        }
    }
}

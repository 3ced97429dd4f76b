//! What the witness saw, judged. Pure: times and epochs in, faults found out.
//!
//! All times are nanoseconds of `CLOCK_BOOTTIME`. All hosts are namespaces of one kernel, so there is one such clock, in the
//! sandboxes, too: instants of different hosts can be compared exactly.

use std::collections::BTreeMap;

use serde::Serialize;

/// An instant at which a copy of a program said that it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Live {
    /// Which program.
    pub program: usize,
    /// The epoch that the copy was started under.
    pub epoch: u64,
    /// Which process.
    pub copy: String,
    /// When.
    pub at: u64,
}

/// A request and what came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Asked {
    /// Which program was asked.
    pub program: usize,
    /// When it was sent.
    pub sent: u64,
    /// When the answer was there, or why there will be none.
    pub done: u64,
    /// The copy that answered, or why none did.
    pub answer: Result<Live, String>,
}

/// Two copies of one program that both ran, or an older one after a newer one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Overlap {
    /// Which program.
    pub program: usize,
    /// Epoch and process of the older one.
    pub older: (u64, String),
    /// Epoch and process of the newer one.
    pub newer: (u64, String),
    /// When the newer one was there first.
    pub at: u64,
    /// How long after that the older one still ran.
    pub lasted: u64,
}

/// A time in which nothing of a program ran.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// The last instant before it.
    pub from: u64,
    /// The first instant after it.
    pub to: u64,
}

impl Gap {
    /// How long it was.
    pub const fn length(self) -> u64 {
        self.to - self.from
    }
}

/// Pairs of copies that ran at the same time, or in the wrong order.
pub fn overlaps<'a>(live: impl IntoIterator<Item = &'a Live>) -> Vec<Overlap> {
    let mut copies: BTreeMap<(usize, u64, &str), (u64, u64)> = BTreeMap::new();
    for instant in live {
        let key = (instant.program, instant.epoch, instant.copy.as_str());
        let seen = copies.entry(key).or_insert((instant.at, instant.at));
        *seen = (seen.0.min(instant.at), seen.1.max(instant.at));
    }
    // By program, epoch and first instant: copies of one epoch follow each other, too.
    let mut copies: Vec<_> =
        copies.into_iter().map(|((program, epoch, copy), seen)| (program, epoch, seen, copy)).collect();
    copies.sort_unstable();
    let mut found = Vec::new();
    for (index, &(program, epoch, (_, last), copy)) in copies.iter().enumerate() {
        let newer = copies[index + 1..].iter().take_while(|(of, ..)| *of == program);
        for &(_, newer_epoch, (first, _), newer_copy) in newer.filter(|(_, _, (first, _), _)| *first <= last) {
            found.push(Overlap {
                program,
                older: (epoch, copy.to_owned()),
                newer: (newer_epoch, newer_copy.to_owned()),
                at: first,
                lasted: last - first,
            });
        }
    }
    found
}

/// Answers of an older epoch to requests that were sent after a newer one had answered.
pub fn stale(asked: &[Asked]) -> Vec<Asked> {
    let mut newest: BTreeMap<usize, Vec<(u64, u64)>> = BTreeMap::new();
    for request in asked {
        if let Ok(live) = &request.answer {
            newest.entry(request.program).or_default().push((request.done, live.epoch));
        }
    }
    for answers in newest.values_mut() {
        answers.sort_unstable();
        // From here on: the highest epoch that had answered by then.
        let mut highest = 0;
        for (_, epoch) in answers {
            highest = highest.max(*epoch);
            *epoch = highest;
        }
    }
    let is_stale = |request: &&Asked| {
        let (Ok(live), Some(answers)) = (&request.answer, newest.get(&request.program)) else { return false };
        let before = answers.partition_point(|(done, _)| *done < request.sent);
        before > 0 && answers[before - 1].1 > live.epoch
    };
    asked.iter().filter(is_stale).cloned().collect()
}

/// The longest time between two instants of a program within this time.
pub fn longest_gap<'a>(live: impl IntoIterator<Item = &'a Live>, program: usize, from: u64, to: u64) -> Gap {
    let of_program = live.into_iter().filter(|instant| instant.program == program).map(|instant| instant.at);
    let mut instants: Vec<_> = of_program.filter(|at| (from..=to).contains(at)).chain([from, to]).collect();
    instants.sort_unstable();
    let gaps = instants.windows(2).map(|pair| Gap { from: pair[0], to: pair[1] });
    gaps.max_by_key(|gap| gap.length()).unwrap_or_default()
}

/// The value in the middle; 0 of none.
pub fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live(epoch: u64, copy: &str, at: u64) -> Live {
        Live { program: 0, epoch, copy: copy.to_owned(), at }
    }

    fn asked(epoch: u64, sent: u64, done: u64) -> Asked {
        Asked { program: 0, sent, done, answer: Ok(live(epoch, "a", done)) }
    }

    #[test]
    fn copies_that_follow_each_other_do_not_overlap() {
        let seen = [live(1, "a", 1), live(1, "a", 5), live(1, "b", 6), live(1, "b", 8), live(2, "c", 9)];
        assert_eq!(overlaps(&seen), []);
        let other = Live { program: 1, ..live(1, "x", 3) };
        assert_eq!(overlaps(seen.iter().chain([&other])), []);
    }

    #[test]
    fn an_older_epoch_after_a_newer_one_is_found() {
        let seen = [live(1, "a", 1), live(2, "b", 5), live(2, "b", 9), live(1, "a", 7)];
        let found = overlaps(&seen);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].older.0, found[0].newer.0, found[0].at, found[0].lasted), (1, 2, 5, 2));
        // Also when the older one never ran before.
        assert_eq!(overlaps(&[live(2, "b", 5), live(1, "a", 7)]).len(), 1);
    }

    #[test]
    fn two_copies_of_one_epoch_are_found() {
        assert_eq!(overlaps(&[live(1, "a", 1), live(1, "b", 2), live(1, "a", 3)]).len(), 1);
        assert_eq!(overlaps(&[live(1, "b", 1), live(1, "a", 2), live(1, "b", 3)]).len(), 1);
    }

    #[test]
    fn answers_of_the_past_are_found_and_late_ones_are_not() {
        assert_eq!(stale(&[asked(1, 0, 1), asked(2, 2, 4), asked(1, 3, 6)]).len(), 0, "it was asked before");
        assert_eq!(stale(&[asked(1, 0, 1), asked(2, 2, 4), asked(1, 5, 6)]).len(), 1);
    }

    #[test]
    fn gaps_reach_to_the_ends() {
        let seen = [live(1, "a", 10), live(1, "a", 20), live(2, "b", 70), live(2, "b", 80)];
        assert_eq!(longest_gap(&seen, 0, 0, 100), Gap { from: 20, to: 70 });
        assert_eq!(longest_gap(&seen, 0, 0, 200), Gap { from: 80, to: 200 });
        assert_eq!(longest_gap(&seen, 1, 0, 200).length(), 200);
        assert_eq!(median(vec![3, 1, 2]), 2);
    }
}

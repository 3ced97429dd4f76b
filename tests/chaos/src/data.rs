//! What became of data that programs wrote, judged. Pure: what they say in, broken promises out.
//!
//! The promises: what a program finds is the beginning of what was written, without a gap; what a flush had acknowledged is
//! in it; nothing is lost but when the program goes on with a copy, and then not more than the history says.

use std::collections::BTreeMap;

use serde::Serialize;

/// What a program says about its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// It starts with this many records, and they are what they should be, or not.
    Found {
        /// How many.
        records: u64,
        /// What is wrong with them.
        broken: Option<String>,
    },
    /// This record is durable on its node.
    Wrote {
        /// Its number, from 1.
        record: u64,
        /// When, at the latest, in nanoseconds of `CLOCK_BOOTTIME`.
        at: u64,
    },
    /// Everything until this record is on the standby.
    Flushed {
        /// Its number.
        record: u64,
    },
}

/// What a program said, in its order: those of one epoch were said on one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Which program.
    pub program: usize,
    /// The epoch that it ran under.
    pub epoch: u64,
    /// What.
    pub said: Said,
}

/// What the history says was lost when a program was assigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Claim {
    /// The epoch that it was assigned under.
    pub epoch: u64,
    /// When the epoch before had ended, in nanoseconds of `CLOCK_BOOTTIME`.
    pub ended: u64,
    /// Only what was written within this time before is lost, in nanoseconds; of all of it when nobody knows.
    pub at_most: Option<u64>,
}

/// Records that were written and are gone, as the history said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lost {
    /// Which program.
    pub program: usize,
    /// The epoch that goes on without them.
    pub epoch: u64,
    /// How many.
    pub records: u64,
    /// From the first to the last, in nanoseconds.
    pub span: u64,
    /// What the history says, in nanoseconds.
    pub at_most: Option<u64>,
}

/// A promise that was not kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "promise", rename_all = "snake_case")]
pub enum Broken {
    /// What is left is no beginning of what was written.
    Prefix {
        /// Which program.
        program: usize,
        /// When.
        epoch: u64,
        /// How that shows.
        why: String,
    },
    /// What a flush had acknowledged is gone.
    Acknowledged {
        /// Which program.
        program: usize,
        /// When.
        epoch: u64,
        /// The record.
        flushed: u64,
        /// How many are left.
        found: u64,
    },
    /// More is gone than the history says.
    Understated {
        /// Which program.
        program: usize,
        /// When.
        epoch: u64,
        /// How many are left.
        found: u64,
        /// When the first that is gone was written.
        written: u64,
        /// What the history says.
        claims: Vec<Claim>,
    },
}

impl Broken {
    /// What there may be none of, in words.
    pub const WORDS: [&'static str; 3] = ["gaps", "acknowledged losses", "understated losses"];

    /// Which of [`Self::WORDS`] it is.
    pub const fn words(&self) -> &'static str {
        match self {
            Self::Prefix { .. } => Self::WORDS[0],
            Self::Acknowledged { .. } => Self::WORDS[1],
            Self::Understated { .. } => Self::WORDS[2],
        }
    }
}

/// What became of all data.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Judgement {
    /// How many records were written.
    pub written: u64,
    /// How many were written without a word in the log: a full disk took it. The next start shows whether they are there,
    /// as the program checks all of them.
    pub unsaid: u64,
    /// How many flushes were acknowledged.
    pub flushed: u64,
    /// How often a program started with what was there.
    pub found: u64,
    /// What was lost, and said to be.
    pub lost: Vec<Lost>,
    /// What must not be.
    pub broken: Vec<Broken>,
}

impl Judgement {
    /// Adds what became of another program's data.
    pub fn add(&mut self, other: Self) {
        self.written += other.written;
        self.unsaid += other.unsaid;
        self.flushed += other.flushed;
        self.found += other.found;
        self.lost.extend(other.lost);
        self.broken.extend(other.broken);
    }
}

/// What is known of one program.
#[derive(Default)]
struct Ledger {
    epoch: u64,
    last: u64,
    flushed: u64,
    /// When each record was written.
    written: BTreeMap<u64, u64>,
}

/// Judges what one program said, in the order of its epochs.
pub fn judge(program: usize, lines: &[Line], claims: &[Claim]) -> Judgement {
    let (mut judgement, mut ledger) = (Judgement::default(), Ledger::default());
    for Line { epoch, said, .. } in lines.iter().filter(|line| line.program == program) {
        match said {
            Said::Found { broken: Some(why), .. } => {
                judgement.broken.push(Broken::Prefix { program, epoch: *epoch, why: why.clone() });
            }
            Said::Found { records, broken: None } => {
                judgement.found += 1;
                found(program, *epoch, *records, &mut ledger, claims, &mut judgement);
                ledger.epoch = *epoch;
            }
            Said::Wrote { record, at } => {
                match record.checked_sub(ledger.last + 1) {
                    Some(unsaid) => judgement.unsaid += unsaid,
                    None => {
                        let why = format!("record {record} was written after record {}", ledger.last);
                        judgement.broken.push(Broken::Prefix { program, epoch: *epoch, why });
                    }
                }
                judgement.written += 1;
                ledger.last = *record;
                ledger.written.insert(*record, *at);
            }
            Said::Flushed { record } => {
                judgement.flushed += 1;
                ledger.flushed = ledger.flushed.max(*record);
            }
        }
    }
    judgement
}

fn found(program: usize, epoch: u64, found: u64, ledger: &mut Ledger, claims: &[Claim], judgement: &mut Judgement) {
    if found < ledger.flushed {
        judgement.broken.push(Broken::Acknowledged { program, epoch, flushed: ledger.flushed, found });
    }
    let lost = ledger.written.split_off(&(found + 1));
    // The last lines of a node that died may be lost, so it may find more than it said.
    ledger.last = found;
    let (Some((_, &first)), Some((_, &last))) = (lost.first_key_value(), lost.last_key_value()) else { return };
    // Epochs between may not have come to write.
    let claims: Vec<_> = claims.iter().filter(|claim| claim.epoch > ledger.epoch && claim.epoch <= epoch).collect();
    let covers = |claim: &&&Claim| claim.at_most.is_none_or(|at_most| first + at_most >= claim.ended);
    match claims.iter().find(covers) {
        Some(claim) => judgement.lost.push(Lost {
            program,
            epoch,
            records: lost.len() as u64,
            span: last - first,
            at_most: claim.at_most,
        }),
        None => judgement.broken.push(Broken::Understated {
            program,
            epoch,
            found,
            written: first,
            claims: claims.into_iter().copied().collect(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(epoch: u64, said: Said) -> Line {
        Line { program: 0, epoch, said }
    }

    fn starts(epoch: u64, records: u64) -> Line {
        line(epoch, Said::Found { records, broken: None })
    }

    fn writes(epoch: u64, record: u64, at: u64) -> Line {
        line(epoch, Said::Wrote { record, at })
    }

    fn flushes(epoch: u64, record: u64) -> Line {
        line(epoch, Said::Flushed { record })
    }

    const fn claim(epoch: u64, ended: u64, at_most: Option<u64>) -> Claim {
        Claim { epoch, ended, at_most }
    }

    #[test]
    fn what_goes_on_where_it_was_is_whole() {
        let lines = [starts(1, 0), writes(1, 1, 10), writes(1, 2, 20), starts(1, 2), writes(1, 3, 30), starts(2, 3)];
        let judgement = judge(0, &lines, &[]);
        assert_eq!((judgement.written, judgement.found, judgement.broken.len()), (3, 3, 0));
        // The last word of a node that died may be missing.
        assert_eq!(judge(0, &[starts(1, 0), writes(1, 1, 10), starts(2, 2)], &[]).broken, []);
    }

    #[test]
    fn a_loss_is_as_large_as_was_said_or_it_is_understated() {
        let lines = [starts(1, 0), writes(1, 1, 10), writes(1, 2, 20), writes(1, 3, 30), starts(2, 1)];
        let judgement = judge(0, &lines, &[claim(2, 100, Some(80))]);
        assert_eq!((judgement.broken.len(), judgement.lost[0].records, judgement.lost[0].span), (0, 2, 10));
        for claims in [vec![], vec![claim(2, 100, Some(79))], vec![claim(1, 100, Some(80))]] {
            let judgement = judge(0, &lines, &claims);
            assert!(matches!(judgement.broken[..], [Broken::Understated { found: 1, written: 20, .. }]), "{claims:?}");
        }
        assert_eq!(judge(0, &lines, &[claim(2, 100, None)]).broken, []);
        // An epoch between never came to write.
        let lines = [starts(1, 0), writes(1, 1, 10), starts(3, 0)];
        assert_eq!(judge(0, &lines, &[claim(2, 100, Some(95))]).broken, []);
        // Within one epoch nothing may be lost.
        let lines = [starts(1, 0), writes(1, 1, 10), starts(1, 0)];
        assert_eq!(judge(0, &lines, &[claim(1, 100, Some(95))]).broken.len(), 1);
    }

    #[test]
    fn what_was_acknowledged_must_be_there_whatever_is_said() {
        let lines = [starts(1, 0), writes(1, 1, 10), flushes(1, 1), writes(1, 2, 20), starts(2, 1), starts(3, 0)];
        let judgement = judge(0, &lines, &[claim(2, 100, None), claim(3, 200, None)]);
        assert_eq!(judgement.broken, [Broken::Acknowledged { program: 0, epoch: 3, flushed: 1, found: 0 }]);
    }

    #[test]
    fn what_the_log_lacks_is_counted() {
        let lines = [starts(1, 0), writes(1, 1, 10), writes(1, 4, 20), starts(2, 4)];
        let judgement = judge(0, &lines, &[claim(2, 100, None)]);
        assert_eq!((judgement.written, judgement.unsaid, judgement.broken.len()), (2, 2, 0));
    }

    #[test]
    fn what_is_no_beginning_is_found() {
        let lines = [starts(1, 0), writes(1, 1, 10), writes(1, 2, 20), writes(1, 2, 30)];
        assert!(matches!(judge(0, &lines, &[]).broken[..], [Broken::Prefix { .. }]));
        let lines = [line(1, Said::Found { records: 0, broken: Some("row_2".to_owned()) })];
        assert!(matches!(judge(0, &lines, &[]).broken[..], [Broken::Prefix { .. }]));
        assert_eq!(judge(1, &lines, &[]).broken, [], "another program's");
    }
}

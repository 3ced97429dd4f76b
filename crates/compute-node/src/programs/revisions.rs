//! Which STORE messages were seen, so that a revision of a program's code is told once: streamed, or listed because it came
//! while nobody listened. Pure.

use std::collections::HashSet;

use protocol::message::{Envelope, MessageTime};

/// How far before the newest that was listed the next list begins, seconds: senders' clocks differ, and messages take their
/// time.
const OVERLAP_S: f64 = 600.0;

/// The STORE messages that were seen.
#[derive(Debug)]
pub(super) struct Revisions {
    /// The time of the newest that was listed.
    newest: MessageTime,
    /// Those of the last list and what was streamed since; `None` before the first list.
    seen: Option<HashSet<String>>,
}

impl Revisions {
    /// Nothing was seen until now.
    pub(super) fn new(now: MessageTime) -> Self {
        Self { newest: now, seen: None }
    }

    /// From when on to list.
    pub(super) fn since(&self) -> MessageTime {
        MessageTime::from_seconds(self.newest.as_seconds() - OVERLAP_S).unwrap_or(self.newest)
    }

    /// A message was streamed. Returns whether it was not seen before.
    pub(super) fn is_new(&mut self, message: &Envelope) -> bool {
        self.seen.get_or_insert_default().insert(message.item_hash.clone())
    }

    /// All messages since [`Revisions::since`] were listed. Returns those that were not seen before; none of the first list,
    /// because what is started from now on starts with the newest code. Times after `now` are senders' mistakes.
    pub(super) fn listed(&mut self, messages: Vec<Envelope>, now: MessageTime) -> Vec<Envelope> {
        let times = messages.iter().map(|message| message.time).filter(|time| *time <= now);
        self.newest = times.fold(self.newest, |newest, time| if time > newest { time } else { newest });
        let hashes = messages.iter().map(|message| message.item_hash.clone()).collect();
        let Some(before) = self.seen.replace(hashes) else { return Vec::new() };
        messages.into_iter().filter(|message| !before.contains(&message.item_hash)).collect()
    }
}

#[cfg(test)]
mod tests {
    use protocol::Account;
    use protocol::message::MessageType;

    use super::*;

    const START: f64 = 1e9;

    fn at(seconds: f64) -> MessageTime {
        MessageTime::from_seconds(START + seconds).unwrap()
    }

    fn message(name: &str, seconds: f64) -> Envelope {
        let account = Account::from_bytes(&[7; 32]).unwrap();
        Envelope::sign_inline(&account, MessageType::Store, name.into(), at(seconds), None)
    }

    #[test]
    fn what_came_while_nobody_listened_is_new_once() {
        let mut revisions = Revisions::new(at(0.0));
        let [old, streamed, missed] = ["old", "streamed", "missed"].map(|name| message(name, 5.0));
        assert_eq!(revisions.listed(vec![old.clone()], at(9.0)), []);
        assert!(!revisions.is_new(&old));
        assert!(revisions.is_new(&streamed) && !revisions.is_new(&streamed));
        let list = vec![old, streamed, missed.clone()];
        assert_eq!(revisions.listed(list.clone(), at(9.0)), std::slice::from_ref(&missed));
        assert_eq!(revisions.listed(list, at(9.0)), []);
        assert!(!revisions.is_new(&missed));
    }

    #[test]
    fn lists_begin_a_while_before_the_newest_whatever_its_sender_claims() {
        let mut revisions = Revisions::new(at(0.0));
        assert_eq!(revisions.since(), at(-600.0));
        revisions.listed(vec![message("a", 100.0), message("of the future", 1e6), message("b", 50.0)], at(110.0));
        assert_eq!(revisions.since(), at(-500.0));
        revisions.listed(vec![message("late", 60.0)], at(120.0));
        assert_eq!(revisions.since(), at(-500.0));
    }
}

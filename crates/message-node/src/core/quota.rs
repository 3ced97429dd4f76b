//! How much each sender may send: what it has used comes back evenly over time.
//!
//! For each sender and each kind of amount there is the time at which all of it has come back (the generic cell rate
//! algorithm): whoever has not sent anything for the time of the rate may send all of it at once. Pure: the shell says who
//! sends what, and when.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// So much in so much time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How much; at least 1.
    pub most: u64,
    /// In which time.
    pub per: Duration,
}

/// Limits of each sender.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SenderRates {
    /// Messages; no limit if not given.
    pub messages: Option<Rate>,
    /// Bytes of messages and of the files that come with them; no limit if not given.
    pub bytes: Option<Rate>,
}

/// Why something is not taken now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exceeded {
    /// What there is too much of.
    pub what: &'static str,
    /// The limit.
    pub rate: Rate,
    /// When it would be taken; never if it is more than the limit by itself.
    pub after: Option<Duration>,
}

/// What senders have used.
#[derive(Debug)]
pub(crate) struct Quotas {
    rates: SenderRates,
    /// When everything has come back: messages, bytes.
    senders: HashMap<String, [Instant; 2]>,
    most_senders: usize,
}

impl Quotas {
    /// Nobody has used anything. So many senders are remembered at most: those who used least are forgotten first.
    pub(crate) fn new(rates: SenderRates, most_senders: usize) -> Self {
        Self { rates, senders: HashMap::new(), most_senders: most_senders.max(1) }
    }

    /// A sender, canonical, sends a message with so many bytes.
    ///
    /// # Errors
    /// [`Exceeded`]; nothing was used then.
    pub(crate) fn take(&mut self, sender: &str, bytes: u64, now: Instant) -> Result<(), Exceeded> {
        let [messages, bytes_back] = self.senders.get(sender).copied().unwrap_or([now; 2]);
        let messages = used("messages", self.rates.messages, messages, 1, now)?;
        let bytes_back = used("bytes", self.rates.bytes, bytes_back, bytes, now)?;
        if !self.senders.contains_key(sender) {
            self.make_room(now);
        }
        self.senders.insert(sender.to_owned(), [messages, bytes_back]);
        Ok(())
    }

    fn make_room(&mut self, now: Instant) {
        if self.senders.len() < self.most_senders {
            return;
        }
        self.senders.retain(|_, back| back.iter().any(|at| *at > now));
        if self.senders.len() >= self.most_senders {
            let mut back: Vec<Instant> = self.senders.values().filter_map(|back| back.iter().max().copied()).collect();
            back.sort_unstable();
            let cut = back[back.len() / 4];
            self.senders.retain(|_, back| back.iter().any(|at| *at > cut));
        }
    }
}

/// When everything has come back once this is used.
fn used(what: &'static str, rate: Option<Rate>, back: Instant, amount: u64, now: Instant) -> Result<Instant, Exceeded> {
    let Some(rate) = rate else { return Ok(now) };
    let exceeded = |after| Exceeded { what, rate, after };
    if amount > rate.most {
        return Err(exceeded(None));
    }
    #[allow(clippy::cast_precision_loss)] // A share of a limit need not be exact.
    let after_this = back.max(now) + rate.per.mul_f64(amount as f64 / rate.most.max(1) as f64);
    let (allowed, wanted) = (now + rate.per, after_this);
    // A microsecond for what rounding adds.
    match wanted.saturating_duration_since(allowed) {
        wait if wait <= Duration::from_micros(1) => Ok(after_this),
        wait => Err(exceeded(Some(wait))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn quotas(messages: u64, bytes: u64) -> Quotas {
        let rate = |most| Some(Rate { most, per: MINUTE });
        Quotas::new(SenderRates { messages: rate(messages), bytes: rate(bytes) }, 4)
    }

    #[test]
    fn the_limit_can_be_used_at_once_and_comes_back_evenly() {
        let (mut quotas, start) = (quotas(3, 1000), Instant::now());
        for _ in 0..3 {
            assert_eq!(quotas.take("a", 1, start), Ok(()));
        }
        let exceeded = quotas.take("a", 1, start).unwrap_err();
        assert_eq!((exceeded.what, exceeded.rate.most), ("messages", 3));
        assert!(exceeded.after.unwrap().abs_diff(MINUTE / 3) < Duration::from_millis(1), "{exceeded:?}");
        assert_eq!(quotas.take("b", 1, start), Ok(()), "others have their own");
        assert!(quotas.take("a", 1, start + MINUTE / 4).is_err());
        assert_eq!(quotas.take("a", 1, start + MINUTE / 3), Ok(()));
        assert!(quotas.take("a", 1, start + MINUTE / 3).is_err());
    }

    #[test]
    fn bytes_count_and_what_is_refused_uses_nothing() {
        let (mut quotas, start) = (quotas(100, 1000), Instant::now());
        assert_eq!(quotas.take("a", 1001, start).unwrap_err().after, None, "it never fits");
        assert_eq!(quotas.take("a", 700, start), Ok(()));
        for _ in 0..200 {
            assert_eq!(quotas.take("a", 400, start).unwrap_err().what, "bytes");
        }
        assert_eq!(quotas.take("a", 300, start), Ok(()));
        assert_eq!(quotas.take("a", 1000, start + MINUTE), Ok(()), "all of it has come back");
    }

    #[test]
    fn without_rates_nobody_is_limited() {
        let mut quotas = Quotas::new(SenderRates::default(), 4);
        for _ in 0..100 {
            assert_eq!(quotas.take("a", u64::MAX, Instant::now()), Ok(()));
        }
    }

    #[test]
    fn so_many_senders_are_remembered_and_those_who_used_most_longest() {
        let (mut quotas, start) = (quotas(10, 1000), Instant::now());
        assert_eq!(quotas.take("greedy", 1000, start), Ok(()));
        for n in 0..100 {
            assert_eq!(quotas.take(&n.to_string(), 1, start), Ok(()));
            assert!(quotas.senders.len() <= 4);
        }
        assert!(quotas.take("greedy", 1, start).is_err());
        for n in 0..4 {
            assert_eq!(quotas.take(&format!("late {n}"), 1, start + MINUTE * 2), Ok(()));
        }
        assert!(!quotas.senders.contains_key("greedy"), "who has everything back need not be remembered");
    }
}

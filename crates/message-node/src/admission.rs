//! Who may send messages, and how much: what the operator set.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use protocol::Address;
use protocol::message::{Envelope, EnvelopeError};
use tokio::time::Instant;

use crate::config::SenderRules;
use crate::core::quota::{Exceeded, Quotas};

/// Senders whose use is remembered.
const MOST_SENDERS: usize = 100_000;

/// Decides which messages are taken.
#[derive(Debug)]
pub(crate) struct Admission {
    /// Nobody is asked anything.
    is_open: bool,
    /// Canonical; everybody if empty.
    allowed: Vec<String>,
    /// Canonical.
    operators: Vec<String>,
    quotas: Mutex<Quotas>,
}

/// Why a message is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotAdmitted {
    /// Somebody else signed it, or nobody.
    #[error(transparent)]
    Signature(#[from] EnvelopeError),
    /// The operator does not name the sender.
    #[error("this node takes messages of accounts that its operator names; ask the operator to add {0}")]
    Stranger(Address),
    /// A file came without a message.
    #[error("this node takes files of accounts that its operator names; send the STORE message in the part 'metadata'")]
    Anonymous,
    /// The sender has sent too much.
    #[error("{}", limit(.0, .1))]
    TooMuch(Address, Exceeded),
}

fn limit(sender: &Address, exceeded: &Exceeded) -> String {
    let Exceeded { what, rate, after } = exceeded;
    let (most, seconds) = (rate.most, rate.per.as_secs());
    let start = format!("this node takes at most {most} {what} of one sender in {seconds} s");
    match after {
        None => format!("{start}, and this is more by itself; send less, or ask its operator to raise the limit"),
        Some(after) => format!("{start}, and {sender} has sent that; try again in {} s", whole_seconds(*after)),
    }
}

/// Seconds, rounded up.
pub(crate) fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

impl Admission {
    /// What these rules say. The network's authority counts as an operator.
    pub(crate) fn new(rules: &SenderRules, authority: Option<&Address>) -> Self {
        let canonical = |list: &[Address]| list.iter().map(Address::canonical).collect::<Vec<_>>();
        let mut operators = canonical(&rules.operators);
        operators.extend(authority.map(Address::canonical));
        Self {
            is_open: rules.allowed.is_empty() && rules.rates.messages.is_none() && rules.rates.bytes.is_none(),
            allowed: canonical(&rules.allowed),
            operators,
            quotas: Mutex::new(Quotas::new(rules.rates, MOST_SENDERS)),
        }
    }

    /// Whether a message is taken, with so many bytes of its file. Signatures are checked here where there are rules, so
    /// that nobody can use up what is somebody else's.
    ///
    /// # Errors
    /// [`NotAdmitted`].
    pub(crate) fn check(&self, message: &Envelope, file_bytes: u64) -> Result<(), NotAdmitted> {
        if self.is_open {
            return Ok(());
        }
        message.verify_signature()?;
        let sender = message.sender.canonical();
        if self.operators.contains(&sender) {
            return Ok(());
        }
        self.check_sender(&message.sender)?;
        let content = message.item_content.as_ref().map_or(0, String::len) as u64;
        let mut quotas = self.quotas.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = quotas.take(&sender, content.saturating_add(file_bytes), Instant::now());
        taken.map_err(|exceeded| NotAdmitted::TooMuch(message.sender.clone(), exceeded))
    }

    /// Whether anything is taken of an account.
    ///
    /// # Errors
    /// [`NotAdmitted::Stranger`].
    pub(crate) fn check_sender(&self, sender: &Address) -> Result<(), NotAdmitted> {
        let canonical = sender.canonical();
        let known = self.allowed.is_empty() || self.allowed.contains(&canonical) || self.operators.contains(&canonical);
        if known { Ok(()) } else { Err(NotAdmitted::Stranger(sender.clone())) }
    }

    /// Whether a file is taken that comes without a message.
    ///
    /// # Errors
    /// [`NotAdmitted::Anonymous`].
    pub(crate) fn check_anonymous(&self) -> Result<(), NotAdmitted> {
        if self.allowed.is_empty() { Ok(()) } else { Err(NotAdmitted::Anonymous) }
    }
}

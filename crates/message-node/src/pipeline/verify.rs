//! Checks signatures, in parallel: each costs an elliptic-curve operation.

use std::num::NonZero;
use std::thread;

use futures_util::future::join_all;
use protocol::message::EnvelopeError;

use crate::store::pending::Submission;

/// A submission whose signature was checked.
pub(super) struct Checked {
    /// The submission.
    pub submission: Submission,
    /// Whether the sender signed it.
    pub signature: Result<(), EnvelopeError>,
}

/// Checks all signatures on as many threads as there are processors. The order stays.
pub(super) async fn signatures(mut submissions: Vec<Submission>) -> Vec<Checked> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let share = submissions.len().div_ceil(threads).max(1);
    let mut parts = Vec::with_capacity(threads);
    while !submissions.is_empty() {
        let rest = submissions.split_off(share.min(submissions.len()));
        let part = std::mem::replace(&mut submissions, rest);
        parts.push(tokio::task::spawn_blocking(move || part.into_iter().map(check).collect::<Vec<_>>()));
    }
    let parts = join_all(parts).await;
    parts.into_iter().flat_map(|part| part.expect("checking a signature does not panic")).collect()
}

fn check(submission: Submission) -> Checked {
    let signature = submission.envelope.verify_signature();
    Checked { submission, signature }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::Account;
    use protocol::message::{Envelope, MessageTime, MessageType};

    #[tokio::test]
    async fn order_stays_and_each_gets_its_own_result() {
        let account = Account::generate();
        let submissions = (0..7)
            .map(|seq| {
                let content = format!("{{\"n\":{seq}}}");
                let mut envelope =
                    Envelope::sign_inline(&account, MessageType::Post, content, MessageTime::now(), None);
                if seq % 3 == 0 {
                    envelope.signature = None;
                }
                Submission { seq, envelope, received_us: 0 }
            })
            .collect();
        let checked = signatures(submissions).await;
        let results: Vec<_> = checked.iter().map(|c| (c.submission.seq, c.signature.is_ok())).collect();
        assert_eq!(results, (0..7).map(|seq| (seq, seq % 3 != 0)).collect::<Vec<_>>());
        assert!(signatures(Vec::new()).await.is_empty());
    }
}

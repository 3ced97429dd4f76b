//! Requests that were taken, so that none is taken twice.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use protocol::FileHash;
use protocol::api::archive::ArchiveCode;
use protocol::signed_request::Verified;

use crate::core::archive::Refusal;

/// Requests that are remembered: more than all nodes of a network make in the two minutes that a request is valid.
const MOST: usize = 65_536;

/// Remembers the writes that were taken, for as long as they would be valid. What was signed before it began is refused,
/// because it may have been taken by the process before.
#[derive(Debug)]
pub(crate) struct Taken {
    since: DateTime<Utc>,
    until: HashMap<FileHash, DateTime<Utc>>,
}

impl Taken {
    pub(crate) fn new(since: DateTime<Utc>) -> Self {
        Self { since, until: HashMap::new() }
    }

    /// Takes a request, if it is a new one.
    pub(crate) fn take(&mut self, request: &Verified, now: DateTime<Utc>) -> Result<(), Refusal> {
        if request.time < self.since {
            let message =
                "the request was signed before this message node started; sign it again, and check your clock";
            return Err(Refusal::new(ArchiveCode::BadSignature, message));
        }
        if self.until.len() >= MOST {
            self.until.retain(|_, until| *until > now);
        }
        if self.until.contains_key(&request.id) {
            let message = "this request was taken before; sign each request anew";
            return Err(Refusal::new(ArchiveCode::BadSignature, message));
        }
        if self.until.len() >= MOST {
            return Err(Refusal::new(ArchiveCode::Busy, "too many requests to archives; try again in a minute"));
        }
        self.until.insert(request.id, request.ends());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::Duration;
    use protocol::Address;

    fn request(number: u64, time: DateTime<Utc>) -> Verified {
        Verified { signer: Address::new("0x1"), time, id: FileHash::of(&number.to_le_bytes()) }
    }

    #[test]
    fn a_request_is_taken_once_and_not_by_the_next_process() {
        let now = Utc::now();
        let mut taken = Taken::new(now);
        assert_eq!(taken.take(&request(1, now), now), Ok(()));
        for refused in [request(1, now), request(2, now - Duration::milliseconds(1))] {
            assert_eq!(taken.take(&refused, now).unwrap_err().code, ArchiveCode::BadSignature);
        }
    }

    #[test]
    fn what_is_remembered_is_bounded_and_ends() {
        let now = Utc::now();
        let mut taken = Taken::new(now);
        for number in 0..MOST as u64 {
            taken.take(&request(number, now), now).unwrap();
        }
        assert_eq!(taken.take(&request(u64::MAX, now), now).unwrap_err().code, ArchiveCode::Busy);
        let later = now + Duration::minutes(3);
        assert_eq!(taken.take(&request(u64::MAX, later), later), Ok(()));
        assert_eq!(taken.until.len(), 1);
    }
}

//! Balances that trusted senders publish: who they are, and what came since somebody looked. The balances are in the store.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Changes;

/// The senders whose balances count.
#[derive(Debug)]
pub(crate) struct Published {
    authors: Vec<String>,
    news: Mutex<News>,
}

#[derive(Debug, Default)]
struct News {
    changed: BTreeSet<String>,
    are_first: bool,
}

impl Published {
    /// Those of these senders, canonical.
    pub(super) fn new(authors: Vec<String>) -> Self {
        Self { authors, news: Mutex::default() }
    }

    fn news(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn authors(&self) -> &[String] {
        &self.authors
    }

    /// Balances changed. With the first ones, all are known: who is not listed holds nothing.
    pub(super) fn changed(&self, accounts: Vec<String>, are_first: bool) {
        let mut news = self.news();
        news.changed.extend(accounts);
        news.are_first |= are_first;
    }

    pub(super) fn changes(&self) -> Changes {
        let News { changed, are_first } = std::mem::take(&mut *self.news());
        Changes { accounts: changed.into_iter().collect(), everybody: are_first }
    }
}

//! Which file a program's reference means, remembered so that a program can start without asking anybody.
//!
//! What is remembered is dropped when the message node's stream says that it has changed. While there is no stream it is asked
//! for again after a while; if nobody can be asked, it goes on counting, which is logged.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Mutex;
use std::time::Duration;

use protocol::Address;
use protocol::message::StoreContent;
use tokio::time::Instant;
use tracing::warn;

/// How long something counts without a stream.
const FRESH: Duration = Duration::from_secs(60);

/// How much is remembered at most.
const MAX_REMEMBERED: usize = 100_000;

/// A reference, as a program makes it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Reference {
    /// The hash of a STORE message.
    pub(crate) hash: String,
    /// Whether its newest revision is meant, and whose revisions count: those of this account, or of who published it.
    pub(crate) latest_of: Option<Publisher>,
}

/// Whose revisions of a file count.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Publisher {
    /// Those of the file's own publisher.
    Itself,
    /// Those of this account.
    Account(Address),
}

/// What a reference means.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Resolved {
    /// The hash of the message that says so: the one referred to, or its newest revision.
    pub(crate) message: String,
    /// Its content.
    pub(crate) file: StoreContent,
}

/// Why it is not known what a reference means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unresolved {
    /// The message node cannot be asked.
    Unreachable(String),
    /// It says so.
    Refused(String),
}

#[derive(Default)]
struct Known {
    /// What each means, and when that was asked for.
    files: HashMap<Reference, (Resolved, Instant)>,
    streams_since: Option<Instant>,
    /// Counts what was dropped: an answer that was asked for before may be older than the change.
    dropped: u64,
}

/// The references that this node has asked for.
#[derive(Default)]
pub(crate) struct Resolutions(Mutex<Known>);

impl Resolutions {
    /// What a reference means, asking for it where it is not known.
    pub(crate) async fn get<F>(&self, reference: Reference, ask: impl FnOnce() -> F) -> Result<StoreContent, Unresolved>
    where
        F: Future<Output = Result<Resolved, Unresolved>>,
    {
        let (known, streams_since, dropped) = {
            let known = self.lock();
            (known.files.get(&reference).cloned(), known.streams_since, known.dropped)
        };
        if let Some((resolved, asked)) = &known
            && (asked.elapsed() < FRESH || streams_since.is_some_and(|since| *asked >= since))
        {
            return Ok(resolved.file.clone());
        }
        match ask().await {
            Ok(resolved) => {
                let file = resolved.file.clone();
                let mut known = self.lock();
                if known.dropped == dropped {
                    if known.files.len() >= MAX_REMEMBERED {
                        known.files.clear();
                    }
                    known.files.insert(reference, (resolved, Instant::now()));
                }
                Ok(file)
            }
            Err(error) => match known {
                Some((resolved, asked)) if matches!(error, Unresolved::Unreachable(_)) => {
                    let (file_message, age_s) = (&reference.hash, asked.elapsed().as_secs());
                    warn!(%file_message, age_s, ?error, "nobody can be asked for a file: going on with what was known");
                    Ok(resolved.file)
                }
                _ => Err(error),
            },
        }
    }

    /// Something about this STORE message has changed.
    pub(crate) fn drop_of(&self, hash: &str) {
        let mut known = self.lock();
        known.dropped += 1;
        known.files.retain(|reference, (resolved, _)| reference.hash != hash && resolved.message != hash);
    }

    /// The message node's stream began. What was known before may have changed meanwhile.
    pub(crate) fn stream_begins(&self) {
        let mut known = self.lock();
        known.streams_since = Some(Instant::now());
        known.dropped += 1;
    }

    /// The message node's stream ended.
    pub(crate) fn stream_ends(&self) {
        self.lock().streams_since = None;
    }

    /// Whether changes are streamed now.
    pub(crate) fn streams(&self) -> bool {
        self.lock().streams_since.is_some()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.0.lock().expect("no code panics while it holds this lock")
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use serde_json::json;

    use super::*;
    use crate::warnings::Warnings;

    fn reference() -> Reference {
        Reference { hash: "ab".repeat(32), latest_of: Some(Publisher::Itself) }
    }

    fn file(name: &str) -> Resolved {
        let content = json!({"address": "0x1", "time": 1, "item_type": "storage", "item_hash": name});
        Resolved { message: format!("message of {name}"), file: serde_json::from_value(content).unwrap() }
    }

    /// What it means, and how often that was asked for.
    struct Bench {
        resolutions: Resolutions,
        answer: std::cell::RefCell<Result<Resolved, Unresolved>>,
        asked: Cell<u32>,
    }

    impl Bench {
        fn new() -> Self {
            Self { resolutions: Resolutions::default(), answer: Ok(file("1")).into(), asked: Cell::new(0) }
        }

        async fn get(&self) -> Result<String, Unresolved> {
            let ask = || async {
                self.asked.set(self.asked.get() + 1);
                self.answer.borrow().clone()
            };
            self.resolutions.get(reference(), ask).await.map(|file| file.item_hash)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn with_a_stream_nobody_is_asked_until_it_brings_a_change() {
        let bench = Bench::new();
        bench.resolutions.stream_begins();
        assert_eq!(bench.get().await.unwrap(), "1");
        tokio::time::advance(FRESH * 100).await;
        assert_eq!((bench.get().await.unwrap(), bench.asked.get()), ("1".to_owned(), 1));
        *bench.answer.borrow_mut() = Ok(file("2"));
        bench.resolutions.drop_of("of something else");
        assert_eq!(bench.get().await.unwrap(), "1");
        bench.resolutions.drop_of(&reference().hash);
        assert_eq!((bench.get().await.unwrap(), bench.asked.get()), ("2".to_owned(), 2));
        // The revision is forgotten.
        *bench.answer.borrow_mut() = Ok(file("1"));
        bench.resolutions.drop_of("message of 2");
        assert_eq!(bench.get().await.unwrap(), "1");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_stream_it_is_asked_for_again_and_goes_on_counting_when_nobody_answers() {
        let bench = Bench::new();
        bench.get().await.unwrap();
        tokio::time::advance(FRESH / 2).await;
        bench.get().await.unwrap();
        assert_eq!(bench.asked.get(), 1);
        *bench.answer.borrow_mut() = Err(Unresolved::Unreachable("refused".into()));
        let (warnings, _guard) = Warnings::collect();
        bench.get().await.unwrap();
        assert_eq!(warnings.count(), 0);
        tokio::time::advance(FRESH).await;
        assert_eq!((bench.get().await.unwrap(), bench.asked.get()), ("1".to_owned(), 2));
        assert_eq!(warnings.count(), 1, "what is too old is not used silently");
        // A clear answer is another thing.
        *bench.answer.borrow_mut() = Err(Unresolved::Refused("forgotten".into()));
        assert_eq!(bench.get().await, Err(Unresolved::Refused("forgotten".into())));
    }

    #[tokio::test(start_paused = true)]
    async fn what_happened_between_two_streams_is_asked_for() {
        let bench = Bench::new();
        bench.resolutions.stream_begins();
        bench.get().await.unwrap();
        bench.resolutions.stream_ends();
        tokio::time::advance(FRESH).await;
        bench.resolutions.stream_begins();
        bench.get().await.unwrap();
        bench.get().await.unwrap();
        assert_eq!(bench.asked.get(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_older_than_a_change_is_not_remembered() {
        let bench = Bench::new();
        bench.resolutions.stream_begins();
        let ask = || async {
            bench.resolutions.drop_of(&reference().hash);
            Ok(file("old"))
        };
        assert_eq!(bench.resolutions.get(reference(), ask).await.unwrap().item_hash, "old");
        assert_eq!(bench.get().await.unwrap(), "1");
    }
}

//! One piece of work per key at a time: whoever asks while it is under way waits for the same result.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};

type Work<V> = Shared<BoxFuture<'static, V>>;

/// Work that is under way, by key.
pub(crate) struct SingleFlight<K, V> {
    under_way: Arc<Mutex<HashMap<K, Work<V>>>>,
}

impl<K, V> Default for SingleFlight<K, V> {
    fn default() -> Self {
        Self { under_way: Arc::default() }
    }
}

impl<K: Eq + Hash + Clone + Send + 'static, V: Clone + Send + Sync + 'static> SingleFlight<K, V> {
    /// The result of the work for this key that is under way; `None` if there is none.
    pub(crate) async fn join(&self, key: &K) -> Option<V> {
        let work = self.under_way.lock().expect("no code panics while it holds this lock").get(key).cloned();
        Some(work?.await)
    }

    /// The result of the work for this key: of the one under way, or of `start`, which then goes on even if nobody waits.
    pub(crate) async fn run<F>(&self, key: K, start: impl FnOnce() -> F) -> V
    where
        F: Future<Output = V> + Send + 'static,
    {
        let work = {
            let mut under_way = self.under_way.lock().expect("no code panics while it holds this lock");
            under_way.get(&key).cloned().unwrap_or_else(|| {
                let (table, done, work) = (self.under_way.clone(), key.clone(), start());
                let work = async move {
                    let result = work.await;
                    table.lock().expect("no code panics while it holds this lock").remove(&done);
                    result
                };
                let work = work.boxed().shared();
                under_way.insert(key, work.clone());
                tokio::spawn(work.clone());
                work
            })
        };
        work.await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn many_callers_share_one_piece_of_work() {
        let (flight, runs) = (SingleFlight::<u8, u32>::default(), Arc::new(AtomicU32::new(0)));
        let all_asked = Arc::new(tokio::sync::Semaphore::new(0));
        let ask = || {
            flight.run(1, || {
                let (runs, all_asked) = (runs.clone(), all_asked.clone());
                async move {
                    let _asked = all_asked.acquire().await;
                    runs.fetch_add(1, Ordering::Relaxed) + 1
                }
            })
        };
        assert_eq!(flight.join(&1).await, None);
        let (a, b, c, ()) = tokio::join!(ask(), ask(), flight.join(&1), async { all_asked.add_permits(1) });
        assert_eq!((a, b, c), (1, 1, Some(1)));
        assert_eq!(ask().await, 2, "afterwards it is done anew");
    }
}

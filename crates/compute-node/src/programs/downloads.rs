//! Places for downloads, shared by the owners of programs (`core/downloads.rs`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use protocol::Address;
use tokio::sync::oneshot;

use crate::core::downloads::{Bounds, Command, DownloadId, Downloads as Core, Event};

/// How many there are at most. One owner cannot take all places, nor can a few.
const BOUNDS: Bounds = Bounds { most: 64, most_of_one: 8, most_waiting: 1024 };

/// How long a download waits for its place at most.
const WAIT: Duration = Duration::from_secs(60);

/// The downloads of this node.
pub(crate) struct Downloads(Mutex<State>);

struct State {
    core: Core<Address>,
    /// Who waits for a place. Nobody is told who is turned away: that is told by dropping this.
    waiting: HashMap<DownloadId, oneshot::Sender<Place>>,
    next: DownloadId,
}

/// A place for one download. The next one gets it when this is dropped.
pub(crate) struct Place {
    id: DownloadId,
    downloads: Arc<Downloads>,
}

/// Too many downloads wait for a place, or this one has for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooMany;

impl Downloads {
    /// None yet.
    pub(crate) fn new() -> Arc<Self> {
        Self::with(BOUNDS)
    }

    fn with(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State { core: Core::new(bounds), waiting: HashMap::new(), next: 0 })))
    }

    /// Waits for a place.
    ///
    /// # Errors
    /// When there is none in time.
    pub(crate) async fn place(self: &Arc<Self>, owner: &Address) -> Result<Place, TooMany> {
        let (id, place) = {
            let mut state = self.lock();
            let id = state.next;
            state.next += 1;
            let (give, given) = oneshot::channel();
            state.waiting.insert(id, give);
            (id, given)
        };
        self.tell(Event::Wanted(id, owner.clone()));
        // Whoever stops waiting, also because it is dropped, is not kept in mind.
        let _left = Left { id, downloads: self.clone() };
        match tokio::time::timeout(WAIT, place).await {
            Ok(Ok(place)) => Ok(place),
            _ => Err(TooMany),
        }
    }

    fn tell(self: &Arc<Self>, event: Event<Address>) {
        let mut places = Vec::new();
        {
            let mut state = self.lock();
            for command in state.core.handle(event) {
                match command {
                    Command::Begin(id) => {
                        let place = Place { id, downloads: self.clone() };
                        places.push((state.waiting.remove(&id), place));
                    }
                    Command::TurnAway(id) => drop(state.waiting.remove(&id)),
                }
            }
        }
        // Not under the lock: a place that nobody takes is given back.
        for (give, place) in places {
            if let Some(give) = give {
                let _ = give.send(place);
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().expect("no code panics while it holds this lock")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.downloads.tell(Event::Done(self.id));
    }
}

/// Somebody who does not wait any more when this is dropped.
struct Left {
    id: DownloadId,
    downloads: Arc<Downloads>,
}

impl Drop for Left {
    fn drop(&mut self) {
        if self.downloads.lock().waiting.remove(&self.id).is_some() {
            self.downloads.tell(Event::GivenUp(self.id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn places_are_given_back_and_nobody_waits_for_ever() {
        let downloads = Downloads::with(Bounds { most: 1, most_of_one: 1, most_waiting: 2 });
        let [a, b] = ["a", "b"].map(Address::new);
        let first = downloads.place(&a).await.unwrap();
        assert_eq!(downloads.place(&b).await.err(), Some(TooMany), "there is none in time");
        // One that nobody waits for any more is not in the way of the next.
        drop(tokio::time::timeout(Duration::from_secs(1), downloads.place(&b)).await);
        let next = tokio::spawn({
            let (downloads, b) = (downloads.clone(), b.clone());
            async move { downloads.place(&b).await.map(drop) }
        });
        tokio::task::yield_now().await;
        drop(first);
        assert_eq!(next.await.unwrap(), Ok(()));
        assert!(downloads.place(&a).await.is_ok());
        assert!(downloads.lock().waiting.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_turned_away_hears_of_it_at_once() {
        let downloads = Downloads::with(Bounds { most: 1, most_of_one: 1, most_waiting: 1 });
        let [a, b] = ["a", "b"].map(Address::new);
        let _first = downloads.place(&a).await.unwrap();
        let second = tokio::spawn({
            let (downloads, a) = (downloads.clone(), a.clone());
            async move { downloads.place(&a).await.map(drop) }
        });
        tokio::task::yield_now().await;
        let began = tokio::time::Instant::now();
        assert_eq!(downloads.place(&b).await.err(), Some(TooMany), "each has one");
        assert_eq!(began.elapsed(), Duration::ZERO);
        second.abort();
    }
}

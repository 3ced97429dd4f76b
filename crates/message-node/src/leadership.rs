//! Which of the processes of a message node leads. On SQLite there is one, and it does.
//!
//! ```text
//!                 nobody has the lock: it is taken, and everything told that others decided
//!  follows(leader) ────────────────────────────────────────────────────────────────────────▶ leads
//!        ▲                                                                                     │
//!        └─────────────────────────────────────────────────────────────────────────────────────┘
//!                                    another process has the lock
//! ```
//! Only [`Watch`] moves it, on what the database says of the lock ([`crate::store::leadership`]): while the database cannot be
//! asked, nothing changes. The state says where requests go; that only one process writes is sure without it, because the
//! lock and the connection that writes are one.
//!
//! Whoever leads decides messages, and tells its own streams what it decided. Whoever follows tells them what it reads in the
//! journal, in the same order. A process that comes to lead has told everything before it decides anything, so its streams go
//! on without a gap. One that led until now cannot tell which of its decisions it was the last to tell: it ends its streams.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::pipeline::Context;
use crate::store::leadership::{Leader, Lock, announce};
use crate::store::places::{self, Given};
use crate::store::{StoreError, Stored, journal};

/// How often a process that follows looks for what to tell.
const TELL_EVERY: Duration = Duration::from_millis(100);
/// How often it is looked who leads.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How soon a database that cannot be asked is asked again.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);
/// Entries of the journal that are read at once; less than streams may lag behind.
const TELL_AT_ONCE: u32 = 64;

/// What this process is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    /// It decides messages and writes.
    Leads,
    /// Another one does, if any.
    Follows(Option<Leader>),
}

/// Who does what changes something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Chief {
    /// This process.
    Ourselves,
    /// The one that is reached here.
    Other(String),
    /// Nobody that could be asked; this is why.
    Unknown(String),
}

/// What this process is, for those who need to know.
#[derive(Debug, Clone)]
pub(crate) struct Leadership(watch::Sender<Standing>);

impl Leadership {
    /// That of a process which is alone, or of one that has not yet looked.
    pub(crate) fn new(is_shared: bool) -> Self {
        let standing = if is_shared { Standing::Follows(None) } else { Standing::Leads };
        Self(watch::Sender::new(standing))
    }

    /// Whether this process leads.
    pub(crate) fn leads(&self) -> bool {
        *self.0.borrow() == Standing::Leads
    }

    /// Where the process is reached that leads, if another one does and has said so.
    pub(crate) fn leader_url(&self) -> Option<String> {
        match &*self.0.borrow() {
            Standing::Follows(Some(leader)) => leader.url.clone(),
            Standing::Leads | Standing::Follows(None) => None,
        }
    }

    /// Who does what changes something. When nobody does, it is waited for somebody.
    pub(crate) async fn chief(&self, patience: Duration) -> Chief {
        let mut standing = self.0.subscribe();
        let mut can_be_asked =
            |standing: &Standing| !matches!(standing, Standing::Follows(None | Some(Leader { url: None, .. })));
        let found = timeout(patience, standing.wait_for(&mut can_be_asked)).await;
        // The sender lives as long as this does.
        drop(found);
        match &*self.0.borrow() {
            Standing::Leads => Chief::Ourselves,
            Standing::Follows(Some(Leader { url: Some(url), .. })) => Chief::Other(url.clone()),
            Standing::Follows(Some(Leader { who, url: None })) => Chief::Unknown(format!(
                "another process of this message node leads ({who}) and does not say where it is reached; start it with \
                 --advertise"
            )),
            Standing::Follows(None) => Chief::Unknown("no process of this message node leads now".to_owned()),
        }
    }

    /// Works whenever this process leads, until `stop`. What is under way when another one comes to lead is dropped.
    pub(crate) fn spawn_while_leading<F: Future<Output = ()> + Send>(
        &self,
        stop: &CancellationToken,
        mut work: impl FnMut(CancellationToken) -> F + Send + 'static,
    ) -> JoinHandle<()> {
        let (mut standing, stop) = (self.0.subscribe(), stop.clone());
        tokio::spawn(async move {
            while !stop.is_cancelled() {
                let leads = async { standing.wait_for(|standing| *standing == Standing::Leads).await.is_ok() };
                if stop.run_until_cancelled(leads).await != Some(true) {
                    return;
                }
                tokio::select! {
                    () = work(stop.clone()) => return,
                    _ = standing.wait_for(|standing| *standing != Standing::Leads) => {}
                }
            }
        })
    }
}

/// Looks who leads, leads when nobody does, and tells streams what others decide.
pub(crate) struct Watch {
    context: Arc<Context>,
    leadership: Leadership,
    /// Where other processes reach this one.
    url: Option<String>,
    /// What all processes have to share.
    places: Vec<Given>,
    /// Whether the database knows them.
    are_known: bool,
    /// The term that this process leads in.
    term: Option<u64>,
    /// The last entry of the journal that streams were told; `None` when that is not known.
    told: Option<i64>,
    look_at: Instant,
    is_away: bool,
}

impl Watch {
    pub(crate) fn new(context: Arc<Context>, leadership: Leadership, url: Option<String>, places: Vec<Given>) -> Self {
        let look_at = Instant::now();
        Self { context, leadership, url, places, are_known: false, term: None, told: None, look_at, is_away: false }
    }

    /// Finds out who leads, before anything else is done.
    ///
    /// # Errors
    /// When the database does not say, or belongs to other places.
    pub(crate) async fn begin(&mut self) -> Stored<()> {
        self.turn().await
    }

    /// Watches until `stop`. Ends before only when this process must not lead any more.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        if !self.context.store.is_shared() {
            return stop.cancelled().await;
        }
        loop {
            let pause = match stop.run_until_cancelled(self.turn()).await {
                None => return,
                Some(Ok(())) if self.leadership.leads() => LOOK_EVERY,
                Some(Ok(())) => TELL_EVERY,
                Some(Err(error @ (StoreError::OtherTables(_) | StoreError::OtherPlace(_)))) => {
                    return tracing::error!(%error, "this process must not go on");
                }
                Some(Err(error)) => {
                    if !std::mem::replace(&mut self.is_away, true) {
                        tracing::warn!(%error, "the database cannot be asked who leads; it is tried again");
                    }
                    PAUSE_AFTER_FAILURE
                }
            };
            if stop.run_until_cancelled(sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    async fn turn(&mut self) -> Stored<()> {
        if !self.leadership.leads() {
            self.tell().await?;
        }
        if self.look_at <= Instant::now() {
            self.look().await?;
            self.look_at = Instant::now() + LOOK_EVERY;
        }
        self.is_away = false;
        Ok(())
    }

    async fn look(&mut self) -> Stored<()> {
        let store = &self.context.store;
        if !self.are_known {
            self.are_known = places::check(&mut *store.read().await?, &self.places).await?;
        }
        match store.lock().await? {
            Lock::Theirs(leader) => self.follow(leader),
            Lock::Ours if self.term == Some(store.last_term()) => store.keep_alive().await,
            Lock::Ours | Lock::Free => {
                if !self.leadership.leads() {
                    self.leadership.0.send_replace(Standing::Follows(None));
                }
                self.lead().await?;
            }
        }
        Ok(())
    }

    fn follow(&mut self, leader: Leader) {
        if self.term.take().is_some() {
            tracing::warn!(leader = leader.who, "another process leads now");
            self.told = None;
        }
        self.context.metrics.leads.set(0.0);
        self.context.metrics.following.set(0.0);
        let now = Standing::Follows(Some(leader));
        self.leadership.0.send_if_modified(|standing| (*standing != now).then(|| *standing = now).is_some());
    }

    /// Takes the right to write; `None` when another one is faster.
    async fn take(&mut self) -> Stored<Option<u64>> {
        let context = Arc::clone(&self.context);
        let mut taking = pin!(context.store.term());
        loop {
            tokio::select! {
                term = &mut taking => return term.map(Some),
                () = sleep(LOOK_EVERY) => {}
            }
            if let Lock::Theirs(leader) = context.store.lock().await? {
                self.follow(leader);
                return Ok(None);
            }
        }
    }

    /// Takes the right to write, unless another one is faster, and begins to lead.
    async fn lead(&mut self) -> Stored<()> {
        let Some(term) = self.take().await? else { return Ok(()) };
        if self.context.store.is_shared() {
            self.context.store.check_tables().await?;
        }
        if !self.leadership.leads() {
            // Nobody else decides anything any more: this is all there is.
            self.tell().await?;
        }
        let mut tx = self.context.store.write().await?;
        if self.context.store.last_term() != term {
            return Ok(());
        }
        places::enter(&mut tx, &self.places).await?;
        self.context.balances.drop_untrusted(&mut tx).await?;
        if self.context.store.is_shared() {
            announce(&mut tx, self.url.as_deref()).await?;
        }
        tx.commit().await?;
        self.term = Some(term);
        self.told = None;
        self.context.metrics.leads.set(1.0);
        if !self.leadership.leads() {
            tracing::info!(url = self.url, "this process leads");
            self.leadership.0.send_replace(Standing::Leads);
        }
        Ok(())
    }

    /// Tells streams what was decided since they were told the last time.
    async fn tell(&mut self) -> Stored<()> {
        if !self.context.store.is_shared() {
            return Ok(());
        }
        loop {
            let mut db = self.context.store.read().await?;
            let Some(told) = self.told else { return self.begin_to_tell(journal::end(&mut db).await?) };
            let news = journal::after(&mut db, told, TELL_AT_ONCE).await?;
            drop(db);
            let is_all = news.len() < TELL_AT_ONCE as usize;
            for (seq, event) in news {
                if self.told != Some(seq - 1) {
                    tracing::warn!("streams were not told everything: the database was away for too long");
                    self.told = None;
                    break;
                }
                self.context.events.publish(event);
                self.told = Some(seq);
            }
            if is_all && self.told.is_some() {
                return Ok(());
            }
        }
    }

    /// From here on everything is told.
    fn begin_to_tell(&mut self, told: i64) -> Stored<()> {
        self.told = Some(told);
        // Who subscribed before was not.
        self.context.events.interrupt();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leader(url: Option<&str>) -> Standing {
        Standing::Follows(Some(Leader { who: "one, from here".into(), url: url.map(str::to_owned) }))
    }

    #[tokio::test]
    async fn requests_go_to_whoever_leads_and_wait_a_while_for_somebody() {
        assert_eq!(Leadership::new(false).chief(Duration::ZERO).await, Chief::Ourselves);
        let leadership = Leadership::new(true);
        let patience = Duration::from_millis(20);
        let Chief::Unknown(why) = leadership.chief(patience).await else { panic!("nobody leads") };
        assert!(why.contains("no process"), "{why}");
        leadership.0.send_replace(leader(None));
        let Chief::Unknown(why) = leadership.chief(patience).await else { panic!("it has no address") };
        assert!(why.contains("one, from here") && why.contains("--advertise"), "{why}");
        // Asked first, known then.
        let arrives = async { drop(leadership.0.send_replace(leader(Some("http://one")))) };
        let (chief, ()) = tokio::join!(biased; leadership.chief(Duration::from_secs(20)), arrives);
        assert_eq!(chief, Chief::Other("http://one".into()));
        leadership.0.send_replace(Standing::Leads);
        assert_eq!(leadership.chief(patience).await, Chief::Ourselves);
    }

    #[tokio::test]
    async fn work_goes_on_only_while_this_process_leads() {
        let (leadership, stop) = (Leadership::new(true), CancellationToken::new());
        let (began, mut begins) = tokio::sync::mpsc::unbounded_channel();
        let under_way = Arc::new(());
        let held = Arc::clone(&under_way);
        let working = leadership.spawn_while_leading(&stop, move |stop| {
            let (held, began) = (Arc::clone(&held), began.clone());
            async move {
                began.send(()).unwrap();
                stop.cancelled().await;
                drop(held);
            }
        });
        for _ in 0..2 {
            leadership.0.send_replace(Standing::Leads);
            begins.recv().await.unwrap();
            assert_eq!(Arc::strong_count(&under_way), 3);
            leadership.0.send_replace(leader(None));
            while Arc::strong_count(&under_way) > 2 {
                tokio::task::yield_now().await;
            }
        }
        assert!(begins.try_recv().is_err());
        stop.cancel();
        working.await.unwrap();
    }
}

//! Becomes the leader and stays it: the I/O around [`crate::core::leadership`].

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use lease::{BootTime, LeaseTimes, clock};
use protocol::Account;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use crate::core::Event;
use crate::core::leadership::{Verdict, Watch};
use crate::engine::Input;
use crate::store::{Led, Store, StoreError};

/// How many looks at the leader's row fall into the time of one beat.
const LOOKS: u32 = 2;

/// Waits until this scheduler leads; says since when it may count, which is before the database was asked. `led_by` is told
/// who leads meanwhile, `health` what is wrong with the database.
pub(crate) async fn acquire(
    store: &Store,
    account: &Arc<Account>,
    times: LeaseTimes,
    url: &str,
    led_by: &watch::Sender<Option<String>>,
    health: &watch::Sender<Option<String>>,
) -> (Led, BootTime) {
    let mut watch = Watch::new(times);
    loop {
        let sent = clock::now();
        match bounded(times, look(store, account, &mut watch, url)).await {
            Ok(Some(led)) => {
                led_by.send_replace(None);
                health.send_replace(None);
                return (led, sent);
            }
            Ok(None) => drop(health.send_replace(None)),
            Err(error) => {
                tracing::warn!(%error, "the database cannot be asked who leads; it is tried again");
                health.send_replace(Some(error.to_string()));
            }
        }
        led_by.send_if_modified(|url| {
            let changed = url.as_deref() != watch.leader_url();
            *url = watch.leader_url().map(str::to_owned);
            changed
        });
        sleep(times.heartbeat() / LOOKS).await;
    }
}

async fn look(store: &Store, account: &Arc<Account>, watch: &mut Watch, url: &str) -> Result<Option<Led>, StoreError> {
    let row = store.leader().await?;
    match watch.looked(clock::now(), row) {
        Verdict::Led => Ok(None),
        Verdict::Free(seen) => {
            Ok(store.claim(seen.as_ref(), url).await?.map(|epoch| store.led(epoch, account.clone())))
        }
    }
}

/// Beats until another scheduler leads, and tells the core until when it may grant. `leads` is false while this scheduler
/// does not know whether it still leads: nodes should look for another then.
pub(crate) async fn keep(
    led: &Led,
    times: LeaseTimes,
    claimed: BootTime,
    engine: mpsc::Sender<Input>,
    leads: &watch::Sender<bool>,
) {
    let mut until = times.holder(claimed).kill;
    if engine.send(Input::Event(Event::Leads { until })).await.is_err() {
        return;
    }
    leads.send_replace(true);
    loop {
        sleep(times.heartbeat()).await;
        let sent = clock::now();
        let mut beat = pin!(bounded(times, led.beat()));
        let taken = tokio::select! {
            biased;
            taken = &mut beat => taken,
            () = sleep(sent.until(until)) => {
                leads.send_replace(false);
                beat.await
            }
        };
        match taken {
            Ok(true) => {
                until = times.holder(sent).kill;
                leads.send_replace(clock::now() < until);
                if engine.send(Input::Event(Event::Leads { until })).await.is_err() {
                    return;
                }
            }
            Ok(false) => return,
            Err(error) => {
                leads.send_replace(clock::now() < until);
                tracing::error!(%error, "the database does not take this leader's beat; it is tried again");
            }
        }
    }
}

/// A database that hangs has failed.
async fn bounded<T>(times: LeaseTimes, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    tokio::time::timeout(times.lease(), work).await.unwrap_or(Err(StoreError::Database(sqlx::Error::PoolTimedOut)))
}

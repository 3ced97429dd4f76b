//! Waits until a persistent program runs, or is gone.
//!
//! ```text
//!   accepted ──▶ placed ──▶ preparing ──▶ starting ──▶ ready ──▶ its URL answers ──▶ done
//!      │            └────────────┴────────────┴───────────┴──▶ failing ──▶ given up
//!      └──▶ not placed (no node fits): waits on
//! ```
//! The scheduler moves the program; this only watches.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result};
use protocol::ProgramId;
use protocol::api::scheduler::{MoveOutcome, MovePhase, MoveRecord, ProgramState, VmRecord};
use protocol::data::ArchivedSet;
use reqwest::redirect::Policy;
use serde_json::json;
use tokio::time::Instant;
use url::Url;

use crate::context::Context;
use crate::failure::{Code, Failure};
use crate::ids;
use crate::network::Network;
use crate::output::{Step, printable};

/// How long to wait between two questions.
const POLL: Duration = Duration::from_millis(250);
/// How long one request to the program may take. The gateway itself holds requests while a program starts.
const REQUEST_LIMIT: Duration = Duration::from_secs(15);
/// How often in a row the program's own error (500) is asked again: it may still be warming up.
const OWN_ERRORS: u32 = 3;

/// What a scheduler's record means to somebody who waits for it to be ready.
#[derive(Debug, PartialEq)]
enum Phase {
    /// Not yet; where it is, in words.
    Wait(String),
    /// It runs.
    Ready(Box<VmRecord>),
    /// It will not run as it is; why, in words.
    Failing(String, Box<VmRecord>),
}

fn phase(record: Option<VmRecord>) -> Phase {
    let Some(record) = record else {
        return Phase::Wait("accepted, waiting for the scheduler".to_owned());
    };
    let reason = record.reason.as_deref().map(printable);
    let because = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let place = place(&record);
    match record.state {
        ProgramState::Ready => Phase::Ready(Box::new(record)),
        ProgramState::Failing => match &record.failure {
            Some(failure) if failure.kind.is_fault_of_node() => {
                Phase::Wait(format!("{place}: the node failed, not the program; another try follows"))
            }
            Some(failure) => Phase::Failing(failure_text(failure), Box::new(record)),
            None => Phase::Failing(reason.unwrap_or_else(|| "it does not say why".to_owned()), Box::new(record)),
        },
        ProgramState::Unplaced => Phase::Wait(format!("not placed{because}")),
        ProgramState::Assigned => Phase::Wait(format!("placed on {place}")),
        ProgramState::Preparing => Phase::Wait(format!("preparing on {place}")),
        ProgramState::Starting => Phase::Wait(format!("starting on {place}")),
        ProgramState::Stopping => Phase::Wait(format!("stopping on {place}{because}")),
        ProgramState::Unknown => Phase::Wait(format!("{place} is silent{because}")),
    }
}

/// A failure in words: its kind, and what the program or node said.
pub fn failure_text(failure: &protocol::control::Failure) -> String {
    let message = printable(failure.message.trim());
    if message.is_empty() { failure.kind.words().to_owned() } else { format!("{}: {message}", failure.kind.words()) }
}

fn place(record: &VmRecord) -> String {
    let node = record.allocated_node.map_or("a node".to_owned(), |node| format!("node {}", ids::short(&node)));
    let epoch = record.epoch.map(|epoch| format!(" (epoch {epoch})")).unwrap_or_default();
    format!("{node}{epoch}")
}

/// Waits until the program runs and, when it takes requests, its URL answers.
///
/// # Errors
/// [`Failure`] with [`Code::ProgramFailing`] when it fails and [`Code::TimedOut`] when `deadline` comes first; others when
/// nobody can be asked.
pub async fn until_ready(
    context: &Context,
    network: &Network,
    program: &ProgramId,
    takes_requests: bool,
    deadline: Instant,
) -> Result<VmRecord> {
    let step = context.out.step("accepted, waiting for the scheduler");
    let mut last = String::from("the scheduler does not answer");
    let record = loop {
        match before_deadline(deadline, network.vm(program)).await {
            Some(Ok(record)) => match phase(record) {
                Phase::Ready(record) => break *record,
                Phase::Failing(why, record) => {
                    let failure = Failure::new(Code::ProgramFailing, format!("the program does not run: {why}"))
                        .hint(format!("see more with `aleph program logs {program}`; its node goes on trying"))
                        .details(json!({ "item_hash": program, "record": record }));
                    return Err(failure.into());
                }
                Phase::Wait(text) => last = text,
            },
            Some(Err(error)) => last = transient(error)?,
            None => {}
        }
        step.say(last.clone());
        pause(deadline).await.map_err(|()| timed_out(program, &last))?;
    };
    let url = record.url.clone().or_else(|| network.program_url(program));
    if let (true, Some(url)) = (takes_requests, &url) {
        answers(&step, program, url, deadline).await?;
    }
    Ok(record)
}

/// Waits until no node runs the program any more.
///
/// # Errors
/// [`Failure`] with [`Code::TimedOut`] when `deadline` comes first; others when nobody can be asked.
pub async fn until_gone(context: &Context, network: &Network, program: &ProgramId, deadline: Instant) -> Result<()> {
    let step = context.out.step("waiting for its node to stop it");
    let mut last = String::from("the scheduler does not answer");
    loop {
        match before_deadline(deadline, network.vm(program)).await {
            Some(Ok(None)) => return Ok(()),
            Some(Ok(Some(record))) if record.allocated_node.is_none() && record.observed_nodes.is_empty() => {
                return Ok(());
            }
            Some(Ok(Some(record))) => last = format!("stopping on {}", place(&record)),
            Some(Err(error)) => last = transient(error)?,
            None => {}
        }
        step.say(last.clone());
        pause(deadline).await.map_err(|()| {
            Failure::new(Code::TimedOut, format!("{program} is not stopped yet: {last}"))
                .hint(format!("it will be: look with `aleph program find {program}`"))
                .details(json!({ "item_hash": program }))
        })?;
    }
}

/// Waits until the program runs on another node. `before` is its record from before the order.
///
/// # Errors
/// [`Failure`] with [`Code::MoveFailed`] when it goes on where it was, [`Code::ProgramFailing`] when it fails on the other
/// node, [`Code::TimedOut`] when `deadline` comes first; others when nobody can be asked.
pub async fn until_moved(
    context: &Context,
    network: &Network,
    program: &ProgramId,
    before: &VmRecord,
    deadline: Instant,
) -> Result<VmRecord> {
    let step = context.out.step("the scheduler took the order");
    let mut last = String::from("the scheduler does not answer");
    loop {
        match before_deadline(deadline, network.vm(program)).await {
            Some(Ok(Some(record))) => match moved(record, before) {
                Ok(Phase::Ready(record)) => return Ok(*record),
                Ok(Phase::Wait(text)) => last = text,
                Ok(Phase::Failing(why, record)) => {
                    let failure = Failure::new(Code::ProgramFailing, format!("it moved, but does not run: {why}"))
                        .hint(format!("see more with `aleph program logs {program}`; its node goes on trying"))
                        .details(json!({ "item_hash": program, "record": record }));
                    return Err(failure.into());
                }
                Err(failure) => return Err(failure.into()),
            },
            Some(Ok(None)) => {
                return Err(
                    Failure::new(Code::Forgotten, format!("the program {program} was deleted meanwhile")).into()
                );
            }
            Some(Err(error)) => last = transient(error)?,
            None => {}
        }
        step.say(last.clone());
        pause(deadline).await.map_err(|()| {
            Failure::new(Code::TimedOut, format!("the program has not moved yet: {last}"))
                .hint(format!(
                    "it goes on without us: look with `aleph program find {program}`, or take the order back with \
                     `aleph program move {program} --cancel`"
                ))
                .details(json!({ "item_hash": program }))
        })?;
    }
}

/// Waits until the program runs with this snapshot of the archive. `before` is its record from before the order.
///
/// # Errors
/// [`Failure`] with [`Code::RestoreFailed`] when it goes on with what it had, [`Code::ProgramFailing`] when it fails with the
/// snapshot, and [`Code::TimedOut`] when `deadline` comes first; others when nobody can be asked.
pub async fn until_restored(
    context: &Context,
    network: &Network,
    before: &VmRecord,
    set: ArchivedSet,
    deadline: Instant,
) -> Result<VmRecord> {
    let program = &before.vm_hash;
    let step = context.out.step("the scheduler took the order");
    let mut last = String::from("the scheduler does not answer");
    loop {
        match before_deadline(deadline, network.vm(program)).await {
            Some(Ok(Some(record))) => match restored(record, before, set)? {
                Phase::Ready(record) => return Ok(*record),
                Phase::Wait(text) => last = text,
                Phase::Failing(why, record) => {
                    let text = format!("it was restored, but does not run: {why}");
                    return Err(Failure::new(Code::ProgramFailing, text)
                        .hint(format!("see more with `aleph program logs {program}`, or restore another snapshot"))
                        .details(json!({ "item_hash": program, "record": record }))
                        .into());
                }
            },
            Some(Ok(None)) => {
                let text = format!("the program {program} was deleted meanwhile");
                return Err(Failure::new(Code::Forgotten, text).into());
            }
            Some(Err(error)) => last = transient(error)?,
            None => {}
        }
        step.say(last.clone());
        pause(deadline).await.map_err(|()| {
            Failure::new(Code::TimedOut, format!("the program is not restored yet: {last}"))
                .hint(format!("it goes on without us: look with `aleph program find {program}`"))
                .details(json!({ "item_hash": program }))
        })?;
    }
}

/// What a record means to somebody who waits for a snapshot to be restored.
fn restored(record: VmRecord, before: &VmRecord, set: ArchivedSet) -> Result<Phase, Failure> {
    let has_it =
        record.data.as_ref().is_some_and(|data| (data.restored, data.restored_from) == (Some(set.snapshot), set.from));
    let failure = record.failure.as_ref().filter(|failure| failure.kind.is_fault_of_node()).map(failure_text);
    let is_new = record.epoch > before.epoch;
    Ok(match phase(Some(record)) {
        Phase::Ready(record) if !is_new => Phase::Wait(format!("ready on {}", place(&record))),
        Phase::Ready(record) if !has_it => {
            return Err(Failure::new(
                Code::RestoreFailed,
                "its node could not get the snapshot: it goes on with what it had",
            )
            .hint(format!("see `aleph volume snapshots {}`, and order it again", set.from.unwrap_or(record.vm_hash)))
            .details(json!({ "item_hash": record.vm_hash, "record": record })));
        }
        Phase::Failing(_, record) if !is_new => Phase::Wait(format!("failing on {}", place(&record))),
        Phase::Wait(text) => {
            Phase::Wait(failure.filter(|_| is_new).map_or(text.clone(), |why| format!("{text} ({why})")))
        }
        phase => phase,
    })
}

/// What a record means to somebody who waits for a move.
fn moved(record: VmRecord, before: &VmRecord) -> Result<Phase, Failure> {
    if let Some(end) = record.last_move.as_ref().filter(|_| record.last_move != before.last_move) {
        let details = json!({ "item_hash": record.vm_hash, "record": record });
        return match end.outcome {
            MoveOutcome::Done => Ok(Phase::Ready(Box::new(record))),
            MoveOutcome::Cancelled => {
                Err(Failure::new(Code::MoveFailed, "somebody took the order back: it stays where it is")
                    .details(details))
            }
            MoveOutcome::Failed => {
                let why = printable(end.reason.as_deref().unwrap_or("the scheduler does not say why"));
                Err(Failure::new(Code::MoveFailed, format!("the program could not be moved: {why}"))
                    .hint("nothing of it is lost; when the cause is gone, order it again")
                    .details(details))
            }
        };
    }
    let Some(moving) = &record.moving else {
        // Another scheduler leads now, and knows nothing of moves that were over before.
        let is_elsewhere = record.allocated_node != before.allocated_node;
        return Ok(match phase(Some(record)) {
            Phase::Ready(record) if !is_elsewhere => Phase::Wait(format!("ready on {}", place(&record))),
            phase => phase,
        });
    };
    let text = move_words(moving);
    Ok(match phase(Some(record)) {
        Phase::Failing(why, record) if text.starts_with("starting") => Phase::Failing(why, record),
        _ => Phase::Wait(text),
    })
}

/// How far a move is, in words.
pub fn move_words(moving: &MoveRecord) -> String {
    let to = moving.to.map_or("another node".to_owned(), |node| format!("node {}", ids::short(&node)));
    match moving.phase {
        MovePhase::Waiting => format!("waiting until {to} can take it"),
        MovePhase::Copying => {
            let behind = moving.behind_ms.map(|ms| format!(" (it is {} s behind)", ms.div_ceil(1000)));
            format!("copying its data to {to} while it runs{}", behind.unwrap_or_default())
        }
        MovePhase::Stopping => format!("stopping, to run on {to}"),
        MovePhase::Finishing => format!("stopped; copying what it wrote last to {to}"),
        MovePhase::Starting => format!("starting on {to}"),
    }
}

/// Asks the program's URL until it answers.
async fn answers(step: &Step, program: &ProgramId, url: &str, deadline: Instant) -> Result<()> {
    step.say("ready, asking its URL");
    let client = client_for(url)?;
    let mut own_errors = 0;
    loop {
        let answer = match before_deadline(deadline, client.get(url).send()).await {
            Some(Ok(response)) => match response.status().as_u16() {
                // What gateways say about programs that they cannot reach.
                status @ (502..=504) => format!("answers {status}"),
                status @ 500.. => {
                    own_errors += 1;
                    if own_errors >= OWN_ERRORS {
                        return Err(answers_with_errors(program, url, status).into());
                    }
                    format!("answers {status}")
                }
                _ => return Ok(()),
            },
            Some(Err(error)) if !error.is_timeout() => "cannot be reached".to_owned(),
            _ => "does not answer".to_owned(),
        };
        step.say(format!("ready, but its URL {answer}"));
        pause(deadline)
            .await
            .map_err(|()| timed_out(program, &format!("its node says that it is ready, but {url} {answer}")))?;
    }
}

/// A client that asks the program itself, and nobody that it redirects to.
///
/// Names below `localhost` are this machine (RFC 6761), which many resolvers do not know.
fn client_for(url: &str) -> Result<reqwest::Client> {
    let mut client = protocol::client::http_client_builder().redirect(Policy::none()).timeout(REQUEST_LIMIT);
    let url = Url::parse(url).with_context(|| format!("the program's URL is no URL: {url}"))?;
    if let Some(host) = url.host_str().filter(|host| host.ends_with(".localhost")) {
        let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
        client = client.resolve_to_addrs(host, &loopback.map(|address| SocketAddr::new(address, 0)));
    }
    Ok(client.build()?)
}

fn answers_with_errors(program: &ProgramId, url: &str, status: u16) -> Failure {
    Failure::new(Code::ProgramFailing, format!("the program runs, but {url} answers {status}"))
        .hint(format!("see why with `aleph program logs {program}`"))
        .details(json!({ "item_hash": program, "url": url, "status": status }))
}

fn timed_out(program: &ProgramId, last: &str) -> Failure {
    Failure::new(Code::TimedOut, format!("the program was accepted, but is not ready yet: {last}"))
        .hint(format!(
            "it goes on without us: look with `aleph program find {program}`, or wait longer with --wait-seconds"
        ))
        .details(json!({ "item_hash": program }))
}

/// An answer that came in time.
async fn before_deadline<T>(deadline: Instant, answer: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout_at(deadline, answer).await.ok()
}

/// Waits for the next question, or says that there is no time for one.
async fn pause(deadline: Instant) -> Result<(), ()> {
    if Instant::now() + POLL >= deadline {
        return Err(());
    }
    tokio::time::sleep(POLL).await;
    Ok(())
}

/// What to say about an error that may pass; others end the wait.
fn transient(error: anyhow::Error) -> Result<String> {
    match error.downcast_ref::<protocol::client::ClientError>() {
        Some(client) if client.is_transient() => Ok(format!("the scheduler does not answer ({client})")),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn record(change: Value) -> VmRecord {
        let mut record = json!({
            "vm_hash": "11".repeat(32), "vm_type": "persistent_program", "owner": "0xa", "status": "scheduled",
            "scheduling_status": "scheduled", "allocated_node": "22".repeat(32), "allocated_at": null,
            "observed_nodes": [], "last_observed_at": null, "requirements_vcpus": 1, "requirements_memory_mb": 128,
            "requirements_disk_mb": 0, "payment_type": "hold", "payment_status": "validated",
            "migration_target": null, "migration_started_at": null, "epoch": 3, "node_url": "http://n", "url": null,
            "state": "assigned", "state_since": "2026-01-01T00:00:00Z",
        });
        let (Value::Object(record_fields), Value::Object(change)) = (&mut record, change) else { panic!("objects") };
        record_fields.extend(change);
        serde_json::from_value(record).unwrap()
    }

    #[test]
    fn phases_say_where_the_program_is() {
        let wait = |change: Value| match phase(Some(record(change))) {
            Phase::Wait(text) => text,
            other => panic!("{other:?}"),
        };
        assert_eq!(wait(json!({})), "placed on node 222222222222 (epoch 3)");
        assert_eq!(
            wait(json!({"state": "unplaced", "allocated_node": null, "reason": "no capacity"})),
            "not placed: no capacity"
        );
        assert!(wait(json!({"state": "starting"})).starts_with("starting on node"));
        assert!(
            wait(json!({"state": "failing", "failure": {"kind": "node_fault", "message": "disk"}}))
                .contains("node failed")
        );
        assert!(matches!(phase(None), Phase::Wait(_)));
        assert!(matches!(phase(Some(record(json!({"state": "ready"})))), Phase::Ready(_)));
        let failing = json!({"state": "failing", "failure": {"kind": "startup_error", "message": "ImportError: x\n"}});
        let Phase::Failing(why, _) = phase(Some(record(failing))) else { panic!("it fails") };
        assert_eq!(why, "the program failed while starting: ImportError: x");
    }
}

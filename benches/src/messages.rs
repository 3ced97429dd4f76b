//! Messages that the message node accepts, each acknowledged when it is decided and durable, beside bare signature checks
//! of the same messages.

use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;
use futures_util::future::try_join_all;
use protocol::Account;
use protocol::api::message_node::SubmitRequest;
use protocol::message::{Envelope, MessageTime, MessageType, PostContent};
use serde_json::json;

use crate::http::Connection;
use crate::network::up;
use crate::report::{Measurement, Table};
use crate::stats::{Samples, ratio, seconds};

/// How many send at once, each the next message when the one before is acknowledged, and how many messages are signed for
/// them before: when those are all sent the time is over.
const SENDERS: [(usize, usize); 3] = [(1, 3_000), (8, 6_000), (64, 10_000)];

/// On how many threads signatures are checked.
const CORES: [usize; 2] = [1, 2];

/// How long each is measured in each round.
const SENDING: Duration = Duration::from_secs(5);
const CHECKING: Duration = Duration::from_secs(2);
const ROUNDS: u32 = 3;

pub(crate) async fn run() -> anyhow::Result<Measurement> {
    let network = up(1, &[]).await;
    let account = Account::generate();
    let mut accepted: Vec<(Samples, Samples)> = vec![Default::default(); SENDERS.len()];
    let mut checked: Vec<Samples> = vec![Samples::default(); CORES.len()];
    let mut number = 0;
    for round in 0..ROUNDS {
        for ((senders, signed), (rates, latencies)) in SENDERS.into_iter().zip(&mut accepted) {
            eprintln!("bench: messages: round {} of {ROUNDS}: {senders} senders", round + 1);
            let envelopes = sign_posts(&account, number..number + signed);
            number += signed;
            let (rate, took) = send(network.port(), &envelopes, senders).await?;
            rates.add(rate);
            latencies.extend(took);
        }
        for (cores, rates) in CORES.into_iter().zip(&mut checked) {
            eprintln!("bench: messages: round {} of {ROUNDS}: signatures checked on {cores} cores", round + 1);
            rates.add(check(&sign_posts(&account, 0..2000), cores));
        }
    }
    Ok(report(&accepted, &checked))
}

/// Makes and signs messages, on all processors.
pub(crate) fn sign_posts(account: &Account, numbers: std::ops::Range<usize>) -> Vec<Envelope> {
    let numbers: Vec<usize> = numbers.collect();
    let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let share = numbers.len().div_ceil(threads).max(1);
    let sign_one = |number: &usize| {
        let time = MessageTime::now();
        let content = PostContent {
            address: account.address().clone(),
            time,
            post_type: "bench".to_owned(),
            reference: None,
            content: json!({ "number": number, "text": "what a small document may say" }),
        };
        let content = serde_json::to_string(&content).expect("a content is JSON");
        Envelope::sign_inline(account, MessageType::Post, content, time, Some("BENCH".to_owned()))
    };
    thread::scope(|scope| {
        let parts: Vec<_> = numbers
            .chunks(share)
            .map(|part| scope.spawn(move || part.iter().map(sign_one).collect::<Vec<_>>()))
            .collect();
        parts.into_iter().flat_map(|part| part.join().expect("signing does not panic")).collect()
    })
}

/// Sends messages until the time is over. Says how many were accepted per second, and how long each took.
async fn send(port: u16, envelopes: &[Envelope], senders: usize) -> anyhow::Result<(f64, Vec<f64>)> {
    let requests: Vec<Vec<u8>> = envelopes.iter().map(|envelope| request(port, envelope)).collect();
    let (next, began) = (AtomicUsize::new(0), Instant::now());
    let each = (0..senders).map(async |_| {
        let mut connection = Connection::open(port).await?;
        let mut took = Vec::new();
        while began.elapsed() < SENDING
            && let Some(request) = requests.get(next.fetch_add(1, Ordering::Relaxed))
        {
            let sent = Instant::now();
            let (status, body) = connection.ask(request).await?;
            ensure!(status == 200, "a message was not accepted: {status} {}", String::from_utf8_lossy(&body));
            took.push(sent.elapsed().as_secs_f64());
        }
        Ok(took)
    });
    let took: Vec<f64> = try_join_all(each).await?.into_iter().flatten().collect();
    let elapsed = began.elapsed().as_secs_f64();
    Ok((per_second(took.len(), elapsed), took))
}

/// The request that submits a message and waits until it is decided.
pub(crate) fn request(port: u16, envelope: &Envelope) -> Vec<u8> {
    let body = SubmitRequest { sync: true, message: envelope.clone() };
    let body = serde_json::to_string(&body).expect("a message is JSON");
    format!(
        "POST /api/v0/messages HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Signatures checked per second, by the same function that the message node calls.
fn check(envelopes: &[Envelope], threads: usize) -> f64 {
    let began = Instant::now();
    let count: usize = thread::scope(|scope| {
        let check_all = || {
            let mut count = 0;
            while began.elapsed() < CHECKING {
                for envelope in envelopes.iter().cycle().skip(count).take(50) {
                    black_box(envelope.verify_signature()).expect("it is signed");
                    count += 1;
                }
            }
            count
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(check_all)).collect();
        threads.into_iter().map(|thread| thread.join().expect("checking does not panic")).sum()
    });
    per_second(count, began.elapsed().as_secs_f64())
}

#[allow(clippy::cast_precision_loss)] // Counts of seconds are far below 2^53.
fn per_second(count: usize, elapsed: f64) -> f64 {
    count as f64 / elapsed
}

fn report(accepted: &[(Samples, Samples)], checked: &[Samples]) -> Measurement {
    let against: Vec<f64> = checked.iter().map(Samples::median).collect();
    let columns = ["what", "per second", "÷ 1 core's checks", "÷ 2 cores' checks", "median", "p99"];
    let title = format!("Messages: POST, inline, sync, {ROUNDS} × {} s", SENDING.as_secs());
    let (mut table, mut results) = (Table::new(title, &columns), Vec::new());
    let row = |what: String, rate: &Samples, took: &Samples| {
        let rate = rate.median();
        let mut cells = vec![what, format!("{rate:.0}")];
        cells.extend(against.iter().map(|other| ratio(rate, *other)));
        cells.extend([seconds(took.median()), seconds(took.p99())]);
        cells
    };
    for (cores, rate) in CORES.into_iter().zip(checked) {
        let what = format!("signature checks alone, {cores} core{}", if cores == 1 { "" } else { "s" });
        results.push(json!({ "what": what, "cores": cores, "per_second": rate.to_json() }));
        table.row(row(what, rate, &Samples::default()));
    }
    for ((senders, _), (rate, took)) in SENDERS.into_iter().zip(accepted) {
        let what = format!("messages accepted, {senders} sender{}", if senders == 1 { "" } else { "s" });
        results.push(json!({
            "what": what, "senders": senders, "per_second": rate.to_json(), "messages": took.len(),
            "seconds": { "median": took.median(), "p99": took.p99(), "max": took.max() },
        }));
        table.row(row(what, rate, took));
    }
    Measurement {
        settings: json!({
            "senders_and_signed_messages": SENDERS, "sending_seconds": SENDING.as_secs(), "checking_seconds": CHECKING.as_secs(),
            "rounds": ROUNDS
        }),
        results,
        tables: vec![table],
        notes: vec!["The senders share the machine with the message node.".to_owned()],
    }
}

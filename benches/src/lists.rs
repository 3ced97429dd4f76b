//! Lists of messages of a message node that holds a million, beside the same lists when it holds a thousand.
//!
//! The thousand are real messages of several accounts. The million are those and copies of them in the database, under
//! other hashes and spread over earlier times: what lists cost depends on rows and indexes, not on who signed.

use std::path::Path;
use std::time::Instant;

use aleph_tests::Role;
use anyhow::{Context, ensure};
use protocol::Account;
use protocol::message::MessageType;
use rustix::process::Signal;
use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection};

use crate::http::Connection;
use crate::messages::{request, sign_posts};
use crate::network::free_ports;
use crate::report::{Measurement, Table};
use crate::stats::{Samples, ratio, seconds};

/// Accounts, and messages that each of them sends.
const ACCOUNTS: usize = 32;
const EACH: usize = 32;
/// Messages in all, at last.
const MILLION: usize = 1_000_000;
/// How often each list is asked for.
const TIMES: usize = 200;
/// How long one kind of list may be asked for.
const AT_MOST_S: f64 = 30.0;

/// A list that clients ask for.
struct Question {
    what: &'static str,
    query: String,
}

pub(crate) async fn run() -> anyhow::Result<Measurement> {
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data");
    let port = free_ports(1);
    let role = start(port, &data).await;
    let (sender, hash) = fill(port).await?;
    let questions = questions(&sender, &hash);
    eprintln!("bench: lists: {} messages", ACCOUNTS * EACH);
    let few = ask_all(port, &questions).await?;
    ensure!(role.end(Signal::TERM).await.success(), "the message node did not end well");
    eprintln!("bench: lists: making {MILLION} messages");
    multiply(&data.join("messages.sqlite")).await?;
    let role = start(port, &data).await;
    eprintln!("bench: lists: {MILLION} messages");
    let many = ask_all(port, &questions).await?;
    ensure!(role.end(Signal::TERM).await.success(), "the message node did not end well");
    Ok(report(&questions, &few, &many))
}

async fn start(port: u16, data: &Path) -> Role {
    let listen = format!("127.0.0.1:{port}");
    let arguments = ["--json", "message-node", "--listen", &listen, "--data-dir", &data.display().to_string()];
    Role::ready(&arguments.map(str::to_owned), &data.with_extension("log")).await
}

/// Sends the first messages. Says one of the senders and one of the messages.
async fn fill(port: u16) -> anyhow::Result<(String, String)> {
    let mut connection = Connection::open(port).await?;
    let mut last = None;
    for _ in 0..ACCOUNTS {
        let account = Account::generate();
        for message in sign_posts(&account, 0..EACH) {
            let (status, body) = connection.ask(&request(port, &message)).await?;
            ensure!(status == 200, "a message was not accepted: {status} {}", String::from_utf8_lossy(&body));
            last = Some((account.address().to_string(), message.item_hash));
        }
    }
    last.context("there are messages")
}

fn questions(sender: &str, hash: &str) -> Vec<Question> {
    let kind = MessageType::Post;
    let question = |what, query: String| Question { what, query };
    vec![
        question("the newest 20", "pagination=20".into()),
        question("the newest 200 of a type, by cursor", format!("msgTypes={kind}&pagination=200&cursor=")),
        question("the newest 200 of a type, page 1", format!("msgTypes={kind}&pagination=200&page=1")),
        question("page 2 of one sender", format!("addresses={sender}&pagination=20&page=2")),
        question(
            "one sender's of a type, by cursor",
            format!("msgTypes={kind}&addresses={sender}&pagination=20&cursor="),
        ),
        question("of one owner", format!("owners={sender}&pagination=20&cursor=")),
        question("of a channel", "channels=BENCH&pagination=20&cursor=".into()),
        question("of a type of post", "contentTypes=bench&pagination=20&cursor=".into()),
        question("by hash", format!("hashes={hash}&pagination=20&page=1")),
        question("nothing there", format!("refs={}&pagination=20&page=1", "0".repeat(64))),
    ]
}

/// Seconds for each question.
async fn ask_all(port: u16, questions: &[Question]) -> anyhow::Result<Vec<Samples>> {
    let mut connection = Connection::open(port).await?;
    let mut all = Vec::new();
    for Question { what, query } in questions {
        let request = format!("GET /api/v0/messages.json?{query} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n");
        let (mut samples, began) = (Samples::default(), Instant::now());
        while samples.len() < TIMES && began.elapsed().as_secs_f64() < AT_MOST_S {
            let asked = Instant::now();
            let (status, body) = connection.ask(request.as_bytes()).await?;
            samples.add(asked.elapsed().as_secs_f64());
            ensure!(status == 200, "{what}: {status} {}", String::from_utf8_lossy(&body));
            let list: Value = serde_json::from_slice(&body)?;
            let empty = list["messages"].as_array().is_none_or(Vec::is_empty);
            ensure!(empty == (*what == "nothing there"), "{what}: {list}");
        }
        all.push(samples);
    }
    Ok(all)
}

/// Copies the rows of all messages until there are a million.
async fn multiply(database: &Path) -> anyhow::Result<()> {
    let mut db = SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(database)).await?;
    let columns: Vec<String> =
        sqlx::query_scalar("SELECT name FROM pragma_table_info('messages')").fetch_all(&mut db).await?;
    let value = |column: &String| match column.as_str() {
        "item_hash" => "lower(hex(randomblob(32)))".to_owned(),
        // A minute earlier with each copy.
        "time_us" | "received_us" => format!("{column} - n * 60000000"),
        _ => column.clone(),
    };
    let sql = format!(
        "WITH RECURSIVE copies(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM copies WHERE n < {})
         INSERT INTO messages ({}) SELECT {} FROM copies, messages LIMIT {}",
        MILLION.div_ceil(ACCOUNTS * EACH),
        columns.join(", "),
        columns.iter().map(value).collect::<Vec<_>>().join(", "),
        MILLION - ACCOUNTS * EACH
    );
    sqlx::query(AssertSqlSafe(sql)).execute(&mut db).await?;
    let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM messages").fetch_one(&mut db).await?;
    ensure!(usize::try_from(count)? == MILLION, "there are {count} messages");
    Ok(db.close().await?)
}

fn report(questions: &[Question], few: &[Samples], many: &[Samples]) -> Measurement {
    let title = format!("Lists: GET /api/v0/messages.json, {} and {MILLION} messages (SQLite)", ACCOUNTS * EACH);
    let columns = ["list", "few: median", "p99", "a million: median", "p99", "÷ few"];
    let (mut table, mut results) = (Table::new(title, &columns), Vec::new());
    for ((question, few), many) in questions.iter().zip(few).zip(many) {
        let cells = [few.median(), few.p99(), many.median(), many.p99()].map(seconds);
        let mut row = vec![question.what.to_owned()];
        row.extend(cells);
        row.push(ratio(many.median(), few.median()));
        table.row(row);
        let numbers =
            |samples: &Samples| json!({ "median": samples.median(), "p99": samples.p99(), "n": samples.len() });
        results.push(
            json!({ "list": question.what, "query": question.query, "few": numbers(few), "million": numbers(many) }),
        );
    }
    Measurement {
        settings: json!({ "few": ACCOUNTS * EACH, "many": MILLION, "times": TIMES }),
        results,
        tables: vec![table],
        notes: vec!["One client, one connection kept alive; the whole answer is read.".to_owned()],
    }
}

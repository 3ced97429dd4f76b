//! `aleph program logs`: asks the node that has the program, and follows it from node to node.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use anyhow::Result;
use chrono::{DateTime, SecondsFormat};
use protocol::api::compute_node::{LogEntry, LogSource, LogStreamFrame, LogStreamStatus};
use protocol::api::scheduler::VmRecord;
use protocol::client::{ClientError, ComputeNode, EventStream};
use protocol::{Account, ProgramId};
use serde_json::json;

use super::{content, message};
use crate::args::LogsArgs;
use crate::context::Context;
use crate::failure::{Code, Failure};
use crate::network::Network;
use crate::output::printable;
use crate::{ids, publish};

/// How often we look whether a followed program has moved.
const LOOK: Duration = Duration::from_secs(2);
/// How long to wait before a node is asked again.
const RETRY: Duration = Duration::from_secs(1);
/// How many lines are fetched after a connection was lost.
const CATCH_UP_LINES: u32 = 1000;
/// How many lines are remembered, so that none is printed twice. More than are fetched at once.
const REMEMBERED_LINES: usize = 10_000;

/// Prints what a program wrote.
///
/// # Errors
/// Why that cannot be had.
pub(super) async fn logs(context: &Context, args: LogsArgs) -> Result<()> {
    let account = context.account()?;
    let program = ids::program(context, &args.program).await?;
    let printer = Printer { context, timestamps: args.timestamps };
    let source = Source::find(context, program, args.node.clone()).await?;
    if args.follow {
        context.interruption.ends();
        return Follower { source, printer, account: &account, seen: Seen::default(), said: String::new() }
            .follow(args.tail)
            .await;
    }
    let place = match source.place().await? {
        Place::At(url) => url,
        Place::Nowhere(why) => {
            return Err(Failure::new(Code::NotFound, format!("no node has the program {program}: {why}"))
                .hint("name a node that had it with --node URL, or wait for it with --follow")
                .into());
        }
        Place::Gone(why) => return Err(Failure::new(Code::Forgotten, why).into()),
    };
    let entries = ComputeNode::new(&place)?.logs(&account, &program, args.tail).await;
    for entry in entries.map_err(|e| explain(e, &account, &program, &place))? {
        printer.print(entry.file, Some(entry.micros()), &entry.message)?;
    }
    Ok(())
}

/// The last lines that a persistent program wrote.
///
/// # Errors
/// When they cannot be had.
pub(super) async fn last_lines(
    network: &Network,
    account: &Account,
    program: &ProgramId,
    count: u32,
) -> Result<Vec<LogEntry>> {
    let record = network.vm(program).await?;
    let Some(url) = record.and_then(|record| record.node_url) else { return Ok(Vec::new()) };
    Ok(ComputeNode::new(&url)?.logs(account, program, Some(count)).await?)
}

/// Says what a node's refusal means.
fn explain(error: ClientError, account: &Account, program: &ProgramId, node: &str) -> anyhow::Error {
    match error.status() {
        Some(401 | 403) => {
            let text = format!(
                "the node at {node} shows the logs of {program} to its owner only, and you are {}: {error}",
                account.address()
            );
            Failure::new(Code::NotYours, text)
                .hint("name the owner's key with --private-key-file; check this machine's clock")
                .into()
        }
        Some(404) => Failure::new(Code::NotFound, format!("the node at {node} has no logs of {program}"))
            .hint("on-demand programs have logs where they ran: name that node with --node URL")
            .into(),
        _ => error.into(),
    }
}

/// Where a program's logs are.
enum Place {
    /// At the node with this base URL.
    At(String),
    /// Nowhere at the moment, and why.
    Nowhere(String),
    /// Nowhere any more, and why.
    Gone(String),
}

/// Who knows where a program's logs are.
enum Source<'a> {
    /// Somebody named the node, or the gateway stands for all nodes.
    Fixed(ProgramId, String),
    /// The scheduler knows.
    Scheduler(&'a Context, &'a Network, ProgramId),
}

impl<'a> Source<'a> {
    async fn find(context: &'a Context, program: ProgramId, node: Option<String>) -> Result<Self> {
        if let Some(node) = node {
            return Ok(Self::Fixed(program, node));
        }
        let found = message(context, &program).await?;
        if found.status.is_over() {
            let failure = publish::refusal(&found, &format!("the program {program}"));
            return Err(failure.hint("name a node that had it with --node URL").into());
        }
        let network = context.network().await?;
        if content(&found)?.is_some_and(|content| content.is_persistent()) {
            return Ok(Self::Scheduler(context, network, program));
        }
        match network.gateway() {
            Some(gateway) => Ok(Self::Fixed(program, gateway.to_owned())),
            None => Err(Failure::new(Code::NoScheduler, format!("{program} runs on demand, at no certain node"))
                .hint("name the node with --node URL, or the gateway with --gateway-url URL")
                .into()),
        }
    }

    fn program(&self) -> &ProgramId {
        match self {
            Self::Fixed(program, _) | Self::Scheduler(_, _, program) => program,
        }
    }

    async fn place(&self) -> Result<Place> {
        let (context, network, program) = match self {
            Self::Fixed(_, url) => return Ok(Place::At(url.clone())),
            Self::Scheduler(context, network, program) => (context, network, program),
        };
        match network.vm(program).await? {
            Some(VmRecord { node_url: Some(url), .. }) => Ok(Place::At(url)),
            Some(record) => {
                Ok(Place::Nowhere(record.reason.map_or("it is not placed".to_owned(), |why| printable(&why))))
            }
            None => match context.node.message(&program.to_string()).await? {
                Some(found) if found.status.is_over() => {
                    Ok(Place::Gone(publish::refusal(&found, "the program").message))
                }
                _ => Ok(Place::Nowhere("the scheduler has not seen it yet".to_owned())),
            },
        }
    }
}

/// Follows a program's log from node to node.
struct Follower<'a> {
    source: Source<'a>,
    printer: Printer<'a>,
    account: &'a Account,
    seen: Seen,
    said: String,
}

impl Follower<'_> {
    /// Goes on until the program is gone. Only the caller's Ctrl-C ends it otherwise.
    async fn follow(mut self, tail: Option<u32>) -> Result<()> {
        let mut tail = tail;
        let mut failures = 0u32;
        loop {
            let place = match self.source.place().await {
                Ok(place) => place,
                // The first answer decides whether following makes sense at all.
                Err(error) if failures == 0 && self.seen.is_empty() => return Err(error),
                Err(error) => Place::Nowhere(format!("{error:#}")),
            };
            match place {
                Place::Gone(why) => {
                    self.say(why);
                    return Ok(());
                }
                Place::Nowhere(why) => self.say(format!("waiting: {why}")),
                Place::At(url) => match self.listen(&url, tail).await {
                    Ok(()) => {}
                    Err(error) if is_final(&error) => return Err(error),
                    Err(error) => self.say(format!("{url}: {error:#}; trying again")),
                },
            }
            failures = failures.saturating_add(1);
            if !self.seen.is_empty() {
                tail = Some(CATCH_UP_LINES);
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Prints what the program wrote and writes at this node, until the connection ends or the program moves.
    async fn listen(&mut self, url: &str, tail: Option<u32>) -> Result<()> {
        let node = ComputeNode::new(url)?;
        let program = *self.source.program();
        let opened = self.open(&node).await;
        // The stream is open before the past is read, so that no line falls between them. When it was refused, this
        // request tells why: its status is typed, the stream's reason is not.
        let past =
            node.logs(self.account, &program, tail).await.map_err(|e| explain(e, self.account, &program, url))?;
        let mut stream = opened?;
        self.say(format!("following at {url}"));
        let first_time = self.seen.is_empty();
        let oldest = past.iter().map(LogEntry::micros).min();
        for entry in past {
            self.line(entry.file, Some(entry.micros()), &entry.message)?;
        }
        if first_time {
            // Nodes may repeat the past on the stream; what is older than the asked-for tail stays out.
            self.seen.floor = oldest.unwrap_or(0);
        }
        while let Some(frame) = self.next_frame(&mut stream, url).await? {
            if let LogStreamFrame::Line { source, message, time } = frame {
                self.line(source, time, &message)?;
            }
        }
        Ok(())
    }

    /// Opens the stream and waits until the node has accepted it.
    async fn open(&self, node: &ComputeNode) -> Result<EventStream<LogStreamFrame>> {
        let mut stream = node.stream_logs(self.account, self.source.program()).await?;
        match stream.next().await? {
            Some(LogStreamFrame::Status { status: LogStreamStatus::Connected, .. }) => Ok(stream),
            Some(LogStreamFrame::Status { reason: Some(reason), .. }) => {
                anyhow::bail!("it does not stream the log: {}", printable(&reason))
            }
            _ => anyhow::bail!("it does not stream the log"),
        }
    }

    /// The next frame; `None` when the connection ended or the program is somewhere else now.
    async fn next_frame(
        &self,
        stream: &mut EventStream<LogStreamFrame>,
        url: &str,
    ) -> Result<Option<LogStreamFrame>, ClientError> {
        // One future for as long as it takes: it counts how long the node is silent.
        let mut next = std::pin::pin!(stream.next());
        loop {
            tokio::select! {
                frame = &mut next => return frame,
                () = tokio::time::sleep(LOOK) => match self.source.place().await {
                    Ok(Place::At(now)) if now == url => {}
                    Ok(Place::At(_) | Place::Gone(_)) => return Ok(None),
                    // Not knowing where it is does not mean that it is not here.
                    Ok(Place::Nowhere(_)) | Err(_) => {}
                }
            }
        }
    }

    fn line(&mut self, source: LogSource, micros: Option<u64>, message: &str) -> Result<()> {
        if self.seen.admits(source, micros.unwrap_or(0), message) {
            self.printer.print(source, micros, message)?;
        }
        Ok(())
    }

    /// A remark for people, once.
    fn say(&mut self, text: String) {
        if text != self.said {
            self.printer.context.out.note(format!("[aleph] {text}"));
            self.said = text;
        }
    }
}

/// Whether asking again is of no use.
fn is_final(error: &anyhow::Error) -> bool {
    crate::failure::is_broken_pipe(error)
        || error.downcast_ref::<Failure>().is_some_and(|failure| failure.code == Code::NotYours)
}

/// Which lines were printed.
#[derive(Default)]
struct Seen {
    /// Lines before this time are not wanted.
    floor: u64,
    lines: std::collections::HashSet<u64>,
    order: std::collections::VecDeque<u64>,
}

impl Seen {
    fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Whether a line is new. Lines without a time always are.
    fn admits(&mut self, source: LogSource, micros: u64, message: &str) -> bool {
        let mut hasher = DefaultHasher::new();
        (source, micros, message).hash(&mut hasher);
        let line = hasher.finish();
        if micros != 0 && (micros < self.floor || self.lines.contains(&line)) {
            return false;
        }
        self.lines.insert(line);
        self.order.push_back(line);
        if self.order.len() > REMEMBERED_LINES
            && let Some(oldest) = self.order.pop_front()
        {
            self.lines.remove(&oldest);
        }
        true
    }
}

/// Prints lines: the program's output to standard output, its errors and the node's remarks to standard error.
struct Printer<'a> {
    context: &'a Context,
    timestamps: bool,
}

impl Printer<'_> {
    fn print(&self, source: LogSource, micros: Option<u64>, message: &str) -> Result<()> {
        let out = &self.context.out;
        let message = message.trim_end_matches(['\n', '\r']);
        let time = micros.filter(|micros| *micros != 0).and_then(rfc3339);
        if out.is_json() {
            return out.line(&json!({ "time": time, "stream": source, "message": message }).to_string());
        }
        let stamp = time.filter(|_| self.timestamps).map(|time| format!("{time} ")).unwrap_or_default();
        match source {
            LogSource::Stdout => out.line(&format!("{stamp}{message}"))?,
            LogSource::Stderr => out.stderr(&format!("{stamp}{message}")),
            LogSource::System => out.stderr(&format!("{stamp}[system] {message}")),
        }
        Ok(())
    }
}

fn rfc3339(micros: u64) -> Option<String> {
    let time = DateTime::from_timestamp_micros(i64::try_from(micros).ok()?)?;
    Some(time.to_rfc3339_opts(SecondsFormat::Micros, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_is_printed_twice_and_none_is_lost() {
        let mut seen = Seen { floor: 5, ..Seen::default() };
        assert!(seen.admits(LogSource::Stdout, 6, "a"));
        assert!(!seen.admits(LogSource::Stdout, 6, "a"), "the same line again");
        assert!(seen.admits(LogSource::Stderr, 6, "a"), "another stream");
        assert!(seen.admits(LogSource::Stdout, 5, "late"), "out of order");
        assert!(!seen.admits(LogSource::Stdout, 4, "old"), "before what was asked for");
        assert!(seen.admits(LogSource::Stdout, 0, "x") && seen.admits(LogSource::Stdout, 0, "x"), "without times");
    }

    #[test]
    fn memory_is_bounded() {
        let mut seen = Seen::default();
        for n in 1..=(REMEMBERED_LINES as u64 + 10) {
            assert!(seen.admits(LogSource::Stdout, n, ""));
        }
        assert_eq!((seen.order.len(), seen.lines.len()), (REMEMBERED_LINES, REMEMBERED_LINES));
    }
}

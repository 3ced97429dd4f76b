//! The connection to the scheduler: proves the node's key, sends heartbeats, passes grants on to the agent.
//!
//! ```text
//!   Dialing: all schedulers at once ──the first that welcomes──▶ Connected ──silent, ended, rejected──▶ Dialing
//! ```
//! Only the one that leads welcomes nodes. All are dialed at once because one that hangs must not cost the time in which the
//! one that took over could still renew the leases.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{SinkExt, StreamExt};
use lease::{BootTime, LeaseConfig, LeaseTimes, clock};
use protocol::control::{
    CONTROL_VERSION, Capacity, Challenge, FromNode, FromScheduler, Grant, Heartbeat, Hello, Welcome,
};
use protocol::{Account, Address, BootId, NodeId};
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::agent::AgentHandle;
use crate::programs::data::ProgramData;
use crate::statements::Statements;

/// How long connecting and proving keys may take.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// A connection that is not there after this long is tried beside it once more.
const CONNECT_AGAIN: Duration = Duration::from_millis(400);

/// The shortest and the longest pause between two tries of one scheduler.
const QUICKEST: Duration = Duration::from_millis(100);
const SLOWEST: Duration = Duration::from_millis(500);

/// How many heartbeats are remembered for their answers.
const REMEMBERED: usize = 64;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum ControlError {
    #[error("cannot reach the scheduler: {0}")]
    Connection(String),
    #[error("the scheduler speaks version {0} of the control protocol, this node version {CONTROL_VERSION}")]
    Version(u32),
    #[error("the scheduler's account is {actual}, this node obeys {expected} only")]
    WrongScheduler { actual: Address, expected: String },
    #[error("the scheduler did not prove its key: {0}")]
    Unproven(String),
    #[error("the scheduler does not accept this node: {0}")]
    Rejected(String),
    #[error("the scheduler's lease does not fit this node's settings: {0}")]
    Lease(#[from] lease::LeaseConfigError),
    #[error("the scheduler sent something else than expected")]
    Unexpected,
    #[error("the scheduler does not answer")]
    Silent,
}

/// What the connection says about the node.
pub(crate) struct Identity {
    pub(crate) account: Arc<Account>,
    pub(crate) node: NodeId,
    pub(crate) boot: BootId,
    pub(crate) url: String,
    pub(crate) capacity: Capacity,
    pub(crate) scheduler_addresses: Vec<Address>,
    pub(crate) lease: LeaseConfig,
    pub(crate) data: Option<Arc<ProgramData>>,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A scheduler that welcomed this node.
struct Connection<'a> {
    url: &'a str,
    socket: Socket,
    times: LeaseTimes,
}

/// Keeps a connection to one of the schedulers until `shutdown`.
pub(crate) async fn run(
    identity: Arc<Identity>,
    schedulers: Vec<String>,
    agent: AgentHandle,
    shutdown: CancellationToken,
) {
    let mut statements = Statements::default();
    let forever = async {
        loop {
            let connection = dial(&identity, &schedulers).await;
            let url = connection.url;
            if let Err(error) = session(&identity, connection, &agent, &mut statements).await {
                warn!(scheduler = url, %error, "the connection to the scheduler is over, looking for one that leads");
            }
            // One that welcomes and then ends every connection is not to be dialed without a pause.
            tokio::time::sleep(QUICKEST).await;
        }
    };
    let _: Option<std::convert::Infallible> = shutdown.run_until_cancelled(forever).await;
}

/// Dials all schedulers until one of them welcomes this node.
async fn dial<'a>(identity: &Identity, schedulers: &'a [String]) -> Connection<'a> {
    let tries = schedulers.iter().map(|url| Box::pin(keep_dialing(identity, url)));
    futures_util::future::select_all(tries).await.0
}

async fn keep_dialing<'a>(identity: &Identity, url: &'a str) -> Connection<'a> {
    let mut pause = QUICKEST;
    loop {
        let greeted = timeout(HANDSHAKE, connect(identity, url)).await.unwrap_or(Err(ControlError::Silent));
        match greeted {
            Ok((socket, times)) => return Connection { url, socket, times },
            Err(error) => warn!(scheduler = url, %error, "no connection to the scheduler, trying again"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(SLOWEST);
    }
}

async fn session(
    identity: &Identity,
    Connection { url, mut socket, times }: Connection<'_>,
    agent: &AgentHandle,
    statements: &mut Statements,
) -> Result<(), ControlError> {
    info!(scheduler = url, lease = ?times.lease(), "connected to the scheduler");
    statements.reconnected();
    let mut sent = Sent { statements, last: 0, heard: None, times: VecDeque::new() };
    let mut beat = interval(times.heartbeat());
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut answered = Instant::now();
    loop {
        tokio::select! {
            _ = beat.tick() => heartbeat(identity, agent, &mut socket, &mut sent).await?,
            () = agent.heartbeat_due() => heartbeat(identity, agent, &mut socket, &mut sent).await?,
            () = sleep_until(answered + times.patience()) => return Err(ControlError::Silent),
            frame = receive(&mut socket) => match frame? {
                FromScheduler::Poke => heartbeat(identity, agent, &mut socket, &mut sent).await?,
                FromScheduler::Grant(grant) => {
                    answered = Instant::now();
                    sent.heard = Some(grant.sequence);
                    let Some(at) = sent.at(grant.sequence) else { continue };
                    let times = granted_times(identity, &grant)?;
                    agent.granted(at, times, grant).await;
                }
                FromScheduler::Rejected { reason } => return Err(ControlError::Rejected(reason)),
                FromScheduler::Challenge(_) | FromScheduler::Welcome(_) => return Err(ControlError::Unexpected),
            },
        }
    }
}

/// What was sent: statements, and heartbeats with their times by this node's clock.
#[derive(Debug)]
struct Sent<'a> {
    statements: &'a mut Statements,
    last: u64,
    /// The newest grant that came.
    heard: Option<u64>,
    times: VecDeque<(u64, BootTime)>,
}

impl Sent<'_> {
    /// The next heartbeat's number. It counts as sent from now on, before the first byte leaves.
    fn next(&mut self) -> u64 {
        self.last += 1;
        self.times.push_back((self.last, clock::now()));
        if self.times.len() > REMEMBERED {
            self.times.pop_front();
        }
        self.last
    }

    fn at(&self, sequence: u64) -> Option<BootTime> {
        self.times.iter().find(|(number, _)| *number == sequence).map(|(_, at)| *at)
    }
}

async fn connect(identity: &Identity, url: &str) -> Result<(Socket, LeaseTimes), ControlError> {
    let address = format!("{}/api/v1/control", url.trim_end_matches('/').replacen("http", "ws", 1));
    let stream = connect_tcp(&address).await.map_err(|e| ControlError::Connection(e.to_string()))?;
    let _ = stream.set_nodelay(true);
    let upgraded = tokio_tungstenite::client_async_tls(&address, stream).await;
    let (mut socket, _) = upgraded.map_err(|e| ControlError::Connection(e.to_string()))?;
    let FromScheduler::Challenge(challenge) = receive(&mut socket).await? else { return Err(ControlError::Unexpected) };
    let hello = answer(identity, &challenge)?;
    send(&mut socket, &FromNode::Hello(hello.clone())).await?;
    let welcome = match receive(&mut socket).await? {
        FromScheduler::Welcome(welcome) => welcome,
        FromScheduler::Rejected { reason } => return Err(ControlError::Rejected(reason)),
        _ => return Err(ControlError::Unexpected),
    };
    welcome.verify(&challenge, &hello).map_err(|e| ControlError::Unproven(e.to_string()))?;
    Ok((socket, times(identity, &welcome)?))
}

/// Connects to the first of several tries: when a link is back, the next one is not late, as the kernel's own is.
async fn connect_tcp(address: &str) -> io::Result<TcpStream> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidInput, format!("{address} is no address of a scheduler"));
    let uri: http::Uri = address.parse().map_err(|_| invalid())?;
    let host = uri.host().ok_or_else(invalid)?.trim_matches(['[', ']']);
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("wss") { 443 } else { 80 });
    let mut again = interval(CONNECT_AGAIN);
    let mut tries = FuturesUnordered::new();
    loop {
        tokio::select! {
            _ = again.tick() => tries.push(TcpStream::connect((host, port))),
            Some(stream) = tries.next() => return stream,
        }
    }
}

fn answer(identity: &Identity, challenge: &Challenge) -> Result<Hello, ControlError> {
    if challenge.version != CONTROL_VERSION {
        return Err(ControlError::Version(challenge.version));
    }
    let obeyed = &identity.scheduler_addresses;
    if !obeyed.is_empty() && !obeyed.contains(&challenge.scheduler) {
        let expected = obeyed.iter().map(Address::as_str).collect::<Vec<_>>().join(", ");
        return Err(ControlError::WrongScheduler { actual: challenge.scheduler.clone(), expected });
    }
    let software = format!("aleph-node/{}", env!("CARGO_PKG_VERSION"));
    Ok(Hello::answer(
        &identity.account,
        challenge,
        identity.node,
        identity.boot.clone(),
        identity.url.clone(),
        software,
    ))
}

fn times(identity: &Identity, welcome: &Welcome) -> Result<LeaseTimes, ControlError> {
    Ok(LeaseTimes::new(LeaseConfig {
        heartbeat: Duration::from_millis(welcome.heartbeat_ms),
        lease: Duration::from_millis(welcome.lease_ms),
        ..identity.lease
    })?)
}

/// The constants with the length of this very grant.
fn granted_times(identity: &Identity, grant: &Grant) -> Result<LeaseTimes, ControlError> {
    let lease = Duration::from_millis(grant.lease_ms);
    Ok(LeaseTimes::new(LeaseConfig { lease, heartbeat: lease / 5, ..identity.lease })?)
}

async fn heartbeat(
    identity: &Identity,
    agent: &AgentHandle,
    socket: &mut Socket,
    sent: &mut Sent<'_>,
) -> Result<(), ControlError> {
    let Some((applied, programs)) = agent.reports().await else { return Err(ControlError::Unexpected) };
    let news = sent.statements.of(&identity.account, identity.node, &programs, chrono::Utc::now());
    if !news.is_empty() {
        send(socket, &FromNode::Statements { statements: news }).await?;
    }
    let heard = sent.heard;
    let data = identity.data.as_ref().map(|data| data.reports()).unwrap_or_default();
    let sequence = sent.next();
    let heartbeat =
        Heartbeat { sequence, capacity: identity.capacity.clone(), applied, programs, draining: None, data, heard };
    send(socket, &FromNode::Heartbeat(heartbeat)).await
}

async fn send(socket: &mut Socket, frame: &FromNode) -> Result<(), ControlError> {
    let text = serde_json::to_string(frame).expect("a frame is JSON");
    socket.send(Message::text(text)).await.map_err(|e| ControlError::Connection(e.to_string()))
}

async fn receive(socket: &mut Socket) -> Result<FromScheduler, ControlError> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => {
                return serde_json::from_str(&text)
                    .map_err(|e| ControlError::Connection(format!("unreadable frame: {e}")));
            }
            Some(Ok(Message::Close(_))) | None => {
                return Err(ControlError::Connection("the scheduler closed the connection".to_owned()));
            }
            Some(Ok(_)) => {}
            Some(Err(e)) => return Err(ControlError::Connection(e.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heartbeats_count_from_their_sending_and_old_ones_are_forgotten() {
        let mut statements = Statements::default();
        let mut sent = Sent { statements: &mut statements, last: 0, heard: None, times: VecDeque::new() };
        let before = clock::now();
        assert_eq!(sent.next(), 1);
        assert!(sent.at(1).unwrap() >= before);
        for _ in 0..REMEMBERED {
            sent.next();
        }
        assert_eq!(sent.at(1), None);
        assert!(sent.at(2).is_some());
    }
}

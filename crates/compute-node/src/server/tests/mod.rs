//! The gateway between raw bytes on both sides: a client on TCP, and a program on the Unix socket of its sandbox.

mod bodies;
mod broken_programs;
mod http2;
mod slow_clients;
mod smuggling;
mod wire;

use std::collections::VecDeque;

use futures_util::FutureExt;
use protocol::client::MessageNode;
use protocol::{Epoch, ProgramId};
use tempfile::TempDir;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

use self::wire::{Wire, soon};
use super::*;
use crate::agent::AgentHandle;
use crate::core::on_demand::CopyId;
use crate::core::persistent::Assignment;
use crate::gateway::Routes;
use crate::metrics::Metrics;
use crate::programs::catalog::Catalog;
use crate::programs::endpoint::{Endpoint, Endpoints};
use crate::programs::sandboxes::Owner;

/// Times that are short for people and long for a machine.
const SHORT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(30);

/// What a test can set.
#[derive(Clone, Copy)]
struct Settings {
    epoch: Option<Epoch>,
    request_limit: Duration,
    is_gateway_only: bool,
    limits: ClientLimits,
}

impl Default for Settings {
    fn default() -> Self {
        let limits = ClientLimits { header_bytes: 16 << 10, header_timeout: LONG, idle_timeout: LONG };
        Self { epoch: Some(Epoch::FIRST), request_limit: LONG, is_gateway_only: false, limits }
    }
}

/// A gateway in front of one program.
struct World {
    program: ProgramId,
    address: SocketAddr,
    endpoint: Arc<Endpoint>,
    sandbox: UnixListener,
    shutdown: CancellationToken,
    server: JoinHandle<()>,
    metrics: Arc<Metrics>,
    _folder: TempDir,
}

impl World {
    async fn new() -> Self {
        Self::with(Settings::default()).await
    }

    async fn with(settings: Settings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("http.sock");
        let sandbox = UnixListener::bind(&socket).unwrap();
        let program = ProgramId::from_bytes([7; 32]);
        let owner = match settings.epoch {
            Some(epoch) => Owner::Persistent(Assignment { program, epoch }),
            None => Owner::OnDemand(CopyId { program, number: 0 }),
        };
        let endpoint = Endpoint::new(owner, settings.request_limit, socket, None);
        let endpoints = Arc::new(Endpoints::default());
        endpoints.insert(endpoint.clone());
        // Nobody listens there: what does not run here is nowhere.
        let catalog = Catalog::new(MessageNode::new("http://127.0.0.1:1"));
        let (agent, _) = AgentHandle::new(endpoints);
        let metrics = Metrics::new();
        let waits = (SHORT, settings.limits.idle_timeout);
        let gateway = Gateway::new(catalog, Routes::new(&[]), Some(agent), waits, metrics.clone());
        let api = Router::new().route("/health", axum::routing::get(async || "healthy"));
        let Settings { is_gateway_only, limits, .. } = settings;
        let api_runtime = tokio::runtime::Handle::current();
        let services = Arc::new(Services { gateway, api, api_runtime, is_gateway_only, limits });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, shutdown) = (listener.local_addr().unwrap(), CancellationToken::new());
        let server =
            tokio::spawn(serve(listener, services, shutdown.clone()).map(|served| served.expect("there are threads")));
        Self { program, address, endpoint, sandbox, shutdown, server, metrics, _folder: folder }
    }

    /// A client's connection.
    async fn client(&self) -> Wire<TcpStream> {
        Wire::new(TcpStream::connect(self.address).await.unwrap())
    }

    /// The next connection that the gateway makes to the program.
    async fn program(&self) -> Wire<UnixStream> {
        Wire::new(soon("the gateway connects to the program", self.sandbox.accept()).await.unwrap().0)
    }

    /// What a test writes, with the path of the program for `{P}` and the label of its host for `{L}`.
    fn fill(&self, text: &str) -> String {
        text.replace("{P}", &format!("/vm/{}", self.program)).replace("{L}", &self.program.host_label())
    }

    /// Sends a request of one line and waits until the program has its head.
    async fn ask(&self, line: &str) -> (Wire<TcpStream>, Wire<UnixStream>) {
        let mut client = self.client().await;
        client.send(self.fill(&format!("{line} HTTP/1.1\r\nHost: x\r\n\r\n"))).await;
        let mut program = self.program().await;
        program.head().await;
        (client, program)
    }

    /// Waits until no request is inside the program.
    async fn is_empty(&self) {
        soon("nobody is inside the program", self.endpoint.empty()).await;
    }
}

/// A request, as a program that reads exactly what the standard says sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    line: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl Seen {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Reads one request strictly; `None` when the connection ends before or within it.
async fn read_request(wire: &mut Wire<UnixStream>) -> Option<Seen> {
    let head = wire.try_until("\r\n\r\n").await?;
    let mut lines: VecDeque<_> = head.trim_end_matches("\r\n").split("\r\n").map(str::to_owned).collect();
    let line = lines.pop_front().unwrap();
    assert_eq!(line.split(' ').count(), 3, "a request line has three parts: {line:?}");
    let headers: Vec<_> = lines
        .iter()
        .map(|header| header.split_once(": ").unwrap_or_else(|| panic!("no header: {header:?} in {head:?}")))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    assert!(!head.replace("\r\n", "").contains(['\r', '\n', '\0']), "it has line breaks of other kinds: {head:?}");
    let all = |name: &str| headers.iter().filter(|(key, _)| key == name).map(|(_, v)| v.clone()).collect::<Vec<_>>();
    assert_eq!(all("host").len(), 1, "a request has one host: {head:?}");
    let (lengths, codings) = (all("content-length"), all("transfer-encoding"));
    assert!(lengths.len() + codings.len() <= 1, "a body has one length: {head:?}");
    let body = match (lengths.first(), codings.first()) {
        (Some(length), _) => wire.try_exactly(length.parse().unwrap()).await?,
        (_, Some(coding)) => {
            assert_eq!(coding, "chunked");
            read_chunks(wire).await?
        }
        _ => String::new(),
    };
    Some(Seen { line, headers, body })
}

async fn read_chunks(wire: &mut Wire<UnixStream>) -> Option<String> {
    let mut body = String::new();
    loop {
        let size = wire.try_until("\r\n").await?;
        let size =
            usize::from_str_radix(size.trim_end(), 16).unwrap_or_else(|_| panic!("no size of a chunk: {size:?}"));
        if size == 0 {
            // Trailers are for tests that look at bytes.
            assert_eq!(wire.try_until("\r\n").await?, "\r\n");
            return Some(body);
        }
        body.push_str(&wire.try_exactly(size).await?);
        assert_eq!(wire.try_exactly(2).await?, "\r\n");
    }
}

#[tokio::test]
async fn what_clients_say_about_others_is_believed_of_this_machine_only() {
    let world = World::new().await;
    let services = || {
        Arc::new(Services {
            gateway: Gateway::new(
                Catalog::new(MessageNode::new("http://127.0.0.1:1")),
                Routes::new(&[]),
                None,
                (SHORT, SHORT),
                world.metrics.clone(),
            ),
            api: Router::new(),
            api_runtime: tokio::runtime::Handle::current(),
            is_gateway_only: false,
            limits: Settings::default().limits,
        })
    };
    let noted = |peer: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(FORWARDED_FOR, HeaderValue::from_static("198.51.100.7"));
        Client::new(services(), peer.parse().unwrap()).note_origin(&mut headers);
        headers
    };
    assert_eq!(noted("127.0.0.1:5")[FORWARDED_FOR], "198.51.100.7");
    assert_eq!(noted("203.0.113.9:5")[FORWARDED_FOR], "203.0.113.9");
    assert_eq!(noted("203.0.113.9:5")[FORWARDED_PROTO], "http");
}

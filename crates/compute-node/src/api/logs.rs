//! A program's output, for its owner: requests are signed as the Aleph clients do (see [`protocol::signed_request`]).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{OriginalUri, Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{Json, Response};
use chrono::Utc;
use protocol::api::compute_node::{LogEntry, LogStreamFrame, LogStreamRequest, LogStreamStatus};
use protocol::signed_request::{OPERATION_HEADER, PUBKEY_HEADER, ReceivedRequest, SignedRequestError, verify};
use protocol::{Address, ProgramId};
use sandbox::logs::{LogFollower, LogLine, read_tail};
use serde::Deserialize;
use tokio::time::{sleep, timeout};

use super::{ApiError, ApiState};
use crate::programs::catalog::Lookup;

/// Lines that are given when the request names no number, and the most that it can name.
const DEFAULT_TAIL: usize = 1000;
const MAX_TAIL: usize = 100_000;

/// How often a followed log is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// How long a client has to say who it is.
const AUTH_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
pub(super) struct TailQuery {
    tail: Option<usize>,
}

/// `GET /control/machine/{program}/logs?tail=N`.
pub(super) async fn read(
    State(state): State<Arc<ApiState>>,
    Path(program): Path<String>,
    Query(query): Query<TailQuery>,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
) -> Result<Json<Vec<LogEntry>>, ApiError> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let received = |domain| ReceivedRequest {
        pubkey: header(PUBKEY_HEADER),
        operation: header(OPERATION_HEADER),
        method: "GET",
        path: uri.path(),
        domain,
    };
    let signer = signer(&state, received).map_err(auth_error)?;
    let program = owned(&state, &program, &signer).await?;
    let tail = query.tail.unwrap_or(DEFAULT_TAIL).min(MAX_TAIL);
    let lines = tail_of(state.sandboxes.log_directory(program), tail).await?;
    Ok(Json(lines.into_iter().map(|line| entry(program, line)).collect()))
}

/// `GET /control/machine/{program}/stream_logs`, a WebSocket: the client's first message proves who it is.
pub(super) async fn stream(
    State(state): State<Arc<ApiState>>,
    Path(program): Path<String>,
    Query(query): Query<TailQuery>,
    OriginalUri(uri): OriginalUri,
    upgrade: WebSocketUpgrade,
) -> Response {
    upgrade.on_upgrade(async move |mut socket| {
        match authenticate(&state, &mut socket, &program, uri.path()).await {
            Ok(program) => {
                let directory = state.sandboxes.log_directory(program);
                // Whoever listens may go at any time.
                let _ = follow(&mut socket, directory, query.tail.unwrap_or(0).min(MAX_TAIL)).await;
            }
            Err(reason) => {
                let frame = LogStreamFrame::Status { status: LogStreamStatus::Failed, reason: Some(reason) };
                let _ = socket.send(text(&frame)).await;
            }
        }
    })
}

async fn authenticate(
    state: &ApiState,
    socket: &mut WebSocket,
    program: &str,
    path: &str,
) -> Result<ProgramId, String> {
    let frame = timeout(AUTH_TIMEOUT, socket.recv()).await.map_err(|_| "no message with `auth` came in time")?;
    let Some(Ok(Message::Text(frame))) = frame else { return Err("expected a message with `auth`".to_owned()) };
    let request: LogStreamRequest =
        serde_json::from_str(&frame).map_err(|e| format!("expected a message with `auth`: {e}"))?;
    let (pubkey, operation) = (request.auth.pubkey.to_string(), request.auth.operation.to_string());
    let received =
        |domain| ReceivedRequest { pubkey: Some(&pubkey), operation: Some(&operation), method: "GET", path, domain };
    let signer = signer(state, received).map_err(|e| e.to_string())?;
    let program = owned(state, program, &signer).await.map_err(|e| e.1)?;
    let connected = LogStreamFrame::Status { status: LogStreamStatus::Connected, reason: None };
    socket.send(text(&connected)).await.map_err(|e| e.to_string())?;
    Ok(program)
}

/// Sends what is there and what comes, until the client goes.
async fn follow(socket: &mut WebSocket, directory: PathBuf, tail: usize) -> Result<(), axum::Error> {
    let mut follower = LogFollower::from_end(&directory);
    if tail > 0 {
        for line in tail_of(directory, tail).await.unwrap_or_default() {
            socket.send(text(&frame(line))).await?;
        }
    }
    loop {
        let (returned, lines) = tokio::task::spawn_blocking(move || {
            let lines = follower.read_new();
            (follower, lines)
        })
        .await
        .expect("it does not panic");
        follower = returned;
        for line in lines.unwrap_or_default() {
            socket.send(text(&frame(line))).await?;
        }
        tokio::select! {
            () = sleep(LOOK) => {}
            frame = socket.recv() => if !matches!(frame, Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Text(_)))) {
                return Ok(());
            },
        }
    }
}

/// Who signed a request, for any of the names of this node.
fn signer<'a>(
    state: &'a ApiState,
    received: impl Fn(&'a str) -> ReceivedRequest<'a>,
) -> Result<Address, SignedRequestError> {
    let now = Utc::now();
    let mut error = SignedRequestError::Missing(PUBKEY_HEADER);
    for domain in &state.domains {
        match verify(&received(domain), now) {
            Ok(signer) => return Ok(signer),
            Err(e) => error = e,
        }
    }
    Err(error)
}

fn auth_error(error: SignedRequestError) -> ApiError {
    let status = if error.is_malformed() { StatusCode::BAD_REQUEST } else { StatusCode::UNAUTHORIZED };
    ApiError(status, error.to_string())
}

/// The program, if the signer is its owner or acts for its owner.
async fn owned(state: &ApiState, program: &str, signer: &Address) -> Result<ProgramId, ApiError> {
    let id: ProgramId = program
        .parse()
        .map_err(|_| ApiError(StatusCode::BAD_REQUEST, format!("Invalid message reference: {program}")))?;
    let program = match state.catalog.lookup(id).await {
        Ok(Lookup::Found(program)) => program,
        Ok(_) => return Err(ApiError(StatusCode::NOT_FOUND, format!("No virtual machine with ref {id}"))),
        Err(error) => return Err(ApiError(StatusCode::SERVICE_UNAVAILABLE, error.to_string())),
    };
    let owner = &program.content.address;
    if signer == owner || acts_for(state, signer, owner).await? {
        return Ok(id);
    }
    Err(ApiError(StatusCode::FORBIDDEN, format!("Unauthorized sender: {signer} is not the owner of the program")))
}

/// Whether the owner's `security` aggregate lets somebody act for its programs.
async fn acts_for(state: &ApiState, signer: &Address, owner: &Address) -> Result<bool, ApiError> {
    #[derive(Deserialize)]
    struct Security {
        #[serde(default)]
        authorizations: Vec<Authorization>,
    }
    #[derive(Deserialize)]
    struct Authorization {
        address: Address,
        #[serde(default)]
        types: Vec<String>,
    }
    let security: Option<Security> = state
        .message_node
        .aggregate(owner.as_str(), "security")
        .await
        .map_err(|e| ApiError(StatusCode::SERVICE_UNAVAILABLE, e.to_string()))?;
    // aleph-vm asks for INSTANCE also where programs are concerned.
    let covers =
        |types: &[String]| types.is_empty() || types.iter().any(|kind| kind == "PROGRAM" || kind == "INSTANCE");
    Ok(security.is_some_and(|s| s.authorizations.iter().any(|a| a.address == *signer && covers(&a.types))))
}

async fn tail_of(directory: PathBuf, lines: usize) -> Result<Vec<LogLine>, ApiError> {
    let read = tokio::task::spawn_blocking(move || read_tail(&directory, lines)).await.expect("it does not panic");
    read.map_err(|e| ApiError(StatusCode::INTERNAL_SERVER_ERROR, format!("the log cannot be read: {e}")))
}

fn entry(program: ProgramId, line: LogLine) -> LogEntry {
    LogEntry {
        identifier: format!("vm-{program}-{}", line.source.as_str()),
        message: line.message,
        file: line.source,
        realtime_timestamp: line.time_micros.to_string(),
    }
}

fn frame(line: LogLine) -> LogStreamFrame {
    LogStreamFrame::Line { source: line.source, message: line.message, time: Some(line.time_micros) }
}

fn text(frame: &LogStreamFrame) -> Message {
    Message::Text(serde_json::to_string(frame).expect("a frame is JSON").into())
}

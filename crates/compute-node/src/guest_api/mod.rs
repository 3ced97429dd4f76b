//! The guest API: HTTP by a Unix socket in each sandbox, by which a program asks the node that it runs on.
//!
//! ```text
//!  program ─ /tmp/socat-socket ─▶ api/sock in the sandbox's directory ─▶ this module ─▶ routes ─▶ Flush
//! ```
//! Who asks is known by the socket that it came by; nothing in a request is believed. The directory with the socket is
//! mounted into the sandbox, read-only: the next agent puts its own socket in the old one's place and is found.
//!
//! A program can do anything to its socket, so everything about it is bounded: connections, requests in a second, sizes,
//! waits. Whoever exceeds a bound waits; others do not notice.

mod flush;
mod pace;
mod routes;

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use protocol::NodeId;
use sandbox::layout::SandboxDirectory;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OnceCell, Semaphore};
use tokio::task::{JoinHandle, JoinSet};
use tower::ServiceExt;
use tracing::{debug, warn};

pub(crate) use flush::{Flush, FlushError};
use pace::Pace;

use crate::programs::sandboxes::Owner;

/// How many connections a sandbox may have. Those beyond wait in the socket's queue.
const MAX_CONNECTIONS: usize = 32;

/// How long a program may take to send a request's head, or to send another request by the same connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of a request's head, and of answers that were not taken yet. Bodies are not read.
const MAX_BUFFER: usize = 16 << 10;

/// What answers the programs of this node.
#[derive(Debug)]
pub(crate) struct GuestApi<F> {
    node: Arc<OnceCell<NodeId>>,
    /// None on a node that keeps no data.
    flush: Option<Arc<F>>,
}

/// One sandbox's socket; it is answered as long as this is held.
#[derive(Debug)]
pub(crate) struct Answering(JoinHandle<()>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<F: Flush> GuestApi<F> {
    pub(crate) fn new(node: Arc<OnceCell<NodeId>>, flush: Option<Arc<F>>) -> Self {
        Self { node, flush }
    }

    /// Answers the sandbox in this directory, in the place of an agent before this one if there was one.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub(crate) fn answer(&self, owner: Owner, directory: &SandboxDirectory) -> io::Result<Answering> {
        let listener = listen(directory)?;
        let router = routes::router(owner, self.node.clone(), self.flush.clone());
        Ok(Answering(tokio::spawn(accept(listener, router, owner))))
    }
}

/// The socket is complete before it has its name: a program that looks for it never finds one that it cannot use.
fn listen(directory: &SandboxDirectory) -> io::Result<UnixListener> {
    fs::DirBuilder::new().recursive(true).mode(0o711).create(directory.api())?;
    let new = directory.api().join("new");
    match fs::remove_file(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(&new)?;
    // To every user of the sandbox. Of the machine's, only those who may enter the directory.
    fs::set_permissions(&new, fs::Permissions::from_mode(0o666))?;
    fs::rename(&new, directory.api_socket())?;
    Ok(listener)
}

async fn accept(listener: UnixListener, router: Router, owner: Owner) {
    let (room, pace) = (Arc::new(Semaphore::new(MAX_CONNECTIONS)), Arc::new(Pace::default()));
    let mut connections = JoinSet::new();
    loop {
        let place = room.clone().acquire_owned().await.expect("it is never closed");
        pace.turn().await;
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: connections that end make room.
                warn!(program = %owner.program(), %error, "cannot accept a connection to the guest API");
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let (router, pace) = (router.clone(), pace.clone());
        connections.spawn(async move {
            if let Err(error) = serve(stream, router, pace).await {
                debug!(program = %owner.program(), %error, "a connection to the guest API ended");
            }
            drop(place);
        });
    }
}

async fn serve(stream: UnixStream, router: Router, pace: Arc<Pace>) -> hyper::Result<()> {
    let service = service_fn(move |request: Request<Incoming>| {
        let (router, pace) = (router.clone(), pace.clone());
        async move {
            pace.turn().await;
            router.oneshot(request.map(Body::new)).await
        }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_BUFFER)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileTypeExt;

    use protocol::ProgramId;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::core::on_demand::CopyId;
    use crate::programs::data::ProgramData;

    const ON_DEMAND: Owner = Owner::OnDemand(CopyId::first(ProgramId::from_bytes([1; 32])));

    fn api() -> GuestApi<ProgramData> {
        GuestApi::new(Arc::default(), None)
    }

    /// One request by a connection of its own; the whole answer.
    async fn ask(directory: &SandboxDirectory) -> String {
        let mut stream = UnixStream::connect(directory.api_socket()).await.unwrap();
        stream.write_all(b"GET /properties HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn the_next_agent_takes_the_sockets_place() {
        let folder = tempfile::tempdir().unwrap();
        let directory = SandboxDirectory::new(folder.path());
        let first = api().answer(ON_DEMAND, &directory).unwrap();
        assert!(ask(&directory).await.starts_with("HTTP/1.1 200"));
        let socket = fs::symlink_metadata(directory.api_socket()).unwrap();
        assert!(socket.file_type().is_socket() && socket.permissions().mode() & 0o777 == 0o666);
        drop(first);
        // The one before died between two steps.
        fs::write(directory.api().join("new"), "").unwrap();
        let _second = api().answer(ON_DEMAND, &directory).unwrap();
        assert!(ask(&directory).await.starts_with("HTTP/1.1 200"));
        assert_eq!(fs::read_dir(directory.api()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn who_takes_all_connections_waits_for_one_of_them() {
        let folder = tempfile::tempdir().unwrap();
        let directory = SandboxDirectory::new(folder.path());
        let _answering = api().answer(ON_DEMAND, &directory).unwrap();
        let mut idle = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            idle.push(UnixStream::connect(directory.api_socket()).await.unwrap());
        }
        let mut waiting = std::pin::pin!(ask(&directory));
        let soon = tokio::time::timeout(Duration::from_millis(300), &mut waiting).await;
        assert!(soon.is_err(), "there is no room");
        idle.pop();
        assert!(waiting.await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn heads_are_limited_and_bodies_are_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let directory = SandboxDirectory::new(folder.path());
        let _answering = api().answer(ON_DEMAND, &directory).unwrap();
        let send = async |head: String, body: usize| {
            let mut stream = UnixStream::connect(directory.api_socket()).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            // It may be refused before all of it is sent.
            let sent = stream.write_all(&vec![b'x'; body]).await;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            (sent, String::from_utf8_lossy(&answer).into_owned())
        };
        let (_, answer) = send(format!("GET /{} HTTP/1.1\r\n", "x".repeat(MAX_BUFFER)), 0).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
        let endless = "POST /volumes/flush HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n".to_owned();
        let (sent, _) = send(endless, 64 << 20).await;
        assert!(sent.is_err(), "nobody takes 64 MiB of body");
        assert!(ask(&directory).await.starts_with("HTTP/1.1 200"), "others go on");
    }
}

//! The operator's side of the socket.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use protocol::data::SnapshotId;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio_util::task::AbortOnDropHandle;

use super::answers::{ProgramList, ProgramVolumes};
use super::{EXPORTED, FOLDER, SOCKET, open_folder, short};

/// The longest answer that is read, in bytes; archives have no limit.
const MAX_ANSWER: usize = 256 << 20;

/// Why the operator does not get an answer.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Somebody else asks.
    #[error("only root may ask the compute node with the data directory {}: run this as root", .0.display())]
    NotRoot(PathBuf),
    /// There never was one.
    #[error(
        "no compute node has run with the data directory {}: name its directory with --data-dir (those of \
         `aleph-node up` are nodes/1, nodes/2, … in the network's)", .0.display()
    )]
    NoNode(PathBuf),
    /// It has ended.
    #[error("the compute node with the data directory {} does not run: start it", .0.display())]
    NotRunning(PathBuf),
    /// The operating system refused.
    #[error("cannot reach the compute node with the data directory {}: {source}", data_dir.display())]
    Unreachable {
        /// Its directory.
        data_dir: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The node said no, and why.
    #[error("{0}")]
    Refused(String),
    /// The node ended in the middle of an answer, or gave up an export.
    #[error("the compute node broke off: {0}; its log says why")]
    BrokenOff(#[from] hyper::Error),
    /// It said something else.
    #[error("the compute node's answer cannot be read: {0}; is it of another version?")]
    Malformed(String),
}

/// Which copy of a program's volumes to take out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// What was written last, as far as the node knows.
    Newest,
    /// This snapshot.
    Snapshot(SnapshotId),
    /// The recovery point with this number.
    RecoveryPoint(u64),
}

/// A tar archive on its way.
#[derive(Debug)]
pub struct Export {
    /// Which copy it is of, for people.
    pub what: String,
    body: Incoming,
}

impl Export {
    /// The next bytes; `None` at the end of an archive that is complete.
    ///
    /// # Errors
    /// [`AdminError::BrokenOff`] when it is not.
    pub async fn next(&mut self) -> Result<Option<Bytes>, AdminError> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(bytes) = frame?.into_data() {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }
}

/// A connection to the node of a data directory.
#[derive(Debug)]
pub struct AdminClient {
    requests: SendRequest<Empty<Bytes>>,
    _connection: AbortOnDropHandle<()>,
}

impl AdminClient {
    /// Connects to the node that runs with this data directory on this machine.
    ///
    /// # Errors
    /// When none runs, or the caller is not root.
    pub async fn connect(data_dir: &Path) -> Result<Self, AdminError> {
        let failed = |error: io::Error| {
            let data_dir = data_dir.to_owned();
            match error.kind() {
                io::ErrorKind::PermissionDenied => AdminError::NotRoot(data_dir),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => AdminError::NoNode(data_dir),
                io::ErrorKind::ConnectionRefused => AdminError::NotRunning(data_dir),
                _ => AdminError::Unreachable { data_dir, source: error },
            }
        };
        let folder = open_folder(&data_dir.join(FOLDER)).map_err(failed)?;
        let stream = UnixStream::connect(short(&folder).join(SOCKET)).await.map_err(failed)?;
        let (requests, connection) = handshake(TokioIo::new(stream)).await?;
        // Its errors are those of the requests.
        let connection = AbortOnDropHandle::new(tokio::spawn(async move { drop(connection.await) }));
        Ok(Self { requests, _connection: connection })
    }

    /// What the node has: of all programs, or of one.
    ///
    /// # Errors
    /// When it has nothing of that one, or does not answer.
    pub async fn list(&mut self, program: Option<&str>) -> Result<ProgramList, AdminError> {
        match program {
            None => self.ask(Method::GET, "/volumes").await,
            Some(program) => {
                let program = self.ask(Method::GET, &path(program, "")?).await?;
                Ok(ProgramList { programs: vec![program] })
            }
        }
    }

    /// Keeps the data of a program that was forgotten.
    ///
    /// # Errors
    /// When it is not forgotten, that was too long ago, or the node has nothing of it.
    pub async fn undelete(&mut self, program: &str) -> Result<ProgramVolumes, AdminError> {
        self.ask(Method::POST, &path(program, "/undelete")?).await
    }

    /// Takes that back.
    ///
    /// # Errors
    /// When it was not undeleted, or the node has nothing of it.
    pub async fn forget(&mut self, program: &str) -> Result<ProgramVolumes, AdminError> {
        self.ask(Method::POST, &path(program, "/forget")?).await
    }

    /// A copy of all volumes of a program, as a tar archive.
    ///
    /// # Errors
    /// When the node has no such copy.
    pub async fn export(&mut self, program: &str, wanted: Wanted) -> Result<Export, AdminError> {
        let query = match wanted {
            Wanted::Newest => String::new(),
            Wanted::Snapshot(id) => format!("?snapshot={id}"),
            Wanted::RecoveryPoint(number) => format!("?recovery_point={number}"),
        };
        let answer = self.send(Method::GET, &path(program, &format!("/export{query}"))?).await?;
        let what = answer.headers().get(EXPORTED).and_then(|value| value.to_str().ok());
        let what = what.ok_or_else(|| AdminError::Malformed("it does not say what it is".to_owned()))?.to_owned();
        Ok(Export { what, body: answer.into_body() })
    }

    async fn ask<T: DeserializeOwned>(&mut self, method: Method, path: &str) -> Result<T, AdminError> {
        let answer = self.send(method, path).await?;
        serde_json::from_slice(&read(answer).await?).map_err(|e| AdminError::Malformed(e.to_string()))
    }

    async fn send(&mut self, method: Method, path: &str) -> Result<Response<Incoming>, AdminError> {
        let request = Request::builder().method(method).uri(path).header(http::header::HOST, "localhost");
        let request = request.body(Empty::new()).map_err(|e| AdminError::Malformed(e.to_string()))?;
        let answer = self.requests.send_request(request).await?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        #[derive(Deserialize)]
        struct No {
            error: String,
        }
        let status = answer.status();
        match serde_json::from_slice::<No>(&read(answer).await?) {
            Ok(no) => Err(AdminError::Refused(no.error)),
            Err(_) => Err(AdminError::Malformed(status.to_string())),
        }
    }
}

/// A path about a program, whose name is what somebody wrote on a command line.
fn path(program: &str, rest: &str) -> Result<String, AdminError> {
    if program.is_empty() || !program.bytes().all(|b| b.is_ascii_alphanumeric()) {
        let message = format!("'{program}' names no program: write its id, or the first 8 digits or more of it");
        return Err(AdminError::Refused(message));
    }
    Ok(format!("/volumes/{program}{rest}"))
}

async fn read(answer: Response<Incoming>) -> Result<Bytes, AdminError> {
    let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
    body.map(http_body_util::Collected::to_bytes).map_err(|e| AdminError::Malformed(e.to_string()))
}

//! What runs inside a sandbox, and what the supervisor outside says to it.
//!
//! The init (`aleph-init`, process 1 of the sandbox) is started with these open files:
//!
//! | descriptor | what |
//! | --- | --- |
//! | [`CONTROL_FD`] | a stream socket to the supervisor: one JSON message a line, [`ToGuest`] in, [`FromGuest`] out |
//! | [`LISTENER_FD`] | the listening Unix socket through which requests enter, unless it is told to make it ([`LISTEN`]) |
//! | 1 and 2 | pipes to the supervisor: the program's output |
//!
//! ```text
//!             Configure          program answers
//!   waiting ────────────▶ starting ────────────▶ ready
//!    │  ▲ │                  │                     │
//!    │  │ │ control closed   │ cannot start        │ program ends, or Stop
//!    │  │ ▼                  ▼                     ▼
//!    │  │ exit           Failed, exit          Exited, exit
//!    ▼  │
//!  warming     by Warm, until an interpreter waits or cannot
//! ```
//! Where the supervisor cannot reach into the sandbox, [`ToGuest::SetUp`] comes before [`ToGuest::Configure`], and the init does
//! it with capabilities that it has until then, in the kernel of the sandbox.
//!
//! Only the supervisor moves it forward. When process 1 exits the kernel kills everything else in the sandbox.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The descriptor of the control socket.
pub const CONTROL_FD: i32 = 3;
/// The descriptor of the socket that requests arrive at.
pub const LISTENER_FD: i32 = 4;

/// The argument after which the path stands at which the init makes the listening socket itself. Nobody passes it then.
pub const LISTEN: &str = "--listen";

/// Where the code of the program is mounted.
pub const CODE_DIRECTORY: &str = "/opt/code";
/// Where this crate's files are mounted: the init, the ASGI glue and the server it uses.
pub const GUEST_DIRECTORY: &str = "/opt/aleph";
/// Where the directory with the guest API's socket is mounted. The socket itself is in a directory, so that the next agent
/// can put a new one in its place.
pub const API_DIRECTORY: &str = "/opt/aleph-api";
/// The guest API's socket in [`API_DIRECTORY`].
pub const API_SOCKET: &str = "sock";
/// Where programs expect the guest API's socket (Aleph runtimes: `init0.sh`): a link to the one in [`API_DIRECTORY`].
pub const API_LINK: &str = "/tmp/socat-socket";
/// The port that a binary listens on when the program's variables do not name another in `PORT`.
pub const DEFAULT_PORT: u16 = 8080;

/// The variables that every program has, unless it sets them itself, and that an interpreter waits with.
pub fn base_environment() -> Vec<(String, String)> {
    let variables = [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOME", "/root"),
        ("LANG", "C.UTF-8"),
        // What a program prints is in its log at once.
        ("PYTHONUNBUFFERED", "1"),
        // The code cannot be written to, so Python need not try.
        ("PYTHONDONTWRITEBYTECODE", "1"),
    ];
    variables.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec()
}

/// The longest message on the control socket, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// From the supervisor to the init.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToGuest {
    /// Have an interpreter with the server and the image's own modules wait for an ASGI program. Sent once or not at all,
    /// before [`ToGuest::Configure`].
    Warm,
    /// Make the sandbox the program's, and give up every capability. Sent once before [`ToGuest::Configure`], or not at all,
    /// where the supervisor does it.
    SetUp(SetUp),
    /// Become this program. Sent once, after code and limits are in place.
    Configure(Configure),
    /// End the program: SIGTERM, and SIGKILL after the grace.
    Stop {
        /// How long the program has, in milliseconds.
        grace_ms: u64,
    },
}

/// What makes a sandbox a program's, beside its limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetUp {
    /// Its host name.
    pub host_name: String,
    /// Code and volumes, one that lies in another after it.
    pub mounts: Vec<Placed>,
    /// What `/etc/resolv.conf` says; it stays as it is when there are none.
    pub name_servers: Vec<Ipv4Addr>,
}

/// A directory of the sandbox that is to be somewhere else in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// Where it is.
    pub from: PathBuf,
    /// Where the program sees it.
    pub to: PathBuf,
}

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configure {
    /// How requests reach it.
    pub interface: Interface,
    /// Its whole environment.
    pub environment: Vec<(String, String)>,
}

/// How requests reach the program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Interface {
    /// A Python application, served by uvicorn.
    Asgi {
        /// The module, as `package.module`.
        module: String,
        /// The application in it, as `app` or `object.app`.
        attribute: String,
    },
    /// An executable that listens on a port of the loopback interface.
    Binary {
        /// Its path below [`CODE_DIRECTORY`].
        path: String,
        /// Its arguments.
        arguments: Vec<String>,
        /// The port.
        port: u16,
    },
}

/// From the init to the supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromGuest {
    /// The init waits for [`ToGuest::Configure`].
    Waiting,
    /// An interpreter waits, too; or the image has none, and why.
    Warmed {
        /// Why none waits.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<String>,
    },
    /// The sandbox could not be made the program's.
    SetUpFailed {
        /// What was tried and what the kernel said.
        message: String,
    },
    /// The program answers requests.
    Ready,
    /// The program could not be started.
    Failed {
        /// What kind of failure.
        kind: StartFailure,
        /// For the owner; the end of a Python traceback, for example.
        message: String,
    },
    /// The program ended by itself or was stopped.
    Exited {
        /// Its exit code, unless a signal ended it.
        code: Option<i32>,
        /// The signal that ended it.
        signal: Option<i32>,
    },
}

/// Why a program could not be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartFailure {
    /// The runtime image lacks what the interface needs.
    Runtime,
    /// The entrypoint is not there or cannot be executed.
    Entrypoint,
    /// The code raised while it was imported or started.
    Startup,
}

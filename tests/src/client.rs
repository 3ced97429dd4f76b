//! The client `aleph`, run as a process.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

use crate::{Network, binary};

/// A configured client: one account on one network.
#[derive(Debug, Clone)]
pub struct Aleph {
    api_host: String,
    home: PathBuf,
}

/// What a command left.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Its exit code.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Aleph {
    /// A client of the message node at this URL, with keys and settings in this folder.
    pub fn new(api_host: impl Into<String>, home: impl Into<PathBuf>) -> Self {
        Self { api_host: api_host.into(), home: home.into() }
    }

    /// The client of a network's first account.
    pub fn of(network: &Network) -> Self {
        Self::new(&network.message_node_url, network.account_home())
    }

    /// The base URL of its message node.
    pub fn api_host(&self) -> &str {
        &self.api_host
    }

    /// Its folder of keys and settings.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Runs a command to its end.
    ///
    /// # Panics
    /// When it cannot be started.
    pub async fn run(&self, arguments: &[&str]) -> Finished {
        let output = self.command(arguments).output().await.expect("the client starts");
        Finished {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The command as it would be started, for tests that need more of it.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary("aleph"));
        command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("ALEPH_API_HOST", &self.api_host)
            .env("ALEPH_CONFIG_HOME", &self.home)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Runs a command with `--json` and reads its answer.
    ///
    /// # Panics
    /// When it fails or its answer is no JSON.
    pub async fn json(&self, arguments: &[&str]) -> Value {
        let finished = self.run(&[arguments, &["--json"]].concat()).await;
        assert_eq!(finished.code, 0, "aleph {arguments:?}: {}", finished.stderr);
        serde_json::from_str(&finished.stdout)
            .unwrap_or_else(|e| panic!("aleph {arguments:?}: {e}: {}", finished.stdout))
    }

    /// Runs a command with `--json` that must fail, and reads its error.
    ///
    /// # Panics
    /// When it succeeds or its error is no JSON.
    pub async fn error(&self, arguments: &[&str]) -> Value {
        let finished = self.run(&[arguments, &["--json"]].concat()).await;
        assert_ne!(finished.code, 0, "aleph {arguments:?} succeeded: {}", finished.stdout);
        let errors = finished.stderr.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut errors = errors.filter_map(|mut line| line.get_mut("error").map(Value::take));
        errors.next().unwrap_or_else(|| panic!("aleph {arguments:?} printed no error: {}", finished.stderr))
    }

    /// Uploads a program and waits as the client does. Says its id.
    ///
    /// # Panics
    /// When it fails.
    pub async fn upload(&self, path: &Path, entrypoint: &str, options: &[&str]) -> String {
        let path = path.to_str().expect("test folders have plain names");
        let uploaded = self.json(&[&["program", "upload", path, entrypoint], options].concat()).await;
        uploaded["item_hash"].as_str().expect("an upload names the program").to_owned()
    }

    /// What `aleph program find` says.
    ///
    /// # Panics
    /// When it fails.
    pub async fn find(&self, program: &str) -> Value {
        self.json(&["program", "find", program]).await
    }

    /// The messages in a program's log.
    ///
    /// # Panics
    /// When it cannot be read.
    pub async fn logs(&self, program: &str) -> String {
        let finished = self.run(&["program", "logs", program]).await;
        assert_eq!(finished.code, 0, "{}", finished.stderr);
        finished.stdout + &finished.stderr
    }
}

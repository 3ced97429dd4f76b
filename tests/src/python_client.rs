//! The client of the Aleph network that others wrote, `aleph-client` from PyPI as it is, and scripts that use its SDK, in the
//! version that the client brings and in the newest.

use std::path::PathBuf;
use std::process::Stdio;

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::{Aleph, Finished, repository};

/// Which version of the SDK a script runs with.
#[derive(Debug, Clone, Copy)]
pub enum Sdk {
    /// The one that the client brings.
    OfTheClient,
    /// The newest, with the newest schema of messages.
    Newest,
}

impl Sdk {
    /// The virtual environment that has it.
    const fn environment(self) -> &'static str {
        match self {
            Self::OfTheClient => "target/tools/aleph-client",
            Self::Newest => "target/tools/aleph-sdk",
        }
    }
}

/// A configured Python client: one account on one network.
#[derive(Debug, Clone)]
pub struct PythonClient {
    api_host: String,
    home: PathBuf,
}

impl PythonClient {
    /// With the network, the account, the keys and the settings of the client `aleph`.
    pub fn of(aleph: &Aleph) -> Self {
        Self { api_host: aleph.api_host().to_owned(), home: aleph.home().to_owned() }
    }

    /// The command as it would be started, in its folder. It reads no input.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.environment(Sdk::OfTheClient, "aleph");
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// A program of the virtual environment that has this SDK, configured as the client is.
    fn environment(&self, sdk: Sdk, program: &str) -> Command {
        let mut command = Command::new(repository(sdk.environment()).join("bin").join(program));
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &self.home)
            // So wide that no hash is broken into lines.
            .env("COLUMNS", "400")
            .env("ALEPH_API_HOST", &self.api_host)
            .env("ALEPH_CONFIG_HOME", &self.home)
            .current_dir(&self.home)
            .kill_on_drop(true);
        command
    }

    /// Runs a command to its end.
    ///
    /// # Panics
    /// When it cannot be started.
    pub async fn run(&self, arguments: &[&str]) -> Finished {
        finished(&mut self.command(arguments), "").await
    }

    /// Runs a command to its end that asks questions, as somebody who types these lines.
    ///
    /// # Panics
    /// When it cannot be started.
    pub async fn run_typing(&self, arguments: &[&str], typed: &str) -> Finished {
        finished(&mut self.command(arguments), typed).await
    }

    /// Runs a command that must succeed; gives what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub async fn succeed(&self, arguments: &[&str]) -> String {
        let finished = self.run(arguments).await;
        assert_eq!(finished.code, 0, "{arguments:?}: {} {}", finished.stdout, finished.stderr);
        finished.stdout
    }

    /// Runs a command that must succeed and prints JSON. Some print it in colours unless `--no-format` is the first argument.
    ///
    /// # Panics
    /// When it fails or prints anything else.
    pub async fn json(&self, arguments: &[&str]) -> Value {
        let printed = self.succeed(arguments).await;
        serde_json::from_str(&printed).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {printed}"))
    }

    /// Runs a script of `tests/python`, which uses the SDK; it reads and prints one JSON document.
    ///
    /// # Panics
    /// When it fails.
    pub async fn script(&self, sdk: Sdk, name: &str, input: &Value) -> Value {
        let mut command = self.environment(sdk, "python");
        command.arg(repository("tests/python").join(name));
        let finished = finished(&mut command, &input.to_string()).await;
        assert_eq!(finished.code, 0, "{name}: {} {}", finished.stdout, finished.stderr);
        serde_json::from_str(&finished.stdout).unwrap_or_else(|e| panic!("{name}: {e}: {}", finished.stdout))
    }
}

async fn finished(command: &mut Command, input: &str) -> Finished {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the Python client starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    // What does not read its input may have ended before it is written.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let output = child.wait_with_output().await.expect("its output can be read");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Finished { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
}

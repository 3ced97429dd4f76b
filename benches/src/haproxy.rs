//! HAProxy as a reverse proxy.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use aleph_tests::within;
use anyhow::Context;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::contestants::end;
use crate::network::free_ports;

/// A running HAProxy that passes everything on.
#[derive(Debug)]
pub(crate) struct Haproxy {
    pub(crate) port: u16,
    process: Child,
    folder: TempDir,
}

impl Haproxy {
    /// Passes everything on to the Unix socket `upstream`, with as many threads as there are processors.
    pub(crate) async fn start(upstream: &str) -> anyhow::Result<Self> {
        let (port, folder) = (free_ports(1), TempDir::with_prefix("aleph-bench-haproxy-")?);
        let configuration = folder.path().join("haproxy.cfg");
        fs::write(&configuration, config(port, upstream))?;
        let mut command = Command::new("/usr/sbin/haproxy");
        command.arg("-db").arg("-f").arg(&configuration);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let process = command.spawn().context("cannot start haproxy")?;
        within(Duration::from_secs(10), "haproxy listens", async || {
            TcpStream::connect(("127.0.0.1", port)).await.ok().map(drop)
        })
        .await;
        Ok(Self { port, process, folder })
    }

    /// Ends it.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        end(self.process).await?;
        Ok(self.folder.close()?)
    }
}

fn config(port: u16, upstream: &str) -> String {
    format!(
        "global
    maxconn 4096
defaults
    mode http
    option forwardfor
    http-reuse always
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend all
    bind 127.0.0.1:{port}
    default_backend program
backend program
    server program unix@{upstream} pool-max-conn -1
"
    )
}

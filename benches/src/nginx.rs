//! nginx as a reverse proxy.

use std::fs;
use std::process::Stdio;

use aleph_tests::within;
use anyhow::{Context, bail};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::contestants::end;
use crate::network::free_ports;

/// Connections to whoever answers that are kept while nobody uses them.
const KEPT: u32 = 256;

/// A running nginx that passes everything on.
#[derive(Debug)]
pub(crate) struct Nginx {
    pub(crate) port: u16,
    process: Child,
    folder: TempDir,
}

impl Nginx {
    /// Passes everything on to `upstream`, `127.0.0.1:80` or `unix:/path`, with as many workers as there are processors.
    pub(crate) async fn start(upstream: &str) -> anyhow::Result<Self> {
        let (port, folder) = (free_ports(1), TempDir::with_prefix("aleph-bench-nginx-")?);
        let configuration = folder.path().join("nginx.conf");
        fs::write(&configuration, config(&folder.path().display().to_string(), port, upstream))?;
        let mut command = Command::new("nginx");
        command.arg("-p").arg(folder.path()).arg("-c").arg(&configuration).args(["-e", "stderr"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let process = command.spawn().context("cannot start nginx")?;
        let mut nginx = Self { port, process, folder };
        within(std::time::Duration::from_secs(10), "nginx listens", async || {
            TcpStream::connect(("127.0.0.1", port)).await.ok().map(drop)
        })
        .await;
        match nginx.process.try_wait()? {
            Some(status) => bail!("nginx ended: {status}"),
            None => Ok(nginx),
        }
    }

    /// Ends it with its workers.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        // Killed, its workers would stay.
        let pid = self.process.id().and_then(|pid| i32::try_from(pid).ok()).context("nginx ended by itself")?;
        aleph_tests::signal(pid, rustix::process::Signal::TERM);
        let Self { mut process, folder, .. } = self;
        if tokio::time::timeout(std::time::Duration::from_secs(10), process.wait()).await.is_err() {
            end(process).await?;
        }
        Ok(folder.close()?)
    }
}

fn config(folder: &str, port: u16, upstream: &str) -> String {
    format!(
        "daemon off;
user root;
worker_processes auto;
pid {folder}/pid;
error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 1000000000;
    tcp_nodelay on;
    client_max_body_size 0;
    proxy_request_buffering off;
    proxy_max_temp_file_size 0;
    upstream program {{
        server {upstream};
        keepalive {KEPT};
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://program;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        }}
    }}
}}
"
    )
}

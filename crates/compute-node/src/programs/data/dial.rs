//! Connects to the node that keeps copies.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, UPGRADE};
use http::{HeaderValue, StatusCode};
use protocol::data::{Peer, REPLICATION_PATH, REPLICATION_PROTOCOL};
use volumes::replication::{Dial, Stream};

/// How much of a refusal is read.
const MAX_REFUSAL: usize = 1000;

/// How long a refusal may take to come.
const REFUSAL_TIME: Duration = Duration::from_secs(2);

/// See the module.
pub(super) struct Dialer(reqwest::Client);

impl Dialer {
    pub(super) fn new() -> Self {
        Self(protocol::client::http_client_builder().http1_only().build().expect("the TLS library starts"))
    }

    /// For a replicator.
    pub(super) fn dial(&self) -> Dial {
        let client = self.0.clone();
        Arc::new(move |peer| {
            let client = client.clone();
            Box::pin(async move { connect(&client, &peer).await })
        })
    }
}

async fn connect(client: &reqwest::Client, peer: &Peer) -> io::Result<Box<dyn Stream>> {
    let url = format!("{}{REPLICATION_PATH}", peer.url.trim_end_matches('/'));
    let request = client
        .get(&url)
        .header(CONNECTION, HeaderValue::from_static("upgrade"))
        .header(UPGRADE, HeaderValue::from_static(REPLICATION_PROTOCOL));
    let response = request.send().await.map_err(|e| refused(&url, &innermost(&e)))?;
    let status = response.status();
    if status != StatusCode::SWITCHING_PROTOCOLS {
        let text = tokio::time::timeout(REFUSAL_TIME, response.text())
            .await
            .map_or_else(|_| String::new(), Result::unwrap_or_default);
        return Err(refused(&url, &format!("{status} {}", text.chars().take(MAX_REFUSAL).collect::<String>())));
    }
    let upgraded = response.upgrade().await.map_err(|e| refused(&url, &innermost(&e)))?;
    Ok(Box::new(upgraded))
}

fn refused(url: &str, why: &str) -> io::Error {
    io::Error::other(format!("{url} takes no copies: {why}"))
}

/// What is at the bottom of an error; what is above only says that there was one.
fn innermost(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).last().map(ToString::to_string).unwrap_or_default()
}

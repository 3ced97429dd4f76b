//! A client of what a compute node offers to the owners of programs: their logs.

use chrono::Utc;
use reqwest::Url;
use serde_json::Value;

use super::{ClientError, EventStream, http_client, json, open_events};
use crate::api::compute_node::{LogEntry, LogStreamAuth, LogStreamFrame, LogStreamRequest};
use crate::signed_request::RequestSigner;
use crate::{Account, ProgramId};

/// A compute node, by the part of its API that owners of programs use. Requests are signed by the owner.
#[derive(Debug, Clone)]
pub struct ComputeNode {
    base: Url,
    http: reqwest::Client,
}

impl ComputeNode {
    /// The compute node at this base URL.
    ///
    /// # Errors
    /// [`ClientError::Malformed`] when it is no URL with a host.
    pub fn new(base: &str) -> Result<Self, ClientError> {
        let url = Url::parse(base).map_err(|e| ClientError::malformed(base, e))?;
        if url.host_str().is_none() {
            return Err(ClientError::malformed(base, "the URL has no host"));
        }
        Ok(Self { base: url, http: http_client() })
    }

    /// The last lines that a program wrote, the oldest first; all that the node keeps when `tail` is `None`.
    ///
    /// # Errors
    /// [`ClientError`] when the node cannot be asked; with status 404 when it does not have the program and 403 when the
    /// account does not own it.
    pub async fn logs(
        &self,
        account: &Account,
        program: &ProgramId,
        tail: Option<u32>,
    ) -> Result<Vec<LogEntry>, ClientError> {
        let url = self.url(program, "logs");
        let mut request = self.http.get(url.clone());
        for (name, value) in self.sign(account, &url) {
            request = request.header(name, value);
        }
        if let Some(tail) = tail {
            request = request.query(&[("tail", tail)]);
        }
        let response = request.send().await.map_err(|e| ClientError::unreachable(url, &e))?;
        if response.status().is_success() {
            json::read(response).await
        } else {
            Err(ClientError::from_response(response).await)
        }
    }

    /// Opens the stream of lines that a program writes from now on. Its first frame says whether the node accepts.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`].
    pub async fn stream_logs(
        &self,
        account: &Account,
        program: &ProgramId,
    ) -> Result<EventStream<LogStreamFrame>, ClientError> {
        let url = self.url(program, "stream_logs");
        let [pubkey, operation] = self.sign(account, &url).map(|(_, header)| {
            serde_json::from_str::<Value>(&header).expect("the headers of a signed request are JSON")
        });
        let mut stream = open_events(url.as_str()).await?;
        stream.send(&LogStreamRequest { auth: LogStreamAuth { pubkey, operation } }).await?;
        Ok(stream)
    }

    fn url(&self, program: &ProgramId, what: &str) -> Url {
        let mut url = self.base.clone();
        url.set_query(None);
        let folder = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{folder}/control/machine/{program}/{what}"));
        url
    }

    /// The headers for a GET of this URL. The signature names the host without its port, as all Aleph clients do.
    fn sign(&self, account: &Account, url: &Url) -> [(&'static str, String); 2] {
        let domain = url.host_str().expect("checked by `new`").trim_matches(['[', ']']);
        let now = Utc::now();
        RequestSigner::new(account, domain, now).headers("GET", url.path(), now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_keep_the_base_and_the_signature_fits_them() {
        use crate::signed_request::{ReceivedRequest, verify};
        let program = ProgramId::from_bytes([7; 32]);
        let node = ComputeNode::new("http://node-1.example:4020/base/").unwrap();
        let url = node.url(&program, "logs");
        assert_eq!(url.as_str(), format!("http://node-1.example:4020/base/control/machine/{program}/logs"));

        let account = Account::generate();
        let [(_, pubkey), (_, operation)] = node.sign(&account, &url);
        let request = ReceivedRequest {
            pubkey: Some(&pubkey),
            operation: Some(&operation),
            method: "GET",
            path: url.path(),
            domain: "node-1.example",
        };
        assert_eq!(verify(&request, Utc::now()).unwrap(), *account.address());
        assert!(ComputeNode::new("node-1.example").is_err());
        assert!(ComputeNode::new("unix:/run/node").is_err());
    }
}

//! Proves both sides' keys, before anything else is said.

use axum::extract::ws::WebSocket;
use protocol::control::{
    CONTROL_VERSION, Challenge, FromNode, FromScheduler, Hello, Welcome, random_nonce, welcome_text,
};
use protocol::{Address, NodeId};
use url::Url;

use super::{Control, End, read, send};

/// The longest URL of a node, in bytes.
const MAX_URL_BYTES: usize = 2000;

impl Control {
    /// Challenges the node and checks its answer. Says who signed it.
    pub(super) async fn greet(&self, socket: &mut WebSocket) -> Result<(Hello, Address), End> {
        let challenge =
            Challenge { version: CONTROL_VERSION, scheduler: self.account().address().clone(), nonce: random_nonce() };
        send(socket, &FromScheduler::Challenge(challenge.clone())).await?;
        let hello = loop {
            match read(socket.recv().await)? {
                Some(FromNode::Hello(hello)) => break hello,
                Some(FromNode::Heartbeat(_) | FromNode::Statements { .. }) => {
                    return Err(End::Unexpected("a heartbeat before hello".to_owned()));
                }
                None => {}
            }
        };
        let signer = hello.signer(&challenge).map_err(|e| End::Rejected(format!("the hello is not signed: {e}")))?;
        check_url(&hello.url)?;
        self.check_signer(&hello.node, &signer).await?;
        let text = welcome_text(&challenge, &hello.node, &hello.nonce);
        let welcome = Welcome {
            signature: self.account().sign(text.as_bytes()),
            heartbeat_ms: millis(self.times.heartbeat()),
            lease_ms: millis(self.times.lease()),
        };
        send(socket, &FromScheduler::Welcome(welcome)).await?;
        Ok((hello, signer))
    }

    /// Only a registered node's owner or manager speaks for it. Whoever is not known may have registered a moment ago, so the
    /// list is read again before a node is turned away.
    async fn check_signer(&self, node: &NodeId, signer: &Address) -> Result<(), End> {
        if self.may_speak(node, signer).is_ok() {
            return Ok(());
        }
        self.nodes.refresh().await;
        self.may_speak(node, signer).map_err(End::Rejected)
    }

    fn may_speak(&self, node: &NodeId, signer: &Address) -> Result<(), String> {
        let snapshot = self.snapshots.borrow();
        let Some(view) = snapshot.nodes.get(node).filter(|view| !view.is_gone) else {
            return Err(format!(
                "node {node} is not in the list of nodes that this scheduler has from its message node: \
                 register it there (a POST of type corechan-operation), then connect again"
            ));
        };
        let owner = &view.offer.owner;
        if owner == signer || view.manager.as_ref() == Some(signer) {
            return Ok(());
        }
        let manager = view.manager.as_ref().map(|manager| format!(" or its manager {manager}")).unwrap_or_default();
        Err(format!("node {node} belongs to {owner}, and {signer} signed: use the key of {owner}{manager}"))
    }
}

fn check_url(url: &str) -> Result<(), End> {
    let parsed = Url::parse(url).ok().filter(|parsed| matches!(parsed.scheme(), "http" | "https") && parsed.has_host());
    match parsed {
        Some(_) if url.len() <= MAX_URL_BYTES => Ok(()),
        _ => Err(End::Rejected(format!(
            "the node's URL has to be an http or https URL of at most {MAX_URL_BYTES} characters, at which gateways reach it"
        ))),
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

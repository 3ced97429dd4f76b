//! Connections to other nodes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use forward::{Origin, Pool};
use http::Uri;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;

/// How long connecting to another node may take before it counts as gone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How many nodes' connections are kept at most. When there are more, all are made anew.
const MAX_NODES: usize = 4096;

/// How a node is connected to.
pub(crate) type ToNode = Origin<HttpsConnector<HttpConnector>>;

/// The connections to other nodes, by their base URLs.
#[derive(Default)]
pub(super) struct Nodes {
    /// Made when it is needed first: what it trusts takes a while to read.
    connector: OnceLock<HttpsConnector<HttpConnector>>,
    pools: Mutex<HashMap<Uri, Arc<Pool<ToNode, Incoming>>>>,
}

impl Nodes {
    /// The connections to one of them.
    pub(super) fn pool(&self, base: &Uri) -> Arc<Pool<ToNode, Incoming>> {
        let mut pools = self.pools.lock().expect("no code panics while it holds this lock");
        if let Some(pool) = pools.get(base) {
            return pool.clone();
        }
        if pools.len() >= MAX_NODES {
            pools.clear();
        }
        let connector = self.connector.get_or_init(connector).clone();
        let pool = Pool::new(Origin { connector, uri: base.clone() });
        pools.insert(base.clone(), pool.clone());
        pool
    }
}

fn connector() -> HttpsConnector<HttpConnector> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(CONNECT_TIMEOUT));
    HttpsConnectorBuilder::new().with_webpki_roots().https_or_http().enable_http1().wrap_connector(http)
}

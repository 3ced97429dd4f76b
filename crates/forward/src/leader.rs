//! Connections to an origin that is another one now and then: the process that leads several.

use std::sync::{Arc, Mutex};

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;

use crate::{Origin, Pool, Source};

/// The connections to one process at one address.
type ToOrigin<B> = Arc<Pool<Origin<HttpConnector>, B>>;

/// The connections to the process that leads, wherever that is.
pub struct Leader<B: Source> {
    connector: HttpConnector,
    connections: Mutex<Option<(Uri, ToOrigin<B>)>>,
}

impl<B: Source> Leader<B> {
    /// None yet.
    pub fn new(connector: HttpConnector) -> Self {
        Self { connector, connections: Mutex::default() }
    }

    /// The connections to it at this address (scheme and authority); those to the one before are kept no longer.
    ///
    /// # Panics
    /// Never: no code panics while it holds the lock.
    pub fn at(&self, leader: &Uri) -> ToOrigin<B> {
        let mut connections = self.connections.lock().expect("no code panics while it holds this lock");
        match &*connections {
            Some((uri, pool)) if uri == leader => pool.clone(),
            _ => {
                let pool = Pool::new(Origin { connector: self.connector.clone(), uri: leader.clone() });
                *connections = Some((leader.clone(), pool.clone()));
                pool
            }
        }
    }
}

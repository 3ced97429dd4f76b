//! A message node some of whose files do not come.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Stands before a message node. Requests for some files are passed on and their answers kept back, everything else goes its
/// way. Connections and all end with it.
pub struct SlowFiles {
    /// Where it is reached.
    pub url: String,
    held: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl SlowFiles {
    /// Starts one in front of a message node at this address. The files with these names do not come.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn start(message_node: String, names: Vec<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
        let url = format!("http://{}", listener.local_addr().expect("it listens"));
        let (held, mut tasks) = (Arc::<AtomicUsize>::default(), JoinSet::new());
        let counter = held.clone();
        tasks.spawn(async move {
            let names: Arc<[String]> = names.into_iter().map(|name| format!("/storage/raw/{name}")).collect();
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (message_node, names, held) = (message_node.clone(), names.clone(), counter.clone());
                connections.spawn(async move {
                    if let Ok(server) = TcpStream::connect(&message_node).await {
                        pass_on(client, server, &names, &held).await;
                    }
                });
            }
        });
        Self { url, held, _tasks: tasks }
    }

    /// How many requests wait for their files.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::SeqCst)
    }
}

/// Passes on both ways until a file is asked for that does not come. A connection has one request at a time.
async fn pass_on(client: TcpStream, server: TcpStream, names: &[String], held: &AtomicUsize) {
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let there = async {
        let mut bytes = vec![0; 64 << 10];
        loop {
            let length = from_client.read(&mut bytes).await.unwrap_or(0);
            let text = String::from_utf8_lossy(&bytes[..length]);
            if names.iter().any(|name| text.contains(name)) {
                held.fetch_add(1, Ordering::SeqCst);
                return true;
            }
            // Either side may break off whenever it likes.
            if length == 0 || to_server.write_all(&bytes[..length]).await.is_err() {
                return false;
            }
        }
    };
    let back = async {
        let _ = copy(&mut from_server, &mut to_client).await;
    };
    let is_held = tokio::select! {
        is_held = there => is_held,
        () = back => false,
    };
    if is_held {
        // Until the client gives up.
        let _ = from_client.read(&mut [0]).await;
        held.fetch_sub(1, Ordering::SeqCst);
    }
}

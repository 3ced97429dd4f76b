//! A load balancer: it gives connections to processes in turn, and knows nothing of what is said on them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A load balancer. Connections and all end with it.
pub struct Balancer {
    /// Where it is reached.
    pub url: String,
    _tasks: JoinSet<()>,
}

impl Balancer {
    /// Starts one in front of processes that listen at these addresses. Those that take no connections are passed over.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn start(processes: Vec<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
        let url = format!("http://{}", listener.local_addr().expect("it listens"));
        let (processes, turn) = (Arc::new(processes), Arc::new(AtomicUsize::new(0)));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                let (processes, turn) = (Arc::clone(&processes), Arc::clone(&turn));
                connections.spawn(async move {
                    for _ in 0..processes.len() {
                        let process = &processes[turn.fetch_add(1, Ordering::Relaxed) % processes.len()];
                        if let Ok(mut connection) = TcpStream::connect(process).await {
                            // Either side may break off whenever it likes.
                            let _ = copy_bidirectional(&mut client, &mut connection).await;
                            return;
                        }
                    }
                });
            }
        });
        Self { url, _tasks: tasks }
    }
}

//! Requests for all programs, all the time.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use aleph_tests::reqwest_client;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::check::{Asked, Live};
use crate::witness::now;

/// How often each program is asked.
const EVERY: Duration = Duration::from_millis(100);

/// How long a client waits. Gateways hold requests for 30 s.
const PATIENCE: Duration = Duration::from_secs(40);

/// Requests of clients until it is dropped.
pub struct Load {
    asked: Arc<Mutex<Vec<Asked>>>,
    clients: JoinSet<()>,
}

impl Load {
    /// Asks these URLs, one for each program.
    pub fn start(urls: Vec<String>) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let mut clients = JoinSet::new();
        for (program, url) in urls.into_iter().enumerate() {
            clients.spawn(client(program, url, asked.clone()));
        }
        Self { asked, clients }
    }

    /// What came of all requests that are over, from this one on.
    ///
    /// # Panics
    /// When a client did.
    pub fn asked(&self, from: usize) -> Vec<Asked> {
        self.asked.lock().expect("nobody panics while writing")[from..].to_vec()
    }

    /// How many requests are over.
    ///
    /// # Panics
    /// When a client did.
    pub fn count(&self) -> usize {
        self.asked.lock().expect("nobody panics while writing").len()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.clients.abort_all();
    }
}

async fn client(program: usize, url: String, asked: Arc<Mutex<Vec<Asked>>>) {
    let http = reqwest_client();
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut under_way = JoinSet::new();
    loop {
        ticks.tick().await;
        while under_way.try_join_next().is_some() {}
        let (http, url, asked) = (http.clone(), url.clone(), asked.clone());
        under_way.spawn(async move {
            let sent = now();
            let answer = ask(&http, program, &url).await;
            let done = now();
            asked.lock().expect("nobody panics while writing").push(Asked { program, sent, done, answer });
        });
    }
}

/// Asks a program once.
///
/// # Errors
/// Why there is no answer.
pub async fn ask(http: &reqwest::Client, program: usize, url: &str) -> Result<Live, String> {
    let answer = http.get(url).timeout(PATIENCE).send().await.map_err(|e| kind_of(&e))?;
    let status = answer.status();
    if !status.is_success() {
        return Err(format!("status {}", status.as_u16()));
    }
    let said: serde_json::Value = answer.json().await.map_err(|e| kind_of(&e))?;
    let (epoch, at, copy) = (said["epoch"].as_u64(), said["at"].as_u64(), said["copy"].as_str());
    match (epoch, at, copy) {
        (Some(epoch), Some(at), Some(copy)) => Ok(Live { program, epoch, copy: copy.to_owned(), at }),
        _ => Err("no answer of the program".to_owned()),
    }
}

fn kind_of(error: &reqwest::Error) -> String {
    let kind = match () {
        () if error.is_timeout() => "timeout",
        () if error.is_connect() => "no connection",
        () => "broken connection",
    };
    kind.to_owned()
}

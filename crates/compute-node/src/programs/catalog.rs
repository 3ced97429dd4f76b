//! What programs are: their messages, fetched from the message node, verified here, and remembered.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use protocol::api::message_node::{MessageFilter, MessageStatus, StoredMessage};
use protocol::client::{ClientError, MessageNode};
use protocol::message::{
    Envelope, ForgetContent, MessageTime, MessageType, ProgramContent, StoreContent, parse_content,
};
use protocol::{Address, ProgramId};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::resolutions::Resolutions;
use super::revisions::Revisions;
use crate::single_flight::SingleFlight;

/// A program in force is asked for again after this long, in case the stream missed something.
const FRESH: Duration = Duration::from_secs(60);

/// What has been known for longer is not gone by before the message node was asked, though it streams changes.
const STALE: Duration = Duration::from_secs(3600);

/// An unknown program is asked for again after this long.
const UNKNOWN_FRESH: Duration = Duration::from_secs(1);

/// What cannot be asked for again goes on counting for this long before that is tried once more: nobody waits for a message node
/// that does not answer each time.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// How many programs are remembered at most.
const MAX_REMEMBERED: usize = 100_000;

/// How long to wait before the stream is opened again.
const RECONNECT: Duration = Duration::from_secs(1);

/// How often a message node without a stream is asked for changes.
pub(crate) const POLL: Duration = Duration::from_secs(10);

/// How the message node is followed, as it was last logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Connection {
    Streams,
    Polled,
    Fails,
}

/// A program in force: signed by somebody, with this content.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Program {
    pub(crate) id: ProgramId,
    pub(crate) content: ProgramContent,
}

/// What is known of a program.
#[derive(Debug, Clone)]
pub(crate) enum Lookup {
    /// It is in force.
    Found(Arc<Program>),
    /// The message node does not know it.
    Unknown,
    /// It is not in force yet.
    Pending,
    /// It never was or is no longer in force.
    Over(MessageStatus),
    /// It is in force as a message, but is no program that this node can run.
    Invalid(String),
}

/// Something changed that running programs must follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// The program is no longer in force.
    Over(ProgramId),
    /// Its code has a newer revision.
    NewCode(ProgramId),
}

/// What is remembered of a program.
#[derive(Debug, Clone)]
struct Remembered {
    lookup: Lookup,
    asked: Instant,
    /// When it could not be asked for again.
    failed: Option<Instant>,
}

/// What is known of a program, or why nothing is.
pub(crate) type Found = Result<Lookup, Arc<ClientError>>;

/// The programs that this node has heard of.
pub(crate) struct Catalog {
    message_node: MessageNode,
    known: Mutex<HashMap<ProgramId, Remembered>>,
    lookups: SingleFlight<ProgramId, Found>,
    /// What the files are that programs refer to.
    pub(crate) files: Resolutions,
}

impl Catalog {
    pub(crate) fn new(message_node: MessageNode) -> Arc<Self> {
        Arc::new(Self {
            message_node,
            known: Mutex::default(),
            lookups: SingleFlight::default(),
            files: Resolutions::default(),
        })
    }

    /// What is known of a program, asking the message node when it is not known or not fresh. A message node that cannot be
    /// asked does not make a known program unknown.
    pub(crate) async fn lookup(self: &Arc<Self>, id: ProgramId) -> Found {
        let known = self.remembered(id);
        if let Some(Remembered { lookup, asked, failed }) = &known {
            let fresh = match lookup {
                // It may be paid for again at any time.
                Lookup::Over(MessageStatus::Removed) => UNKNOWN_FRESH,
                Lookup::Found(_) | Lookup::Over(_) => FRESH,
                Lookup::Unknown | Lookup::Pending | Lookup::Invalid(_) => UNKNOWN_FRESH,
            };
            if asked.elapsed() < fresh {
                return Ok(lookup.clone());
            }
            // The stream would have said that it is over, and nobody waits for what it cannot say: that it is not paid for.
            if matches!(lookup, Lookup::Found(_)) && self.files.streams() && asked.elapsed() < STALE {
                let catalog = self.clone();
                tokio::spawn(async move { catalog.refresh(id).await });
                return Ok(lookup.clone());
            }
            if matches!(lookup, Lookup::Found(_)) && failed.is_some_and(|failed| failed.elapsed() < TRY_AGAIN) {
                return Ok(lookup.clone());
            }
        }
        self.refresh_or(id, known).await
    }

    /// What is known of a program, asking the message node unless it was asked a moment ago: for who finds that the program
    /// does not run, and must know whether it will.
    pub(crate) async fn lookup_again(self: &Arc<Self>, id: ProgramId) -> Found {
        match self.remembered(id) {
            Some(known) if known.asked.elapsed() < UNKNOWN_FRESH => Ok(known.lookup),
            known => self.refresh_or(id, known).await,
        }
    }

    /// Asks the message node. One that cannot be asked does not make a known program unknown, which is logged.
    async fn refresh_or(self: &Arc<Self>, id: ProgramId, known: Option<Remembered>) -> Found {
        match self.refresh(id).await {
            Err(error) => match known {
                Some(Remembered { lookup: lookup @ Lookup::Found(_), asked, .. }) => {
                    let age_s = asked.elapsed().as_secs();
                    warn!(program = %id, age_s, %error, "nobody can be asked for a program: going on with what was known");
                    let mut known = self.known.lock().expect("no code panics while it holds this lock");
                    if let Some(known) = known.get_mut(&id) {
                        known.failed = Some(Instant::now());
                    }
                    Ok(lookup)
                }
                _ => Err(error),
            },
            found => found,
        }
    }

    /// A program that is known to be in force, without asking anybody.
    pub(crate) fn known(&self, id: ProgramId) -> Option<Arc<Program>> {
        match self.remembered(id) {
            Some(Remembered { lookup: Lookup::Found(program), .. }) => Some(program),
            _ => None,
        }
    }

    fn remembered(&self, id: ProgramId) -> Option<Remembered> {
        self.known.lock().expect("no code panics while it holds this lock").get(&id).cloned()
    }

    async fn refresh(self: &Arc<Self>, id: ProgramId) -> Found {
        let catalog = self.clone();
        let ask = || async move {
            let lookup = catalog.ask(id).await.map_err(Arc::new)?;
            let mut known = catalog.known.lock().expect("no code panics while it holds this lock");
            if known.len() >= MAX_REMEMBERED {
                known.retain(|_, known| matches!(known.lookup, Lookup::Found(_)) && known.asked.elapsed() < FRESH);
            }
            known.insert(id, Remembered { lookup: lookup.clone(), asked: Instant::now(), failed: None });
            Ok(lookup)
        };
        self.lookups.run(id, ask).await
    }

    async fn ask(&self, id: ProgramId) -> Result<Lookup, ClientError> {
        let Some(found) = self.message_node.message(&id.to_string()).await? else { return Ok(Lookup::Unknown) };
        if !found.status.is_in_force() {
            return Ok(if found.status.is_over() { Lookup::Over(found.status) } else { Lookup::Pending });
        }
        let Some(StoredMessage { envelope, .. }) = found.message else { return Ok(Lookup::Pending) };
        let content = self.message_node.item_content(&envelope).await?;
        let verified =
            envelope.verify().and_then(|()| envelope.verify_content(&content)).map_err(|e| e.to_string()).and_then(
                |()| {
                    if envelope.item_hash != id.to_string() {
                        return Err("the message node answered with another message".to_owned());
                    }
                    if envelope.message_type != MessageType::Program {
                        return Err(format!("it is a {} message, not a program", envelope.message_type));
                    }
                    ProgramContent::parse(&content).map_err(|e| e.to_string())
                },
            );
        Ok(match verified {
            Ok(content) => Lookup::Found(Arc::new(Program { id, content })),
            Err(why) => {
                warn!(program = %id, %why, "not a program");
                Lookup::Invalid(why)
            }
        })
    }

    /// Follows the message node and says which known programs ended or have new code, until `shutdown`: by its stream, or,
    /// where it has none, by asking every `poll`.
    pub(crate) async fn follow(
        self: Arc<Self>,
        changes: mpsc::Sender<Change>,
        poll: Duration,
        shutdown: CancellationToken,
    ) {
        let (mut revisions, mut logged) = (Revisions::new(MessageTime::now()), Connection::Streams);
        loop {
            let session = self.follow_once(&mut revisions, &changes, &mut logged, poll);
            let ended = shutdown.run_until_cancelled(session).await;
            self.files.stream_ends();
            match ended {
                None => return,
                Some(Ok(())) => {}
                Some(Err(error)) if logged != Connection::Fails => {
                    warn!(%error, "the message node cannot be followed, trying again");
                    logged = Connection::Fails;
                }
                Some(Err(_)) => {}
            }
            shutdown.run_until_cancelled(tokio::time::sleep(RECONNECT)).await;
        }
    }

    /// Follows until the stream ends; without one, asks once and waits.
    async fn follow_once(
        self: &Arc<Self>,
        revisions: &mut Revisions,
        changes: &mpsc::Sender<Change>,
        logged: &mut Connection,
        poll: Duration,
    ) -> Result<(), ClientError> {
        let filter = MessageFilter { types: vec![MessageType::Forget, MessageType::Store], ..MessageFilter::default() };
        let stream = self.message_node.watch(&filter, 0).await;
        self.catch_up(revisions, changes).await?;
        let mut stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                if *logged != Connection::Polled {
                    warn!(%error, every = ?poll, "the message node has no stream: it is asked for changes");
                    *logged = Connection::Polled;
                }
                tokio::time::sleep(poll.saturating_sub(RECONNECT)).await;
                return Ok(());
            }
        };
        info!(url = self.message_node.url(), "following the message node");
        *logged = Connection::Streams;
        self.files.stream_begins();
        while let Some(message) = stream.next().await? {
            match message.envelope.message_type {
                MessageType::Forget => {
                    let Ok(content) = self.message_node.item_content(&message.envelope).await else { continue };
                    let hashes =
                        parse_content::<ForgetContent>(&content).map(|forget| forget.hashes).unwrap_or_default();
                    hashes.iter().for_each(|hash| self.files.drop_of(hash));
                    for id in hashes.iter().filter_map(|hash| hash.parse().ok()) {
                        if self.known(id).is_some() {
                            self.recheck(id, changes).await;
                        }
                    }
                }
                MessageType::Store if revisions.is_new(&message.envelope) => {
                    self.tell_of_revision(&message.envelope, changes).await;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Tells what happened while nobody listened.
    async fn catch_up(
        self: &Arc<Self>,
        revisions: &mut Revisions,
        changes: &mpsc::Sender<Change>,
    ) -> Result<(), ClientError> {
        for id in self.in_force() {
            self.recheck(id, changes).await;
        }
        let start_date = Some(revisions.since().as_seconds());
        let filter = MessageFilter { types: vec![MessageType::Store], start_date, ..MessageFilter::default() };
        let listed = self.message_node.all_messages(&filter).await?;
        let listed = listed.into_iter().map(|message| message.envelope).collect();
        for message in revisions.listed(listed, MessageTime::now()) {
            self.tell_of_revision(&message, changes).await;
        }
        Ok(())
    }

    /// Tells which programs have new code, if this message is a revision of some.
    async fn tell_of_revision(&self, message: &Envelope, changes: &mpsc::Sender<Change>) {
        let Ok(content) = self.message_node.item_content(message).await else { return };
        if let Ok(StoreContent { address, reference: Some(reference), .. }) = parse_content(&content) {
            self.files.drop_of(&reference);
            for id in self.with_code(&reference, &address) {
                let _ = changes.send(Change::NewCode(id)).await;
            }
        }
    }

    async fn recheck(self: &Arc<Self>, id: ProgramId, changes: &mpsc::Sender<Change>) {
        // Only a clear answer ends a program; a message node that does not know it any more is not one.
        if let Ok(Lookup::Over(status)) = self.refresh(id).await {
            info!(program = %id, status = status.as_str(), "no longer in force");
            let _ = changes.send(Change::Over(id)).await;
        }
    }

    fn in_force(&self) -> Vec<ProgramId> {
        let known = self.known.lock().expect("no code panics while it holds this lock");
        known.iter().filter(|(_, known)| matches!(known.lookup, Lookup::Found(_))).map(|(id, _)| *id).collect()
    }

    /// The known programs that follow this file's revisions. Only their owner's revisions count: a message of somebody else
    /// that names the same file changes nothing.
    fn with_code(&self, reference: &str, owner: &Address) -> Vec<ProgramId> {
        let known = self.known.lock().expect("no code panics while it holds this lock");
        known
            .iter()
            .filter(|(_, known)| match &known.lookup {
                Lookup::Found(program) => {
                    let content = &program.content;
                    content.address == *owner && content.references().contains(&(reference, true))
                }
                _ => false,
            })
            .map(|(id, _)| *id)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use axum::extract::{Path, State};
    use axum::routing::get;
    use axum::{Json, Router};
    use protocol::Account;
    use serde_json::{Value, json};

    use super::*;
    use crate::warnings::Warnings;

    /// A message node without a stream: messages and whether they are in force, and how often they were listed.
    type Shelf = Arc<Mutex<(Vec<(Envelope, bool)>, usize)>>;

    async fn message_node(shelf: Shelf) -> MessageNode {
        let list = async |State(shelf): State<Shelf>| {
            let mut shelf = shelf.lock().unwrap();
            shelf.1 += 1;
            let messages: Vec<Value> = shelf.0.iter().map(|(m, _)| json!(m)).collect();
            Json(json!({"messages": messages, "next_cursor": null}))
        };
        let message = async |State(shelf): State<Shelf>, Path(hash): Path<String>| {
            let shelf = shelf.lock().unwrap();
            let (message, in_force) = shelf.0.iter().find(|(m, _)| m.item_hash == hash).unwrap();
            let status = if *in_force { "processed" } else { "forgotten" };
            Json(json!({"status": status, "item_hash": hash, "reception_time": "", "message": message}))
        };
        let router = Router::new()
            .route("/api/v0/messages.json", get(list))
            .route("/api/v0/messages/{hash}", get(message))
            .with_state(shelf);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        MessageNode::new(url)
    }

    fn sign(owner: &Account, message_type: MessageType, mut content: Value) -> Envelope {
        content["address"] = json!(owner.address());
        content["time"] = json!(MessageTime::now());
        Envelope::sign_inline(owner, message_type, content.to_string(), MessageTime::now(), None)
    }

    fn revision(owner: &Account, of: &str) -> Envelope {
        let content = json!({"item_type": "storage", "item_hash": "ab".repeat(32), "ref": of});
        sign(owner, MessageType::Store, content)
    }

    fn program(owner: &Account, code: &str) -> Envelope {
        let content = json!({
            "type": "vm-function", "allow_amend": false, "on": {"http": true, "persistent": false},
            "code": {"encoding": "zip", "entrypoint": "main:app", "ref": code, "use_latest": true},
            "runtime": {"ref": "ef".repeat(32), "use_latest": true, "comment": ""},
            "environment": {}, "resources": {}, "volumes": [],
        });
        sign(owner, MessageType::Program, content)
    }

    #[tokio::test]
    async fn what_is_too_old_and_cannot_be_asked_for_goes_on_counting_which_is_logged() {
        let message = program(&Account::generate(), &"cd".repeat(32));
        let id: ProgramId = message.item_hash.parse().unwrap();
        let shelf: Shelf = Arc::new(Mutex::new((vec![(message, true)], 0)));
        let catalog = Catalog::new(message_node(shelf).await);
        assert!(matches!(catalog.lookup(id).await, Ok(Lookup::Found(_))));
        let gone = Catalog::new(MessageNode::new("http://127.0.0.1:1"));
        let age = |by: Duration| {
            let mut known = catalog.remembered(id).unwrap();
            known.asked -= by;
            gone.known.lock().unwrap().insert(id, known);
        };
        let (warnings, _guard) = Warnings::collect();
        let look_up = async || assert!(matches!(gone.lookup(id).await, Ok(Lookup::Found(_))));
        age(Duration::ZERO);
        look_up().await;
        assert_eq!(warnings.count(), 0, "it is fresh");
        age(FRESH);
        look_up().await;
        assert_eq!(warnings.count(), 1, "there is no stream, and nobody to ask");
        look_up().await;
        assert_eq!(warnings.count(), 1, "nobody was asked again at once");
        gone.known.lock().unwrap().get_mut(&id).unwrap().failed = Some(Instant::now() - TRY_AGAIN);
        look_up().await;
        assert_eq!(warnings.count(), 2);
        // With a stream, which would have told of changes, for longer.
        gone.files.stream_begins();
        age(FRESH);
        look_up().await;
        assert_eq!(warnings.count(), 2);
        age(STALE);
        look_up().await;
        assert_eq!(warnings.count(), 3);
    }

    #[tokio::test]
    async fn without_a_stream_changes_are_found_by_asking() {
        let (owner, code) = (Account::generate(), "cd".repeat(32));
        let program = program(&owner, &code);
        let id: ProgramId = program.item_hash.parse().unwrap();
        let earlier = revision(&owner, &code);
        let shelf: Shelf = Arc::new(Mutex::new((vec![(program, true), (earlier, true)], 0)));
        let catalog = Catalog::new(message_node(shelf.clone()).await);
        assert!(matches!(catalog.lookup(id).await, Ok(Lookup::Found(_))));

        let (changes, mut changed) = mpsc::channel(10);
        let stop = CancellationToken::new();
        let following = tokio::spawn(catalog.clone().follow(changes, Duration::ZERO, stop.clone()));
        let mut next = async || tokio::time::timeout(Duration::from_secs(30), changed.recv()).await.unwrap().unwrap();
        while shelf.lock().unwrap().1 == 0 {
            tokio::task::yield_now().await;
        }
        // Of somebody else, and of the owner: only the second one counts, and once.
        shelf.lock().unwrap().0.push((revision(&Account::generate(), &code), true));
        shelf.lock().unwrap().0.push((revision(&owner, &code), true));
        assert_eq!(next().await, Change::NewCode(id));
        shelf.lock().unwrap().0[0].1 = false;
        assert_eq!(next().await, Change::Over(id));
        stop.cancel();
        following.await.unwrap();
    }
}

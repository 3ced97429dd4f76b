//! What programs are: their messages, fetched from the message node, verified here, and remembered.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use protocol::api::message_node::{MessageFilter, MessageStatus, StoredMessage};
use protocol::client::{ClientError, MessageNode};
use protocol::message::{ForgetContent, MessageType, ProgramContent, StoreContent, parse_content};
use protocol::{Address, ProgramId};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::single_flight::SingleFlight;

/// A program in force is asked for again after this long, in case the stream missed something.
const FRESH: Duration = Duration::from_secs(60);

/// An unknown program is asked for again after this long.
const UNKNOWN_FRESH: Duration = Duration::from_secs(1);

/// How many programs are remembered at most.
const MAX_REMEMBERED: usize = 100_000;

/// How long to wait before the stream is opened again.
const RECONNECT: Duration = Duration::from_secs(1);

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

type Found = Result<Lookup, Arc<ClientError>>;

/// The programs that this node has heard of.
pub(crate) struct Catalog {
    message_node: MessageNode,
    known: Mutex<HashMap<ProgramId, (Lookup, Instant)>>,
    lookups: SingleFlight<ProgramId, Found>,
}

impl Catalog {
    pub(crate) fn new(message_node: MessageNode) -> Arc<Self> {
        Arc::new(Self { message_node, known: Mutex::default(), lookups: SingleFlight::default() })
    }

    /// What is known of a program, asking the message node when it is not known or not fresh. A message node that cannot be
    /// asked does not make a known program unknown.
    pub(crate) async fn lookup(self: &Arc<Self>, id: ProgramId) -> Found {
        let known = self.remembered(id);
        if let Some((lookup, asked)) = &known {
            let fresh = match lookup {
                // It may be paid for again at any time.
                Lookup::Over(MessageStatus::Removed) => UNKNOWN_FRESH,
                Lookup::Found(_) | Lookup::Over(_) => FRESH,
                Lookup::Unknown | Lookup::Pending | Lookup::Invalid(_) => UNKNOWN_FRESH,
            };
            if asked.elapsed() < fresh {
                return Ok(lookup.clone());
            }
        }
        match self.refresh(id).await {
            Err(error) => match known {
                Some((lookup @ Lookup::Found(_), _)) => {
                    debug!(program = %id, %error, "cannot ask for it again, going on with what is known");
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
            Some((Lookup::Found(program), _)) => Some(program),
            _ => None,
        }
    }

    fn remembered(&self, id: ProgramId) -> Option<(Lookup, Instant)> {
        self.known.lock().expect("no code panics while it holds this lock").get(&id).cloned()
    }

    async fn refresh(self: &Arc<Self>, id: ProgramId) -> Found {
        let catalog = self.clone();
        let ask = || async move {
            let lookup = catalog.ask(id).await.map_err(Arc::new)?;
            let mut known = catalog.known.lock().expect("no code panics while it holds this lock");
            if known.len() >= MAX_REMEMBERED {
                known.retain(|_, (lookup, asked)| matches!(lookup, Lookup::Found(_)) && asked.elapsed() < FRESH);
            }
            known.insert(id, (lookup.clone(), Instant::now()));
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

    /// Follows the message node's stream and says which known programs ended or have new code, until `shutdown`.
    pub(crate) async fn follow(self: Arc<Self>, changes: mpsc::Sender<Change>, shutdown: CancellationToken) {
        let mut was_connected = true;
        while !shutdown.is_cancelled() {
            let followed = shutdown.run_until_cancelled(self.follow_once(&changes)).await;
            if let Some(Err(error)) = followed
                && was_connected
            {
                warn!(%error, "the message node's stream is interrupted, trying again");
                was_connected = false;
            } else {
                was_connected = true;
            }
            shutdown.run_until_cancelled(tokio::time::sleep(RECONNECT)).await;
        }
    }

    async fn follow_once(self: &Arc<Self>, changes: &mpsc::Sender<Change>) -> Result<(), ClientError> {
        let filter = MessageFilter { types: vec![MessageType::Forget, MessageType::Store], ..MessageFilter::default() };
        let mut stream = self.message_node.watch(&filter, 0).await?;
        info!(url = self.message_node.url(), "following the message node");
        // What happened while nobody listened.
        for id in self.in_force() {
            self.recheck(id, changes).await;
        }
        while let Some(message) = stream.next().await? {
            let Ok(content) = self.message_node.item_content(&message.envelope).await else { continue };
            match message.envelope.message_type {
                MessageType::Forget => {
                    let hashes =
                        parse_content::<ForgetContent>(&content).map(|forget| forget.hashes).unwrap_or_default();
                    for id in hashes.iter().filter_map(|hash| hash.parse().ok()) {
                        if self.known(id).is_some() {
                            self.recheck(id, changes).await;
                        }
                    }
                }
                MessageType::Store => {
                    if let Ok(StoreContent { address, reference: Some(reference), .. }) = parse_content(&content) {
                        for id in self.with_code(&reference, &address) {
                            let _ = changes.send(Change::NewCode(id)).await;
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
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
        known.iter().filter(|(_, (lookup, _))| matches!(lookup, Lookup::Found(_))).map(|(id, _)| *id).collect()
    }

    /// The known programs that follow this file's revisions. Only their owner's revisions count: a message of somebody else
    /// that names the same file changes nothing.
    fn with_code(&self, reference: &str, owner: &Address) -> Vec<ProgramId> {
        let known = self.known.lock().expect("no code panics while it holds this lock");
        known
            .iter()
            .filter(|(_, (lookup, _))| match lookup {
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

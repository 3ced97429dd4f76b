//! Everything that a program needs before its sandbox can start.

use std::sync::Arc;

use protocol::client::{ClientError, MessageNode};
use protocol::control::{Failure, FailureKind};
use protocol::message::{
    ItemType, MessageType, PlacedVolume, ProgramContent, StoreContent, VolumeKind, parse_content, place_volumes,
};
use protocol::{Address, Aliases, FileName, FileNameError, Isolation, ProgramId};
use sandbox::spec::{VolumeSource, VolumeSpec};

use super::catalog::{Catalog, Lookup, Program};
use super::code::{CodeCache, CodeError, OpenedCode};
use super::files::{CachedFile, FileError, Files};
use super::images::{Images, MountedImage};
use super::resolutions::{Publisher, Reference, Resolved, Unresolved};
use super::sandboxes::Sandboxes;

/// MiB of ephemeral volumes that one sandbox may have. Copies on demand are not counted by anybody else.
const MAX_EPHEMERAL_MIB: u64 = 10_000;

/// What a sandbox is started from. Files and image stay as long as this is held.
#[derive(Debug, Clone)]
pub(crate) struct Fetched {
    pub(crate) program: Arc<Program>,
    pub(crate) image: MountedImage,
    pub(crate) code: OpenedCode,
    /// The immutable volumes.
    pub(crate) volumes: Vec<FetchedVolume>,
    /// Where the program sees all of them.
    pub(crate) placed: Vec<PlacedVolume>,
    _code_file: CachedFile,
}

/// A volume that only has to be fetched.
#[derive(Debug, Clone)]
pub(crate) struct FetchedVolume {
    pub(crate) spec: VolumeSpec,
    _file: CachedFile,
}

/// Fetches what programs need.
pub(crate) struct Fetcher {
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) message_node: MessageNode,
    pub(crate) files: Arc<Files>,
    pub(crate) images: Images,
    pub(crate) code: Arc<CodeCache>,
    pub(crate) aliases: Aliases,
    pub(crate) sandboxes: Arc<Sandboxes>,
    pub(crate) has_pool: bool,
    pub(crate) isolation: Vec<Isolation>,
}

fn failure(kind: FailureKind, message: impl Into<String>) -> Failure {
    Failure { kind, message: message.into() }
}

impl Fetcher {
    pub(crate) fn images(&self) -> &Images {
        &self.images
    }

    /// Fetches message, code and runtime, and checks each.
    pub(crate) async fn fetch(&self, id: ProgramId) -> Result<Fetched, Failure> {
        let program = self.program(id).await?;
        let content = &program.content;
        refuse_unsupported(&program, self.has_pool)?;
        refuse_isolation(content, &self.isolation)?;
        let placed = place_volumes(&content.volumes).map_err(|e| failure(FailureKind::BadVolume, e.to_string()))?;
        let (code, runtime, volumes) = tokio::join!(
            self.file(&content.code.reference, content.code.use_latest, &content.address, "code"),
            self.file(&content.runtime.reference, content.runtime.use_latest, &content.address, "runtime"),
            self.images_of(&placed, &content.address),
        );
        let volumes = volumes?;
        let ((code_hash, code_file), (runtime_hash, runtime_file)) = (code?, runtime?);
        let image = self.images.mount(runtime_hash, runtime_file).await;
        let image = image.map_err(|e| failure(FailureKind::BadRuntime, e))?;
        let code = self.open_code(&program, code_hash, &code_file).await?;
        Ok(Fetched { program, image, code, volumes, placed, _code_file: code_file })
    }

    /// The immutable volumes.
    async fn images_of(&self, placed: &[PlacedVolume], owner: &Address) -> Result<Vec<FetchedVolume>, Failure> {
        let mut volumes = Vec::new();
        for volume in placed {
            if let VolumeKind::Immutable { reference, use_latest } = &volume.kind {
                let what = format!("volume at {}", volume.mount);
                let (_, file) = self.file(reference, *use_latest, owner, &what).await?;
                let source = VolumeSource::Squashfs(file.path().to_owned());
                let spec = VolumeSpec { mount: volume.mount.clone().into(), source };
                volumes.push(FetchedVolume { spec, _file: file });
            }
        }
        Ok(volumes)
    }

    async fn program(&self, id: ProgramId) -> Result<Arc<Program>, Failure> {
        let unavailable = |why: String| failure(FailureKind::Unavailable, why);
        match self.catalog.lookup(id).await {
            Ok(Lookup::Found(program)) => Ok(program),
            Ok(Lookup::Unknown) => Err(unavailable("the message node does not know the program".to_owned())),
            Ok(Lookup::Pending) => Err(unavailable("the program's message is not processed yet".to_owned())),
            Ok(Lookup::Over(status)) => Err(unavailable(format!("the program's message is {}", status.as_str()))),
            Ok(Lookup::Invalid(why)) => Err(unavailable(format!("the program's message is not valid: {why}"))),
            Err(error) => Err(unavailable(error.to_string())),
        }
    }

    async fn open_code(
        &self,
        program: &Arc<Program>,
        hash: FileName,
        file: &CachedFile,
    ) -> Result<OpenedCode, Failure> {
        let (program, file, cache) = (program.clone(), file.clone(), self.code.clone());
        let open = move || cache.unpack(&program.content.code, hash, file.path());
        let opened = tokio::task::spawn_blocking(open).await.expect("it does not panic");
        opened.map_err(|e| match e {
            CodeError::Bad(why) => failure(FailureKind::BadCode, why),
            CodeError::Disk(_) => failure(FailureKind::NodeFault, e.to_string()),
        })
    }

    /// The file of a STORE message, or of its newest revision by the same owner.
    async fn file(
        &self,
        reference: &str,
        use_latest: bool,
        owner: &Address,
        what: &str,
    ) -> Result<(FileName, CachedFile), Failure> {
        let store = self.resolve(reference, use_latest, owner, what).await?;
        let name = file_name(&store, what)?;
        let file = match self.files.get(name, &store.item_hash, owner).await {
            // An image that only sandboxes in stock use is of less use than what is wanted now.
            Err(error) if error.is_want_of_room() && self.sandboxes.make_way().await => {
                self.files.get(name, &store.item_hash, owner).await
            }
            file => file,
        };
        Ok((name, file.map_err(|e| file_failure(&e, what))?))
    }

    /// The STORE message's content that counts: its own, or that of its newest revision.
    async fn resolve(
        &self,
        reference: &str,
        use_latest: bool,
        owner: &Address,
        what: &str,
    ) -> Result<StoreContent, Failure> {
        let hash = self.aliases.resolve(reference);
        // Revisions of a file are its owner's to make, not the program's owner's unless they are the same.
        let publisher = if what == "runtime" { Publisher::Itself } else { Publisher::Account(owner.clone()) };
        let reference = Reference { hash: hash.to_owned(), latest_of: use_latest.then_some(publisher) };
        let resolved = self.catalog.files.get(reference.clone(), || self.ask(&reference)).await;
        resolved.map_err(|unresolved| match unresolved {
            Unresolved::Unreachable(why) | Unresolved::Refused(why) => cannot_fetch(what, why),
        })
    }

    /// Asks the message node for the content of a STORE message.
    async fn ask(&self, Reference { hash, latest_of }: &Reference) -> Result<Resolved, Unresolved> {
        let unreachable = |e: ClientError| Unresolved::Unreachable(e.to_string());
        let store = self.message_node.message(hash).await.map_err(unreachable)?;
        let store = store
            .filter(|found| found.status.is_in_force())
            .and_then(|found| found.message)
            .ok_or_else(|| Unresolved::Refused(format!("the message node has no file message {hash} in force")))?;
        let mut newest = store;
        if let Some(latest_of) = latest_of {
            let by = match latest_of {
                Publisher::Itself => parse_store(&self.message_node, &newest.envelope).await?.address,
                Publisher::Account(owner) => owner.clone(),
            };
            newest = self.message_node.latest_revision(hash, &by).await.map_err(unreachable)?.unwrap_or(newest);
        }
        let file = parse_store(&self.message_node, &newest.envelope).await?;
        Ok(Resolved { message: newest.envelope.item_hash, file })
    }
}

fn cannot_fetch(what: &str, why: impl std::fmt::Display) -> Failure {
    failure(FailureKind::Unavailable, format!("the {what} cannot be fetched: {why}"))
}

/// What a STORE message calls its file.
fn file_name(store: &StoreContent, what: &str) -> Result<FileName, Failure> {
    if store.item_type == ItemType::Inline {
        return Err(cannot_fetch(what, "its message says that it is inline, which files cannot be"));
    }
    store.item_hash.parse().map_err(|error: FileNameError| cannot_fetch(what, error))
}

/// The content of a STORE message, after its hash and signature were checked.
async fn parse_store(
    message_node: &MessageNode,
    envelope: &protocol::message::Envelope,
) -> Result<StoreContent, Unresolved> {
    if envelope.message_type != MessageType::Store {
        let (hash, kind) = (&envelope.item_hash, envelope.message_type);
        return Err(Unresolved::Refused(format!("{hash} is a {kind} message, not a file")));
    }
    let content = message_node.item_content(envelope).await.map_err(|e| Unresolved::Unreachable(e.to_string()))?;
    let verified = envelope.verify().and_then(|()| envelope.verify_content(&content));
    verified.map_err(|e| Unresolved::Refused(e.to_string()))?;
    parse_content(&content).map_err(|e| Unresolved::Refused(e.to_string()))
}

fn file_failure(error: &FileError, what: &str) -> Failure {
    let kind = if error.is_fault_of_node() { FailureKind::NodeFault } else { FailureKind::Unavailable };
    Failure { kind, ..cannot_fetch(what, error) }
}

/// The room that a program's ephemeral volumes take on the disk.
fn ephemeral_mib(content: &ProgramContent) -> u64 {
    let size = |kind: &VolumeKind| if let VolumeKind::Ephemeral { size_mib } = kind { *size_mib } else { 0 };
    content.volumes.iter().map(|volume| size(&volume.kind)).sum()
}

/// What a message may ask for and this version does not do. Running the program without it would be a lie.
fn refuse_unsupported(program: &Program, has_pool: bool) -> Result<(), Failure> {
    let content = &program.content;
    let has = |is: &dyn Fn(&VolumeKind) -> bool| content.volumes.iter().any(|volume| is(&volume.kind));
    let too_much = format!("more than {MAX_EPHEMERAL_MIB} MiB of ephemeral volumes");
    let asked = [
        (ephemeral_mib(content) > MAX_EPHEMERAL_MIB, too_much.as_str()),
        (
            !has_pool && has(&|kind| matches!(kind, VolumeKind::Persistent { .. })),
            "persistent volumes (this node has no pool: see --pool-mib)",
        ),
        (
            !content.is_persistent() && has(&|kind| matches!(kind, VolumeKind::Persistent { .. })),
            "persistent volumes without `on.persistent`",
        ),
        (
            has(&|kind| matches!(kind, VolumeKind::Persistent { parent: Some(_), .. })),
            "volumes that start from a parent image",
        ),
        (content.data.is_some(), "input data (`data`)"),
        (content.requirements.as_ref().is_some_and(|r| r.gpu.as_ref().is_some_and(|gpu| !gpu.is_empty())), "a GPU"),
    ];
    match asked.iter().find(|(asked, _)| *asked) {
        Some((_, what)) => {
            let message = format!("the program asks for {what}, which this version of the compute node does not offer");
            Err(failure(FailureKind::Unsupported, message))
        }
        None => Ok(()),
    }
}

/// What stands between a program and the machine is never less than it asks for.
fn refuse_isolation(content: &ProgramContent, offered: &[Isolation]) -> Result<(), Failure> {
    match content.isolation() {
        Ok(Some(asked)) if !offered.contains(&asked) => {
            let offered = offered.iter().map(|isolation| isolation.as_str()).collect::<Vec<_>>().join(", ");
            let message = format!("the program asks for the isolation {asked}, and this node offers {offered} only");
            Err(failure(FailureKind::Isolation, message))
        }
        Ok(_) => Ok(()),
        Err(why) => Err(failure(FailureKind::Unsupported, why)),
    }
}

#[cfg(test)]
mod tests {
    use protocol::{FileHash, FileNames};
    use serde_json::json;

    use super::*;

    #[test]
    fn files_are_called_by_a_sha256_or_a_cid_and_nothing_else() {
        let name = |item_type: &str, hash: &str| {
            let content = json!({"address": "0x1", "time": 1, "item_type": item_type, "item_hash": hash});
            file_name(&serde_json::from_value(content).unwrap(), "code")
        };
        let cid = FileNames::of(b"x").v0;
        assert_eq!(name("storage", &FileHash::of(b"x").to_string()), Ok(FileHash::of(b"x").into()));
        assert_eq!(name("ipfs", &cid.to_string()), Ok(cid));
        assert_eq!(name("ipfs", &cid.to_cid_v1()), Ok(cid));
        for (item_type, hash) in [("inline", cid.to_string()), ("ipfs", "../../x".into()), ("storage", "ab".into())] {
            let failure = name(item_type, &hash).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Unavailable);
            assert!(failure.message.starts_with("the code cannot be fetched: "), "{}", failure.message);
        }
    }

    #[test]
    fn a_program_never_gets_less_isolation_than_it_asks_for() {
        let asking = |metadata: serde_json::Value| {
            let content = json!({
                "address": "0x1", "time": 1, "allow_amend": true, "type": "vm-function", "environment": {}, "resources": {},
                "metadata": metadata, "code": {"encoding": "zip", "entrypoint": "main:app", "ref": "a"},
                "runtime": {"ref": "b", "comment": ""}, "on": {"http": true},
            });
            ProgramContent::parse(&content.to_string()).unwrap()
        };
        let refused = |metadata, offered: &[Isolation]| refuse_isolation(&asking(metadata), offered).unwrap_err();
        assert_eq!(refuse_isolation(&asking(json!({})), &[Isolation::Gvisor]), Ok(()));
        assert_eq!(refuse_isolation(&asking(json!({"isolation": "gvisor"})), &Isolation::ALL), Ok(()));
        let failure = refused(json!({"isolation": "gvisor"}), &[Isolation::Container]);
        assert_eq!(failure.kind, FailureKind::Isolation);
        assert!(failure.message.ends_with("asks for the isolation gvisor, and this node offers container only"));
        let failure = refused(json!({"isolation": "vm"}), &Isolation::ALL);
        assert_eq!(failure.kind, FailureKind::Unsupported);
        assert!(failure.message.starts_with("metadata.isolation is \"vm\": write "), "{}", failure.message);
    }
}

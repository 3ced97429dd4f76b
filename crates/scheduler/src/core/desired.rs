//! What shall run: a persistent program as its message describes it, reduced to what placing it needs.

use protocol::message::program::{CpuRequirements, NodeRequirements};
use protocol::message::{ContentError, Persistence, ProgramContent, VolumeKind};
use protocol::{Address, Isolation, NodeId, ProgramId};
use regex::{Regex, RegexBuilder};

use super::data::OnLoss;

/// Disk that every program takes beside its volumes, in MiB: its unpacked code, its writable layer and its logs.
pub const BASE_DISK_MIB: u64 = 256;

/// The most memory that the compiled pattern of a program's `address_regex` may take, in bytes.
const MAX_PATTERN_BYTES: usize = 64 << 10;

/// What a program takes of a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    /// Virtual processors.
    pub vcpus: u64,
    /// MiB of memory.
    pub memory_mib: u64,
    /// MiB of disk.
    pub disk_mib: u64,
    /// MiB of the node's pool, for volumes that are written to.
    pub pool_mib: u64,
}

impl Needs {
    /// The same without what one of several takes.
    #[must_use]
    pub fn without(self, one: Self) -> Self {
        Self {
            vcpus: self.vcpus - one.vcpus,
            memory_mib: self.memory_mib - one.memory_mib,
            disk_mib: self.disk_mib - one.disk_mib,
            pool_mib: self.pool_mib - one.pool_mib,
        }
    }
}

impl Needs {
    /// Whether they are those of a program of which only the id is known: every other one takes a processor.
    pub fn is_unread(self) -> bool {
        self.vcpus == 0
    }
}

/// What a program demands of the node that runs it, beside room.
#[derive(Debug, Clone, Default)]
pub struct Demands {
    /// The processor.
    pub cpu: CpuRequirements,
    /// The account that registered the node.
    pub owner: Option<Address>,
    /// Exactly this node.
    pub node: Option<NodeId>,
    /// What stands between it and the machine; any will do when absent.
    pub isolation: Option<Isolation>,
    /// A pattern that is found somewhere in the URL that the node is registered with.
    pub address: Option<Regex>,
}

/// A persistent program that its message asks to run. Messages never change, so neither does this.
#[derive(Debug, Clone)]
pub struct ProgramSpec {
    /// The program.
    pub id: ProgramId,
    /// Who pays for it.
    pub owner: Address,
    /// The name that its owner gave it.
    pub name: Option<String>,
    /// The time of its message in microseconds since 1970: programs that wait for a node are placed in this order.
    pub time: i64,
    /// What it takes of a node.
    pub needs: Needs,
    /// What it demands of the node.
    pub demands: Demands,
    /// Whether it has data that has to follow it, and what to do when it cannot.
    pub data: Option<OnLoss>,
    /// Why no node can ever run it, when that is so.
    pub impossible: Option<String>,
    /// The item content of its message, byte for byte; empty when it is not known.
    pub content: String,
}

impl ProgramSpec {
    /// Reads a PROGRAM message's item content; `None` when it does not ask to run always.
    ///
    /// # Errors
    /// [`ContentError`] when the content is not a program's.
    pub fn read(id: ProgramId, content: String) -> Result<Option<Self>, ContentError> {
        let program = ProgramContent::parse(&content)?;
        if !program.is_persistent() {
            return Ok(None);
        }
        let (demands, impossible) = match demands(&program) {
            Ok(demands) => (demands, None),
            Err(why) => (Demands::default(), Some(why)),
        };
        Ok(Some(Self {
            id,
            owner: program.address.clone(),
            name: program.name().map(ToOwned::to_owned),
            time: program.time.as_micros(),
            needs: needs(&program),
            demands,
            data: program
                .volumes
                .iter()
                .any(|volume| matches!(volume.kind, VolumeKind::Persistent { .. }))
                .then(|| on_loss(&program)),
            impossible,
            content,
        }))
    }

    /// Stands for a program of which only the id is known: it keeps what it has and is placed nowhere.
    pub fn unknown(id: ProgramId, why: impl Into<String>) -> Self {
        Self {
            id,
            owner: Address::new(""),
            name: None,
            time: 0,
            needs: Needs::default(),
            demands: Demands::default(),
            data: None,
            impossible: Some(why.into()),
            content: String::new(),
        }
    }

    /// Whether only the id is known.
    pub fn is_unknown(&self) -> bool {
        self.content.is_empty()
    }
}

fn needs(program: &ProgramContent) -> Needs {
    let (mut disk_mib, mut pool_mib) = (BASE_DISK_MIB, 0);
    for volume in &program.volumes {
        match volume.kind {
            VolumeKind::Immutable { .. } => {}
            VolumeKind::Ephemeral { size_mib } => disk_mib += size_mib,
            VolumeKind::Persistent { size_mib, .. } => pool_mib += size_mib,
        }
    }
    Needs { vcpus: program.resources.vcpus.into(), memory_mib: program.resources.memory, disk_mib, pool_mib }
}

/// What to do when its data cannot be reached: what is in the archive is used; else its owner says, by the word at
/// `on_data_loss` in the message's metadata.
fn on_loss(program: &ProgramContent) -> OnLoss {
    let is_archived =
        |kind: &VolumeKind| matches!(kind, VolumeKind::Persistent { persistence: Some(Persistence::Store), .. });
    if program.volumes.iter().any(|volume| is_archived(&volume.kind)) {
        return OnLoss::Archive;
    }
    let word =
        program.metadata.as_ref().and_then(|metadata| metadata.get("on_data_loss")).and_then(|word| word.as_str());
    if word == Some("fresh") { OnLoss::Fresh } else { OnLoss::Wait }
}

/// The demands, or why no node can meet them.
fn demands(program: &ProgramContent) -> Result<Demands, String> {
    let isolation = program.isolation()?;
    let Some(requirements) = &program.requirements else { return Ok(Demands { isolation, ..Demands::default() }) };
    if requirements.gpu.as_ref().is_some_and(|gpus| !gpus.is_empty()) {
        return Err("it asks for a GPU, and no node of this network offers any".to_owned());
    }
    let node = requirements.node.clone().unwrap_or_default();
    let NodeRequirements { owner, address_regex, node_hash, terms_and_conditions } = node;
    if terms_and_conditions.is_some() {
        return Err("it asks for a node with certain terms and conditions, and no node of this network has any".into());
    }
    let node = match node_hash {
        Some(hash) => Some(hash.parse().map_err(|e| format!("it asks for one node only, but {e}"))?),
        None => None,
    };
    let address = match address_regex {
        Some(pattern) => Some(compile(&pattern)?),
        None => None,
    };
    let cpu = requirements.cpu.clone().unwrap_or_default();
    Ok(Demands { cpu, owner: owner.map(Address::new), node, isolation, address })
}

fn compile(pattern: &str) -> Result<Regex, String> {
    RegexBuilder::new(pattern)
        .size_limit(MAX_PATTERN_BYTES)
        .dfa_size_limit(MAX_PATTERN_BYTES)
        .build()
        .map_err(|e| format!("its pattern for the node's address cannot be used: {e}"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(change: impl FnOnce(&mut Value)) -> Option<ProgramSpec> {
        let mut content = crate::core::tests::content(1, 128);
        change(&mut content);
        ProgramSpec::read(ProgramId::from_bytes([1; 32]), content.to_string()).unwrap()
    }

    fn impossible(requirements: Value) -> String {
        read(|c| c["requirements"] = requirements).unwrap().impossible.unwrap()
    }

    #[test]
    fn only_persistent_programs_are_desired() {
        assert!(read(|_| ()).is_some());
        assert!(read(|c| c["on"] = json!({"http": true, "persistent": false})).is_none());
        assert!(read(|c| c["on"] = json!({"http": true})).is_none());
        assert!(ProgramSpec::read(ProgramId::from_bytes([1; 32]), "{}".to_owned()).is_err());
    }

    #[test]
    fn the_pool_holds_what_lasts_and_the_disk_what_does_not() {
        let spec = read(|c| {
            c["volumes"] = json!([
                {"ref": "aa", "mount": "/lib"},
                {"ephemeral": true, "size_mib": 5, "mount": "/tmp/x"},
                {"persistence": "host", "size_mib": 10, "mount": "/data"},
            ]);
        });
        let disk_mib = BASE_DISK_MIB + 5;
        assert_eq!(spec.unwrap().needs, Needs { vcpus: 1, memory_mib: 128, disk_mib, pool_mib: 10 });
    }

    #[test]
    fn what_no_node_can_meet_is_said_in_words() {
        assert!(impossible(json!({"gpu": [{"vendor": "x"}]})).contains("GPU"));
        assert!(impossible(json!({"node": {"terms_and_conditions": "aa"}})).contains("terms"));
        assert!(impossible(json!({"node": {"node_hash": "zz"}})).contains("'zz' is not a hash"));
        assert!(impossible(json!({"node": {"address_regex": "("}})).contains("pattern"));
        assert!(impossible(json!({"node": {"address_regex": "(a{100}){100}{100}"}})).contains("pattern"));
        assert!(read(|c| c["requirements"] = json!({"gpu": []})).unwrap().impossible.is_none());
    }

    #[test]
    fn the_isolation_is_a_demand_and_what_nobody_knows_is_impossible() {
        let asks = |value: Value| read(|c| c["metadata"] = json!({ "isolation": value })).unwrap();
        assert_eq!(asks(json!("gvisor")).demands.isolation, Some(Isolation::Gvisor));
        assert_eq!(read(|_| {}).unwrap().demands.isolation, None);
        assert!(asks(json!("vm")).impossible.unwrap().starts_with("metadata.isolation is \"vm\": write"));
    }
}

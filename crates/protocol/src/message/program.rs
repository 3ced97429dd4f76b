//! The content of a PROGRAM message, with the schema of aleph-message 1.7.0 (`ProgramContent`): unknown fields are refused
//! at the top level, in `on` and in volumes, and ignored in `code`, `runtime`, `resources` and `environment`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::content::{ContentError, Payment, parse_content};
use super::{MessageTime, Volume, VolumeKind};
use crate::Address;
use crate::isolation::{Isolation, UnknownIsolation};

/// A program: what to run, in which image, with which resources, when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProgramContent {
    /// The owner, who pays.
    pub address: Address,
    /// The sender's clock.
    pub time: MessageTime,
    /// Whether later messages may replace this one.
    pub allow_amend: bool,
    /// Free remarks; `name` is what clients show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Map<String, Value>>,
    /// SSH keys; no program uses them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorized_keys: Option<Vec<String>>,
    /// Environment variables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variables: Option<BTreeMap<String, String>>,
    /// What the program may use.
    pub environment: Environment,
    /// How much the program may use.
    pub resources: Resources,
    /// How it is paid for; by holding tokens when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payment: Option<Payment>,
    /// What the node must be or have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requirements: Option<Requirements>,
    /// Its volumes; always written, because clients compare the content as a whole.
    #[serde(default)]
    pub volumes: Vec<Volume>,
    /// The previous version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
    /// Always `vm-function`.
    #[serde(rename = "type")]
    pub machine_type: MachineType,
    /// The code.
    pub code: Code,
    /// The image that it runs in.
    pub runtime: Runtime,
    /// Input data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Data>,
    /// Output data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub export: Option<Export>,
    /// When it runs.
    pub on: Triggers,
}

/// The only type of machine that a PROGRAM has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MachineType {
    /// A program.
    #[serde(rename = "vm-function")]
    VmFunction,
}

/// How a file is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// A single file, as it is.
    Plain,
    /// A zip archive.
    Zip,
    /// A squashfs image.
    Squashfs,
}

/// How requests reach a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interface {
    /// A Python ASGI application, `module.path:attribute`.
    Asgi,
    /// An executable that listens on a port.
    Binary,
}

/// The code of a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Code {
    /// How it is packed.
    pub encoding: Encoding,
    /// What to start in it.
    pub entrypoint: String,
    /// The STORE message of the archive.
    #[serde(rename = "ref")]
    pub reference: String,
    /// How requests reach it; see [`Code::interface`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<Interface>,
    /// Arguments of a binary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
    /// Whether later revisions of the archive by the owner count.
    #[serde(default)]
    pub use_latest: bool,
}

impl Code {
    /// The interface: as stated, otherwise ASGI when the entrypoint has a colon.
    pub fn interface(&self) -> Interface {
        self.interface.unwrap_or(if self.entrypoint.contains(':') { Interface::Asgi } else { Interface::Binary })
    }
}

/// The image that a program runs in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runtime {
    /// The STORE message of the image.
    #[serde(rename = "ref")]
    pub reference: String,
    /// Whether later revisions of the image count.
    #[serde(default = "yes")]
    pub use_latest: bool,
    /// A remark, may be empty.
    pub comment: String,
}

fn yes() -> bool {
    true
}

/// Input data of a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Data {
    /// How it is packed.
    pub encoding: Encoding,
    /// Where the program sees it.
    pub mount: String,
    /// The STORE message.
    #[serde(rename = "ref")]
    pub reference: String,
    /// Whether later revisions count.
    #[serde(default)]
    pub use_latest: bool,
}

/// Output data of a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    /// How it is packed.
    pub encoding: Encoding,
    /// Where the program writes it.
    pub mount: String,
}

/// When a program runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Triggers {
    /// On requests.
    pub http: bool,
    /// On messages that match one of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<Vec<Map<String, Value>>>,
    /// Always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent: Option<bool>,
}

/// What a program may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// Promises the same output for the same input.
    #[serde(default)]
    pub reproducible: bool,
    /// May reach the internet.
    #[serde(default)]
    pub internet: bool,
    /// May use the Aleph API.
    #[serde(default)]
    pub aleph_api: bool,
    /// Shares its cache with others.
    #[serde(default)]
    pub shared_cache: bool,
}

/// How much a program may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Virtual processors, 1 to 256.
    #[serde(default = "one")]
    pub vcpus: u32,
    /// MiB of memory, 1 to 1048576.
    #[serde(default = "default_memory")]
    pub memory: u64,
    /// Seconds that one request may take, 1 to 315360000.
    #[serde(default = "one_second")]
    pub seconds: u64,
    /// Ports to publish; programs have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published_ports: Option<Vec<Value>>,
}

fn one() -> u32 {
    1
}

fn default_memory() -> u64 {
    128
}

fn one_second() -> u64 {
    1
}

/// What the node must be or have.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Requirements {
    /// Its processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<CpuRequirements>,
    /// Itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeRequirements>,
    /// Its graphics processors; no node of ours offers any, so a program that asks for one is placed nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<Vec<Value>>,
}

/// What the node's processor must be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuRequirements {
    /// `x86_64` or `arm64`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// As `/proc/cpuinfo` names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    /// All of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<Vec<String>>,
}

/// Which node it must be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRequirements {
    /// The owner's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// A pattern of its URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address_regex: Option<String>,
    /// Exactly this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_hash: Option<String>,
    /// The terms its owner published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms_and_conditions: Option<String>,
}

impl ProgramContent {
    /// Reads and checks an item content.
    ///
    /// # Errors
    /// [`ContentError`] with the first field that is unknown, of a wrong type or out of range.
    pub fn parse(item_content: &str) -> Result<Self, ContentError> {
        let content: Self = parse_content(item_content)?;
        content.validate()?;
        Ok(content)
    }

    /// What shall stand between it and the machine, if its message says so.
    ///
    /// # Errors
    /// What is wrong with what it says. It must not run then: with less than was asked for it would be in danger.
    pub fn isolation(&self) -> Result<Option<Isolation>, String> {
        let key = Isolation::METADATA_KEY;
        let Some(value) = self.metadata.as_ref().and_then(|metadata| metadata.get(key)) else { return Ok(None) };
        let isolation = value.as_str().unwrap_or_default().parse();
        isolation.map(Some).map_err(|e: UnknownIsolation| format!("metadata.{key} is {value}: {e}"))
    }

    /// Checks the ranges and lengths that types do not.
    ///
    /// # Errors
    /// [`ContentError`] with the first field that is out of range.
    pub fn validate(&self) -> Result<(), ContentError> {
        let in_range = |path: &str, value: u64, most: u64| {
            (1..=most)
                .contains(&value)
                .then_some(())
                .ok_or_else(|| ContentError::new(path, format!("{value} is not from 1 to {most}")))
        };
        in_range("resources.vcpus", self.resources.vcpus.into(), 256)?;
        in_range("resources.memory", self.resources.memory, 1_048_576)?;
        in_range("resources.seconds", self.resources.seconds, 315_360_000)?;
        let at_most = |path: &str, length: usize, most: usize| {
            (length <= most)
                .then_some(())
                .ok_or_else(|| ContentError::new(path, format!("{length} is more than the {most} allowed")))
        };
        at_most("volumes", self.volumes.len(), 256)?;
        at_most("replaces", self.replaces.as_deref().map_or(0, |r| r.chars().count()), 128)?;
        if self.code.entrypoint.is_empty() {
            return Err(ContentError::new("code.entrypoint", "it is empty"));
        }
        if let Some(keys) = &self.authorized_keys {
            at_most("authorized_keys", keys.len(), 256)?;
            for (i, key) in keys.iter().enumerate() {
                at_most(&format!("authorized_keys[{i}]"), key.chars().count(), 8192)?;
            }
        }
        for subscription in self.on.message.iter().flatten() {
            at_most("on.message", subscription.len(), 32)?;
        }
        self.validate_variables()?;
        self.validate_metadata()
    }

    fn validate_variables(&self) -> Result<(), ContentError> {
        let Some(variables) = &self.variables else { return Ok(()) };
        if variables.len() > 256 {
            return Err(ContentError::new("variables", "at most 256 entries"));
        }
        for (key, value) in variables {
            let path = format!("variables.{key}");
            if key.is_empty() || key.chars().count() > 128 || key.contains(['=', '\0']) {
                return Err(ContentError::new(path, "a name has 1 to 128 characters, without `=` and NUL"));
            }
            if value.chars().count() > 4096 || value.contains('\0') {
                return Err(ContentError::new(path, "a value has at most 4096 characters, without NUL"));
            }
        }
        Ok(())
    }

    fn validate_metadata(&self) -> Result<(), ContentError> {
        let Some(metadata) = &self.metadata else { return Ok(()) };
        if metadata.len() > 256 {
            return Err(ContentError::new("metadata", "at most 256 entries"));
        }
        for (key, value) in metadata {
            let fits = match value {
                Value::Object(_) => false,
                Value::Array(list) => key == "tags" && list.len() <= 16 && list.iter().all(Value::is_string),
                Value::String(text) => text.chars().count() <= 512,
                _ => true,
            };
            if key.chars().count() > 64 || !fits {
                return Err(ContentError::new(
                    format!("metadata.{key}"),
                    "names have at most 64 characters, values are numbers, booleans or texts of at most 512; `tags` is a list of at most 16 texts",
                ));
            }
        }
        Ok(())
    }

    /// Compact JSON with the fields in the schema's order, nothing null: the form that every client reads back.
    pub fn to_item_content(&self) -> String {
        serde_json::to_string(self).expect("a program's content has only string keys")
    }

    /// Whether it always runs.
    pub fn is_persistent(&self) -> bool {
        self.on.persistent == Some(true)
    }

    /// The name that its owner gave it.
    pub fn name(&self) -> Option<&str> {
        self.metadata.as_ref()?.get("name")?.as_str()
    }

    /// The compute units that it is priced by: one per virtual processor or started 2048 MiB of memory, whichever is more.
    pub fn compute_units(&self) -> u64 {
        u64::from(self.resources.vcpus).max(self.resources.memory.div_ceil(2048))
    }

    /// The STORE messages that it needs, and whether later revisions count: code, runtime, data, images of volumes.
    pub fn references(&self) -> Vec<(&str, bool)> {
        let mut references = vec![
            (self.code.reference.as_str(), self.code.use_latest),
            (&self.runtime.reference, self.runtime.use_latest),
        ];
        references.extend(self.data.as_ref().map(|data| (data.reference.as_str(), data.use_latest)));
        references.extend(self.volumes.iter().filter_map(|volume| match &volume.kind {
            VolumeKind::Immutable { reference, use_latest } => Some((reference.as_str(), *use_latest)),
            VolumeKind::Persistent { parent: Some(parent), .. } => Some((&parent.reference, parent.use_latest)),
            _ => None,
        }));
        references
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the Python client sends for the tutorial (seen on the wire).
    const TUTORIAL: &str = r#"{"address":"0xf39F","time":1795324003.5,"allow_amend":true,"metadata":{"name":"demo"},"authorized_keys":[],"environment":{"reproducible":false,"internet":false,"aleph_api":true,"shared_cache":false},"resources":{"vcpus":1,"memory":2048,"seconds":30},"payment":{"chain":"ETH","type":"hold"},"volumes":[],"type":"vm-function","code":{"encoding":"squashfs","entrypoint":"main:app","ref":"aa","use_latest":true},"runtime":{"ref":"bb","use_latest":true,"comment":"Official aleph.im runtime"},"on":{"http":true,"persistent":false}}"#;

    fn with(change: impl FnOnce(&mut Value)) -> Result<ProgramContent, ContentError> {
        let mut json: Value = serde_json::from_str(TUTORIAL).unwrap();
        change(&mut json);
        ProgramContent::parse(&json.to_string())
    }

    #[test]
    fn the_tutorial_message_returns_to_the_same_bytes() {
        let content = ProgramContent::parse(TUTORIAL).unwrap();
        assert_eq!(content.to_item_content(), TUTORIAL);
        assert_eq!(content.code.interface(), Interface::Asgi);
        assert_eq!(content.name(), Some("demo"));
        assert!(!content.is_persistent());
        assert_eq!(content.references(), [("aa", true), ("bb", true)]);
    }

    #[test]
    fn what_stands_between_it_and_the_machine_is_read_or_refused() {
        let asks = |value: Value| with(|c| c["metadata"]["isolation"] = value).unwrap().isolation();
        assert_eq!(with(|_| {}).unwrap().isolation(), Ok(None));
        assert_eq!(asks("gvisor".into()), Ok(Some(Isolation::Gvisor)));
        assert_eq!(asks("container".into()), Ok(Some(Isolation::Container)));
        for bad in [Value::from("vm"), Value::from(1), Value::Null] {
            let why = asks(bad.clone()).unwrap_err();
            assert_eq!(why, format!("metadata.isolation is {bad}: write \"container\" or \"gvisor\""));
        }
    }

    #[test]
    fn unknown_fields_are_refused_by_name_where_the_schema_forbids_them() {
        let error = with(|c| c["colour"] = "red".into()).unwrap_err();
        assert!(error.message.contains("colour"), "{error}");
        let error = with(|c| c["on"]["cron"] = "* * * * *".into()).unwrap_err();
        assert!(error.message.contains("cron"), "{error}");
        assert!(with(|c| c["code"]["comment"] = "x".into()).is_ok());
    }

    #[test]
    fn ranges_are_checked_by_name() {
        for (path, value) in [("vcpus", 0), ("vcpus", 257), ("memory", 0), ("memory", 1_048_577), ("seconds", 0)] {
            let error = with(|c| c["resources"][path] = value.into()).unwrap_err();
            assert_eq!(error.path, format!("resources.{path}"));
        }
        assert_eq!(with(|c| c["resources"]["memory"] = "128".into()).unwrap_err().path, "resources.memory");
        assert_eq!(with(|c| c["variables"] = serde_json::json!({"a=b": "c"})).unwrap_err().path, "variables.a=b");
        assert_eq!(with(|c| c["metadata"]["x"] = serde_json::json!({})).unwrap_err().path, "metadata.x");
        assert_eq!(with(|c| c["code"]["entrypoint"] = "".into()).unwrap_err().path, "code.entrypoint");
    }

    #[test]
    fn defaults_and_compute_units() {
        let content = with(|c| c["resources"] = serde_json::json!({})).unwrap();
        assert_eq!((content.resources.vcpus, content.resources.memory, content.resources.seconds), (1, 128, 1));
        assert_eq!(content.compute_units(), 1);
        assert_eq!(with(|c| c["resources"]["memory"] = 2049.into()).unwrap().compute_units(), 2);
        assert_eq!(with(|c| c["resources"]["vcpus"] = 4.into()).unwrap().compute_units(), 4);
    }
}

//! What a sandbox is claimed with, made from a program's message.

use std::path::Path;
use std::time::Duration;

use guest::{API_LINK, Configure, DEFAULT_PORT, Interface};
use lease::HolderDeadline;
use protocol::control::{Failure, FailureKind};
use protocol::message::program::{self, ProgramContent};
use protocol::message::{PlacedVolume, VolumeKind};
use protocol::{Epoch, ProgramId};
use sandbox::spec::{ClaimSpec, CodeSource, End, IdleSpec, Limits, LogSpec, NetworkSpec, VolumeSource, VolumeSpec};

use crate::core::on_demand::Patience;
use crate::core::persistent::Needs;

/// Processes and threads of one program.
const MAX_PIDS: u32 = 512;

/// The least that a Python interpreter with a server needs to start, in MiB. A program that asks for less gets less.
const SCRATCH_SHARE: u64 = 2;

/// What a program takes of the node.
pub(crate) fn needs(content: &ProgramContent) -> Needs {
    Needs { vcpus: content.resources.vcpus, memory_mib: content.resources.memory }
}

/// How long one of its requests may take.
pub(crate) fn request_limit(content: &ProgramContent) -> Duration {
    Duration::from_secs(content.resources.seconds)
}

/// The longest time without requests that a message may ask for. Who stays makes way when room is needed, all the same.
const LONGEST_IDLE: Duration = Duration::from_secs(24 * 3600);

/// Until a copy that nobody uses is frozen, and until it is stopped: seconds, in the metadata of a program's message.
const IDLE_KEYS: [&str; 2] = ["freeze_after", "idle_after"];

/// What a program's message says about copies that nobody uses.
pub(crate) fn idle(content: &ProgramContent) -> IdleSpec {
    let [freeze_after, stop_after] = IDLE_KEYS.map(|key| idle_seconds(content, key).and_then(Result::ok));
    IdleSpec { freeze_after_ms: freeze_after.map(millis), stop_after_ms: stop_after.map(millis) }
}

/// How many copies on demand a program may have at most, in the metadata of its message.
const COPIES_KEY: &str = "copies";

/// What a program's message says about that.
pub(crate) fn copies(content: &ProgramContent) -> Option<u16> {
    read_copies(content)?.ok()
}

/// What is wrong with what a message says about its copies, for the program's owner. It does not count then.
pub(crate) fn complaints(content: &ProgramContent) -> Vec<String> {
    let idle = IDLE_KEYS.iter().filter_map(|key| idle_seconds(content, key)?.err());
    idle.chain(read_copies(content).and_then(Result::err)).collect()
}

fn read_copies(content: &ProgramContent) -> Option<Result<u16, String>> {
    let value = content.metadata.as_ref()?.get(COPIES_KEY)?;
    let copies = value.as_u64().and_then(|copies| u16::try_from(copies).ok()).filter(|copies| *copies > 0);
    let complaint = || format!("metadata.{COPIES_KEY} is {value} and does not count: write a whole number from 1 on");
    Some(copies.ok_or_else(complaint))
}

fn idle_seconds(content: &ProgramContent, key: &str) -> Option<Result<Duration, String>> {
    let value = content.metadata.as_ref()?.get(key)?;
    let duration = value.as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let most = LONGEST_IDLE.as_secs();
    Some(duration.filter(|duration| *duration <= LONGEST_IDLE).ok_or_else(|| {
        format!("metadata.{key} is {value} and does not count: write a number of seconds from 0 to {most}")
    }))
}

/// How long a copy stays that nobody uses: as its message says, or as is `usual` on this node.
pub(crate) fn patience(idle: IdleSpec, usual: Patience) -> Patience {
    Patience {
        freeze_after: idle.freeze_after_ms.map_or(usual.freeze_after, Duration::from_millis),
        stop_after: idle.stop_after_ms.map_or(usual.stop_after, Duration::from_millis),
    }
}

/// Everything that a claim says beside the program itself.
pub(crate) struct Terms {
    pub(crate) epoch: Option<Epoch>,
    pub(crate) copy: u16,
    pub(crate) network: Option<NetworkSpec>,
    pub(crate) volumes: Vec<VolumeSpec>,
    pub(crate) logs: LogSpec,
    pub(crate) ready_within: Duration,
    pub(crate) deadline: HolderDeadline,
}

/// The claim for a program.
pub(crate) fn claim(id: ProgramId, content: &ProgramContent, code: CodeSource, terms: Terms) -> ClaimSpec {
    let memory_mib = content.resources.memory;
    ClaimSpec {
        program: id,
        epoch: terms.epoch,
        copy: terms.copy,
        limits: Limits {
            memory_mib,
            vcpus: content.resources.vcpus,
            pids: MAX_PIDS,
            // It is kept in memory, the program's own: half of it, so that a full disk is no full memory.
            scratch_mib: (memory_mib / SCRATCH_SHARE).max(1),
        },
        code,
        configure: configure(id, content, terms.epoch),
        network: terms.network,
        volumes: terms.volumes,
        logs: terms.logs,
        ready_within_ms: millis(terms.ready_within),
        request_limit_ms: millis(request_limit(content)),
        idle: idle(content),
        copies: copies(content),
        deadline: terms.deadline,
    }
}

/// The ephemeral volumes among a program's volumes, with their room in this directory.
pub(crate) fn ephemeral_volumes(placed: &[PlacedVolume], directory: &Path) -> Vec<VolumeSpec> {
    let spec = |volume: &PlacedVolume| {
        let VolumeKind::Ephemeral { size_mib } = volume.kind else { return None };
        let source = VolumeSource::Ephemeral { directory: directory.to_owned(), size_mib };
        Some(VolumeSpec { mount: volume.mount.clone().into(), source })
    };
    placed.iter().filter_map(spec).collect()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn configure(id: ProgramId, content: &ProgramContent, epoch: Option<Epoch>) -> Configure {
    let mut environment = guest::base_environment();
    environment.extend([
        // As the Aleph init sets it (contract: guest protocol).
        ("ALEPH_ADDRESS_TO_USE".to_owned(), id.host_label()),
        ("ALEPH_API_HOST".to_owned(), "http://localhost".to_owned()),
        ("ALEPH_API_UNIX_SOCKET".to_owned(), API_LINK.to_owned()),
        ("ALEPH_PROGRAM_ID".to_owned(), id.to_string()),
    ]);
    if let Some(epoch) = epoch {
        environment.push(("ALEPH_EPOCH".to_owned(), epoch.to_string()));
    }
    // The program's own variables win.
    for (key, value) in content.variables.iter().flatten() {
        environment.retain(|(existing, _)| existing != key);
        environment.push((key.clone(), value.clone()));
    }
    let interface = interface(content, &mut environment);
    Configure { interface, environment }
}

fn interface(content: &ProgramContent, environment: &mut Vec<(String, String)>) -> Interface {
    let entrypoint = &content.code.entrypoint;
    match content.code.interface() {
        program::Interface::Asgi => {
            let (module, attribute) = entrypoint.split_once(':').unwrap_or(("main", entrypoint));
            Interface::Asgi { module: module.to_owned(), attribute: attribute.to_owned() }
        }
        program::Interface::Binary => {
            let named = environment.iter().find(|(key, _)| key == "PORT").and_then(|(_, port)| port.parse().ok());
            if named.is_none() {
                environment.retain(|(key, _)| key != "PORT");
                environment.push(("PORT".to_owned(), DEFAULT_PORT.to_string()));
            }
            let arguments = content.code.args.clone().unwrap_or_default();
            Interface::Binary { path: entrypoint.clone(), arguments, port: named.unwrap_or(DEFAULT_PORT) }
        }
    }
}

/// What an end means for the program; `None` when it was told to end or its lease ended.
pub(crate) fn failure_of(end: &End, ready_within: Duration) -> Option<Failure> {
    use guest::StartFailure;
    let (kind, message) = match end {
        End::Stopped | End::LeaseEnded => return None,
        End::StartFailed { kind, message } => {
            let kind = match kind {
                StartFailure::Runtime => FailureKind::BadRuntime,
                StartFailure::Entrypoint => FailureKind::BadEntrypoint,
                StartFailure::Startup => FailureKind::StartupError,
            };
            (kind, message.clone())
        }
        End::NeverReady => {
            (FailureKind::NeverReady, format!("it did not answer within {} s of its start", ready_within.as_secs()))
        }
        End::Exited { .. } => (FailureKind::Exited, end.sentence()),
        End::OutOfMemory => (FailureKind::OutOfMemory, end.sentence()),
        End::BadCode { message } => (FailureKind::BadCode, message.clone()),
        End::SandboxError { message } => (FailureKind::NodeFault, message.clone()),
    };
    Some(Failure { kind, message: shortened(message) })
}

/// The end of a long message, where the reason is.
fn shortened(message: String) -> String {
    let most = protocol::control::MAX_FAILURE_BYTES;
    if message.len() <= most {
        return message;
    }
    let start = (message.len() - most..).find(|i| message.is_char_boundary(*i)).unwrap_or(message.len());
    message[start..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(entrypoint: &str, variables: &[(&str, &str)]) -> ProgramContent {
        let json = serde_json::json!({
            "address": "0x1", "time": 1, "allow_amend": true, "type": "vm-function", "environment": {},
            "resources": {"memory": 256, "vcpus": 2, "seconds": 9},
            "variables": variables.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect::<std::collections::BTreeMap<_, _>>(),
            "code": {"encoding": "zip", "entrypoint": entrypoint, "ref": "a", "args": ["x"]},
            "runtime": {"ref": "b", "comment": ""}, "on": {"http": true},
        });
        ProgramContent::parse(&json.to_string()).unwrap()
    }

    #[test]
    fn variables_of_the_program_win_and_name_the_port() {
        let configure =
            configure(ProgramId::from_bytes([1; 32]), &content("server", &[("PORT", "99"), ("HOME", "/x")]), None);
        assert_eq!(
            configure.interface,
            Interface::Binary { path: "server".into(), arguments: vec!["x".into()], port: 99 }
        );
        let homes: Vec<_> = configure.environment.iter().filter(|(key, _)| key == "HOME").collect();
        assert_eq!(homes, [&("HOME".to_owned(), "/x".to_owned())]);
        assert!(!configure.environment.iter().any(|(key, _)| key == "ALEPH_EPOCH"));
    }

    #[test]
    fn a_port_that_is_none_is_replaced() {
        let configure =
            configure(ProgramId::from_bytes([1; 32]), &content("server", &[("PORT", "http")]), Some(Epoch::FIRST));
        assert!(configure.environment.contains(&("PORT".to_owned(), "8080".to_owned())));
        assert!(configure.environment.contains(&("ALEPH_EPOCH".to_owned(), "1".to_owned())));
    }

    #[test]
    fn asgi_entrypoints_are_module_and_attribute() {
        let asgi =
            |entrypoint: &str| configure(ProgramId::from_bytes([1; 32]), &content(entrypoint, &[]), None).interface;
        let expected = Interface::Asgi { module: "a.b".into(), attribute: "c.d".into() };
        assert_eq!(asgi("a.b:c.d"), expected);
    }

    #[test]
    fn a_message_says_how_long_copies_stay() {
        let seconds = Duration::from_secs;
        let usual = Patience { freeze_after: seconds(15), stop_after: seconds(600) };
        let with = |metadata: serde_json::Value| {
            let mut content = content("main:app", &[]);
            content.metadata = metadata.as_object().cloned();
            (patience(idle(&content), usual), complaints(&content))
        };
        let stays = |freeze_after, stop_after| Patience { freeze_after, stop_after };
        assert_eq!(with(serde_json::json!(null)), (usual, vec![]));
        assert_eq!(
            with(serde_json::json!({"name": "x", "freeze_after": 0})),
            (stays(seconds(0), seconds(600)), vec![])
        );
        let both = serde_json::json!({"freeze_after": 2.5, "idle_after": 86400});
        assert_eq!(with(both), (stays(Duration::from_millis(2500), seconds(86400)), vec![]));
        for bad in [serde_json::json!(-1), "5".into(), true.into(), serde_json::json!(86401), serde_json::json!(1e300)]
        {
            let (patience, complaints) = with(serde_json::json!({"idle_after": bad}));
            assert_eq!(patience, usual, "{bad}");
            assert!(complaints[0].starts_with(&format!("metadata.idle_after is {bad} and")), "{complaints:?}");
        }
    }

    #[test]
    fn a_message_says_how_many_copies_there_may_be() {
        let with = |number: serde_json::Value| {
            let mut content = content("main:app", &[]);
            content.metadata = serde_json::json!({ "copies": number }).as_object().cloned();
            (copies(&content), complaints(&content).len())
        };
        assert_eq!(with(1.into()), (Some(1), 0));
        for bad in [serde_json::json!(0), serde_json::json!(-1), serde_json::json!(1.5), "2".into(), 65536.into()] {
            assert_eq!(with(bad), (None, 1));
        }
        assert_eq!(copies(&content("main:app", &[])), None);
    }

    #[test]
    fn ends_that_were_wanted_are_no_failures() {
        let limit = Duration::from_secs(60);
        assert_eq!(failure_of(&End::Stopped, limit), None);
        assert_eq!(failure_of(&End::LeaseEnded, limit), None);
        let failure = failure_of(&End::NeverReady, limit).unwrap();
        assert_eq!((failure.kind, failure.message.contains("60 s")), (FailureKind::NeverReady, true));
        let long = End::SandboxError { message: "é".repeat(5000) };
        assert!(failure_of(&long, limit).unwrap().message.len() <= protocol::control::MAX_FAILURE_BYTES);
    }
}

//! What a sandbox is claimed with, made from a program's message.

use std::path::Path;
use std::time::Duration;

use guest::{API_LINK, Configure, DEFAULT_PORT, Interface};
use lease::HolderDeadline;
use protocol::control::{Failure, FailureKind};
use protocol::message::program::{self, ProgramContent};
use protocol::message::{PlacedVolume, VolumeKind};
use protocol::{Epoch, ProgramId};
use sandbox::spec::{ClaimSpec, CodeSource, End, Limits, LogSpec, NetworkSpec, VolumeSource, VolumeSpec};

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

/// Everything that a claim says beside the program itself.
pub(crate) struct Terms {
    pub(crate) epoch: Option<Epoch>,
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

//! The core's notices as log lines and as events of the API.

use protocol::api::scheduler::SchedulerEvent;

use crate::core::Notice;

/// Writes the log line.
pub(crate) fn log(notice: &Notice) {
    match notice {
        Notice::Assigned { program, node, epoch, waited: Some(waited), .. } => {
            tracing::info!(%program, %node, %epoch, ?waited, "assigned");
        }
        Notice::Assigned { program, node, url, .. } => tracing::debug!(%program, %node, url, "the node has a new URL"),
        Notice::State { program, epoch, state } => {
            tracing::debug!(%program, %epoch, state = state.as_str(), "it does something else");
        }
        Notice::Ended { program, node, epoch, cause, proof } => {
            tracing::info!(%program, %node, %epoch, cause = cause.as_str(), proof = proof.as_str(), "assignment ended");
        }
        Notice::Unplaceable { program, reason } => tracing::warn!(%program, reason, "no node fits"),
        Notice::NodeHeard { node } => tracing::info!(%node, "the node sends heartbeats"),
        Notice::NodeSilent { node } => tracing::warn!(%node, "the node missed two heartbeats"),
        Notice::NodeLost { node } => tracing::warn!(%node, "all leases of the node are over"),
        Notice::Stray { node, program, epoch } => {
            tracing::info!(%program, %node, %epoch, "the node holds what is not its own any more; it is told to stop it");
        }
        Notice::EpochBehind { program, node, highest } => {
            tracing::error!(%program, %node, %highest,
                "a node has seen a higher epoch than this database: was it restored from an old copy? Epochs skip ahead");
        }
        Notice::Ordered(operation) => tracing::warn!(?operation, "it was ordered"),
        Notice::Moving { program, phase: Some((phase, to)), .. } => {
            tracing::info!(%program, phase = phase.as_str(), to = to.map(tracing::field::display), "it moves");
        }
        Notice::Moving { program, phase: None, .. } => tracing::debug!(%program, "it does not move any more"),
        Notice::MoveOver { program, end } => match &end.reason {
            Some(reason) => tracing::warn!(%program, from = %end.from, reason, "it could not be moved"),
            None => tracing::info!(%program, from = %end.from, outcome = end.outcome.as_str(), "its move is over"),
        },
        Notice::DataLost { program, loss } => {
            tracing::warn!(%program, ?loss, "it goes on with less than it had written");
        }
        Notice::Brake { stopped: Some(reason) } => tracing::error!("{reason}"),
        Notice::Brake { stopped: None } => tracing::warn!("reallocation goes on"),
        Notice::EmptyNodeList => {
            tracing::warn!("the message node lists no compute nodes, although there are some; its list is ignored");
        }
    }
}

/// The event of the API, for notices that have one.
pub fn scheduler_event(notice: &Notice) -> Option<SchedulerEvent> {
    Some(match notice {
        Notice::Assigned { program, node, epoch, url, .. } => {
            SchedulerEvent::VmScheduled { vm_hash: *program, node_hash: *node, epoch: *epoch, node_url: url.clone() }
        }
        Notice::State { program, epoch, state } => {
            SchedulerEvent::VmState { vm_hash: *program, epoch: *epoch, state: *state }
        }
        Notice::Ended { program, node, epoch, cause, .. } => SchedulerEvent::VmUnscheduled {
            vm_hash: *program,
            node_hash: *node,
            epoch: *epoch,
            reason: cause.to_string(),
        },
        Notice::Unplaceable { program, reason } => {
            SchedulerEvent::VmUnschedulable { vm_hash: *program, reason: reason.clone() }
        }
        Notice::Moving { program, epoch, phase } => SchedulerEvent::VmMoving {
            vm_hash: *program,
            epoch: *epoch,
            phase: phase.map(|(phase, _)| phase),
            node_hash: phase.and_then(|(_, to)| to),
        },
        Notice::MoveOver { .. }
        | Notice::DataLost { .. }
        | Notice::NodeHeard { .. }
        | Notice::NodeSilent { .. }
        | Notice::NodeLost { .. }
        | Notice::Stray { .. }
        | Notice::EpochBehind { .. }
        | Notice::Ordered(_)
        | Notice::Brake { .. }
        | Notice::EmptyNodeList => return None,
    })
}

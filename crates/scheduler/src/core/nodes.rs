//! What is known of the compute nodes.
//!
//! ```text
//!   Unheard ──heartbeat──▶ Heard ──two heartbeats missed──▶ Silent ──its leases are over──▶ Lost
//!      │                    ▲ ▲                                │                             │
//!      │                    │ └───────────heartbeat────────────┘                             │
//!      │                    └─────────────────────heartbeat──────────────────────────────────┘
//!      └──────────────────────────its leases are over──────────────────────────────────────▶ Lost
//! ```
//!
//! Only heartbeats and time move it. Whether a node is Silent or Lost ends no assignment: that is for each lease to say.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use chrono::{DateTime, Utc};
use lease::{BootTime, LeaseTimes};
use protocol::api::scheduler::NodeStatus;
use protocol::control::Heartbeat;
use protocol::data::Peer;
use protocol::{Address, NodeId, ProgramId};

use super::desired::Needs;
use super::event::{ConnectionId, Registration};
use super::grants::AssignedSet;
use super::placement::Offer;

/// How many grants of a connection are remembered: more than are under way.
const REMEMBERED_GRANTS: usize = 16;
/// The longest text of a node that is kept, in bytes.
const MAX_TEXT_BYTES: usize = 500;
/// A node that fell silent so often within this time is not preferred.
const FLAPS: usize = 2;
const FLAP_WINDOW: Duration = Duration::from_secs(600);

/// Whether a node is heard of; see the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    /// Not since this scheduler started.
    Unheard,
    /// It sends heartbeats.
    Heard,
    /// It missed heartbeats.
    Silent,
    /// Every lease that it can have had is over.
    Lost,
}

#[derive(Debug)]
pub(super) struct Node {
    /// What it offers; kept up to date for placing.
    pub(super) offer: Offer,
    pub(super) name: String,
    pub(super) manager: Option<Address>,
    /// Where gateways reach it: what it said when it connected.
    pub(super) url: Option<String>,
    /// The account that it last proved itself with.
    account: Option<Address>,
    pub(super) software: Option<String>,
    /// Whether the message that registered it is over.
    pub(super) is_gone: bool,
    pub(super) connection: Option<ConnectionId>,
    /// When the last grants of the connection were sent.
    pub(super) granted: VecDeque<(u64, BootTime)>,
    /// The newest heartbeat of the connection.
    sequence: Option<u64>,
    pub(super) life: Life,
    /// When it last fell silent.
    silences: Vec<BootTime>,
    /// Why an operator drains it, if one does.
    ordered_drain: Option<String>,
    /// Its last heartbeat, or when this scheduler first knew of it.
    last_alive: BootTime,
    pub(super) updated_at: DateTime<Utc>,
    pub(super) set: AssignedSet,
    /// The programs of which it reported data.
    pub(super) has_data_of: BTreeSet<ProgramId>,
}

impl Node {
    /// A node of which only the id is known.
    pub(super) fn new(node: NodeId, set: AssignedSet, now: BootTime, wall: DateTime<Utc>) -> Self {
        let offer = Offer {
            node,
            owner: Address::new(""),
            address: String::new(),
            is_listed: false,
            is_healthy: false,
            is_unsteady: false,
            draining: None,
            capacity: None,
            used: Needs::default(),
            programs: 0,
            unread: 0,
        };
        Self {
            offer,
            name: String::new(),
            manager: None,
            url: None,
            account: None,
            software: None,
            is_gone: false,
            connection: None,
            granted: VecDeque::new(),
            sequence: None,
            life: Life::Unheard,
            silences: Vec::new(),
            ordered_drain: None,
            last_alive: now,
            updated_at: wall,
            set,
            has_data_of: BTreeSet::new(),
        }
    }

    /// Takes in how it is registered. Returns whether that is new.
    pub(super) fn register(&mut self, registration: &Registration) -> bool {
        let before = self.registration();
        self.name.clone_from(&registration.name);
        self.manager.clone_from(&registration.manager);
        self.offer.owner = registration.owner.clone();
        self.offer.address.clone_from(&registration.address);
        if self.url.is_none() {
            self.url.clone_from(&registration.url);
        }
        let is_back = !self.offer.is_listed || self.is_gone;
        self.offer.is_listed = true;
        self.is_gone = false;
        is_back || before != self.registration()
    }

    /// How it is registered, with the URL that it last named.
    pub(super) fn registration(&self) -> Registration {
        Registration {
            node: self.offer.node,
            name: self.name.clone(),
            owner: self.offer.owner.clone(),
            manager: self.manager.clone(),
            address: self.offer.address.clone(),
            url: self.url.clone(),
        }
    }

    /// Where gateways reach it.
    pub(super) fn public_url(&self) -> &str {
        self.url.as_deref().unwrap_or(&self.offer.address)
    }

    /// What other nodes have to know to talk to it, once it has connected.
    pub(super) fn peer(&self) -> Option<Peer> {
        let (url, account) = (self.public_url().to_owned(), self.account.clone()?);
        Some(Peer { node: self.offer.node, url, account })
    }

    /// Whether it can keep copies for others.
    pub(super) fn can_keep(&self) -> bool {
        self.offer.is_listed && self.offer.draining.is_none() && self.life != Life::Lost && !self.is_gone
    }

    pub(super) fn connect(&mut self, connection: ConnectionId, account: Address, url: String, software: &str) {
        self.account = Some(account);
        self.connection = Some(connection);
        self.granted.clear();
        self.sequence = None;
        self.url = Some(url);
        self.software = Some(shortened(software));
        self.refresh();
    }

    pub(super) fn disconnect(&mut self) {
        self.connection = None;
        self.refresh();
    }

    /// A grant with this number is sent now.
    pub(super) fn grants(&mut self, sequence: u64, now: BootTime) {
        self.granted.push_back((sequence, now));
        if self.granted.len() > REMEMBERED_GRANTS {
            self.granted.pop_front();
        }
    }

    /// When a heartbeat was made at the earliest, before which this grant had arrived.
    pub(super) fn made_after(&self, heard: Option<u64>) -> Option<BootTime> {
        self.granted.iter().find(|(sequence, _)| Some(*sequence) == heard).map(|(_, at)| *at)
    }

    /// Whether a heartbeat is newer than all others of the node's newest connection.
    pub(super) fn is_newest(&self, connection: ConnectionId, sequence: u64) -> bool {
        self.connection == Some(connection) && self.sequence.is_none_or(|last| last < sequence)
    }

    /// Takes in a heartbeat. Returns whether the node may fit programs that it did not fit before.
    pub(super) fn hear(&mut self, heartbeat: &Heartbeat, now: BootTime, wall: DateTime<Utc>) -> bool {
        let before = (self.offer.is_healthy, self.offer.draining.take(), self.offer.capacity.take());
        self.sequence = Some(heartbeat.sequence);
        self.last_alive = now;
        self.life = Life::Heard;
        self.updated_at = wall;
        self.offer.is_unsteady = self.silences.iter().filter(|at| now.since(**at) <= FLAP_WINDOW).count() >= FLAPS;
        self.offer.draining = self.ordered_drain.clone().or_else(|| heartbeat.draining.as_deref().map(shortened));
        self.offer.capacity = Some(heartbeat.capacity.clone());
        self.refresh();
        before != (self.offer.is_healthy, self.offer.draining.clone(), self.offer.capacity.clone())
    }

    /// When to look whether it is silent.
    pub(super) fn due(&self, times: &LeaseTimes) -> Option<BootTime> {
        match self.life {
            Life::Heard => Some(self.last_alive + times.heartbeat() * 2),
            Life::Unheard | Life::Silent => Some(times.issuer(self.last_alive).at()),
            Life::Lost => None,
        }
    }

    /// Lets time pass. Returns whether it moved.
    pub(super) fn age(&mut self, times: &LeaseTimes, now: BootTime) -> bool {
        if self.due(times).is_none_or(|due| now < due) {
            return false;
        }
        if self.life == Life::Heard {
            self.silences.push(now);
            if self.silences.len() > FLAPS {
                self.silences.remove(0);
            }
        }
        self.life = if times.issuer(self.last_alive).is_over(now) { Life::Lost } else { Life::Silent };
        self.refresh();
        true
    }

    pub(super) fn is_heard(&self) -> bool {
        self.life == Life::Heard
    }

    pub(super) fn status(&self) -> NodeStatus {
        match self.life {
            _ if self.is_gone || !self.offer.is_listed => NodeStatus::Removed,
            Life::Heard => NodeStatus::Healthy,
            Life::Unheard | Life::Silent => NodeStatus::Unknown,
            Life::Lost => NodeStatus::Unreachable,
        }
    }

    pub(super) fn occupy(&mut self, needs: Needs) {
        self.offer.programs += 1;
        self.offer.unread += u32::from(needs.is_unread());
        self.offer.used.vcpus += needs.vcpus;
        self.offer.used.memory_mib += needs.memory_mib;
        self.offer.used.disk_mib += needs.disk_mib;
        self.offer.used.pool_mib += needs.pool_mib;
    }

    /// Undoes one [`Self::occupy`] with the same needs.
    pub(super) fn vacate(&mut self, needs: Needs) {
        self.offer.programs -= 1;
        self.offer.unread -= u32::from(needs.is_unread());
        self.offer.used = self.offer.used.without(needs);
    }

    /// Whether an operator drains it.
    pub(super) fn is_drained(&self) -> bool {
        self.ordered_drain.is_some()
    }

    /// An operator drains it, or does so no more; its next heartbeat says whether it drains itself.
    pub(super) fn drain(&mut self, reason: Option<String>) {
        self.offer.draining.clone_from(&reason);
        self.ordered_drain = reason;
    }

    fn refresh(&mut self) {
        self.offer.is_healthy = self.connection.is_some() && self.life == Life::Heard;
    }
}

/// At most [`MAX_TEXT_BYTES`] of a text that a node sent.
fn shortened(text: &str) -> String {
    truncated(text, MAX_TEXT_BYTES)
}

/// The longest beginning of a text that has at most so many bytes.
pub(super) fn truncated(text: &str, most: usize) -> String {
    text[..text.floor_char_boundary(most)].to_owned()
}

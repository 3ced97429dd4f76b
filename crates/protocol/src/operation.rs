//! What people tell a network's scheduler, signed: its operators by a key that the scheduler trusts, and owners of programs
//! about their own programs.
//!
//! An order names its recipient, is of use for a minute only, and is taken once: it cannot be replayed, neither to the same
//! scheduler nor to another.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::account::{SignatureError, recover};
use crate::control::random_nonce;
use crate::data::SnapshotId;
use crate::{Account, Address, NodeId, ProgramId};

/// How far an order's time may be from the scheduler's.
pub const ORDER_VALIDITY: Duration = Duration::from_secs(60);

/// The longest reason that can be given, in bytes.
pub const MAX_REASON_BYTES: usize = 500;

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "snake_case", deny_unknown_fields)]
pub enum Operation {
    /// Give a node no new programs, and move those that it has as soon as others have room.
    Drain {
        /// The node.
        node: NodeId,
        /// Why, for people.
        reason: String,
    },
    /// Let a node have programs again.
    Undrain {
        /// The node.
        node: NodeId,
    },
    /// "This machine is gone for good": what ran there is assigned again without waiting for its leases. Whoever says so
    /// of a machine that still runs starts programs twice.
    Lost {
        /// The node.
        node: NodeId,
    },
    /// Go on with reallocation, although many nodes are silent.
    Resume,
    /// Run a persistent program on another node. Its owner may order this, too. It replaces an earlier one.
    Move {
        /// The program.
        program: ProgramId,
        /// The node; `None` for the one that has its copies, or the best other one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<NodeId>,
    },
    /// Stop a persistent program, and start it with what the archive has of its volumes in this snapshot, or of another
    /// program's volumes of the same names. Its owner may order this, too. What it had written is kept on its node for a while.
    Restore {
        /// The program.
        program: ProgramId,
        /// The set of the archive.
        snapshot: SnapshotId,
        /// The program whose archive has it, of the same owner, to which nothing happens; `None` for the program's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<ProgramId>,
    },
    /// Leave a program where it is, although somebody had ordered to move it. Its owner may order this, too.
    CancelMove {
        /// The program.
        program: ProgramId,
    },
}

impl Operation {
    /// The node that it is about.
    pub fn node(&self) -> Option<NodeId> {
        match self {
            Self::Drain { node, .. } | Self::Undrain { node } | Self::Lost { node } => Some(*node),
            Self::Move { to, .. } => *to,
            Self::Resume | Self::CancelMove { .. } | Self::Restore { .. } => None,
        }
    }

    /// The program that it changes, whose owner may order it as well.
    pub fn program(&self) -> Option<ProgramId> {
        match self {
            Self::Move { program, .. } | Self::Restore { program, .. } | Self::CancelMove { program } => Some(*program),
            Self::Drain { .. } | Self::Undrain { .. } | Self::Lost { .. } | Self::Resume => None,
        }
    }
}

/// What an operator or owner signs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The scheduler's account: nobody else may take it.
    pub scheduler: Address,
    /// When it was signed.
    pub time: DateTime<Utc>,
    /// Makes it unique.
    pub nonce: String,
    /// What to do.
    #[serde(flatten)]
    pub operation: Operation,
}

/// An order as it is sent: the signed text, byte for byte, and the signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedOrder {
    /// [`Order`] as JSON.
    pub order: String,
    /// The signature of that text (EIP-191).
    pub signature: String,
}

/// Why an order is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// It cannot be read.
    #[error("the order cannot be read: {0}")]
    Malformed(String),
    /// It is for another scheduler.
    #[error("the order is for the scheduler {0}")]
    OtherRecipient(Address),
    /// It is too old, or of the future.
    #[error("the order was signed at {0}, more than a minute from now: are both clocks right?")]
    Time(DateTime<Utc>),
    /// The signature is none.
    #[error(transparent)]
    Signature(#[from] SignatureError),
}

impl SignedOrder {
    /// Signs an order for a scheduler.
    pub fn new(operator: &Account, scheduler: Address, time: DateTime<Utc>, operation: Operation) -> Self {
        let order = Order { scheduler, time, nonce: random_nonce(), operation };
        let order = serde_json::to_string(&order).expect("an order is JSON");
        Self { signature: operator.sign(order.as_bytes()), order }
    }

    /// Reads it, and says who signed it. Whether that account may give orders, and whether this one was taken before, is
    /// the caller's to decide.
    ///
    /// # Errors
    /// [`OrderError`].
    pub fn read(&self, recipient: &Address, now: DateTime<Utc>) -> Result<(Order, Address), OrderError> {
        let order: Order = serde_json::from_str(&self.order).map_err(|e| OrderError::Malformed(e.to_string()))?;
        if order.scheduler != *recipient {
            return Err(OrderError::OtherRecipient(order.scheduler));
        }
        if (now - order.time).abs().to_std().is_ok_and(|apart| apart > ORDER_VALIDITY) {
            return Err(OrderError::Time(order.time));
        }
        match &order.operation {
            Operation::Drain { reason, .. } if reason.len() > MAX_REASON_BYTES => {
                Err(OrderError::Malformed(format!("a reason has at most {MAX_REASON_BYTES} bytes")))
            }
            _ => Ok((order, recover(self.order.as_bytes(), &self.signature)?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_to_move_names_a_node_or_none() {
        let (owner, scheduler) = (Account::generate(), Account::generate());
        let (now, program) = (DateTime::from_timestamp(1_700_000_000, 0).unwrap(), ProgramId::from_bytes([7; 32]));
        for to in [None, Some(NodeId::from_bytes([1; 32]))] {
            let operation = Operation::Move { program, to };
            let signed = SignedOrder::new(&owner, scheduler.address().clone(), now, operation.clone());
            let (order, _) = signed.read(scheduler.address(), now).unwrap();
            assert_eq!((order.operation.program(), order.operation.node()), (Some(program), to));
            assert_eq!(order.operation, operation);
        }
    }

    #[test]
    fn an_order_to_restore_is_signed_for_both_programs() {
        let (owner, scheduler) = (Account::generate(), Account::generate());
        let (now, program) = (DateTime::from_timestamp(1_700_000_000, 0).unwrap(), ProgramId::from_bytes([7; 32]));
        let (from, other) = (ProgramId::from_bytes([8; 32]), ProgramId::from_bytes([9; 32]));
        let operation = Operation::Restore { program, snapshot: "3-17".parse().unwrap(), from: Some(from) };
        let signed = SignedOrder::new(&owner, scheduler.address().clone(), now, operation.clone());
        let (order, signer) = signed.read(scheduler.address(), now).unwrap();
        assert_eq!(
            (&order.operation, order.operation.program(), &signer),
            (&operation, Some(program), owner.address())
        );
        let replaced = signed.order.replace(&from.to_string(), &other.to_string());
        let signer = SignedOrder { order: replaced, ..signed }.read(scheduler.address(), now).map(|(_, signer)| signer);
        assert_ne!(signer.as_ref(), Ok(owner.address()), "another source is another order");
        // As orders were before there was a source.
        let earlier = serde_json::json!({"operation": "restore", "program": program, "snapshot": "3-17"});
        let own = Operation::Restore { program, snapshot: "3-17".parse().unwrap(), from: None };
        assert_eq!(serde_json::to_value(&own).unwrap(), earlier);
        assert_eq!(serde_json::from_value::<Operation>(earlier).unwrap(), own);
    }

    #[test]
    fn an_order_is_for_one_scheduler_and_for_a_minute() {
        let (operator, scheduler, other) = (Account::generate(), Account::generate(), Account::generate());
        let now = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let operation = Operation::Drain { node: NodeId::from_bytes([1; 32]), reason: "new kernel".into() };
        let signed = SignedOrder::new(&operator, scheduler.address().clone(), now, operation.clone());
        let (order, signer) = signed.read(scheduler.address(), now).unwrap();
        assert_eq!((order.operation, &signer), (operation, operator.address()));
        assert!(matches!(signed.read(other.address(), now), Err(OrderError::OtherRecipient(_))));
        for late in [now + ORDER_VALIDITY * 2, now - ORDER_VALIDITY * 2] {
            assert!(matches!(signed.read(scheduler.address(), late), Err(OrderError::Time(_))));
        }
        let changed = SignedOrder { order: signed.order.replace("new kernel", "old kernel"), ..signed.clone() };
        let signer = changed.read(scheduler.address(), now).map(|(_, signer)| signer);
        assert_ne!(signer.as_ref(), Ok(operator.address()), "what was signed is what counts");
        let unknown = SignedOrder { order: signed.order.replace("drain", "explode"), ..signed };
        assert!(matches!(unknown.read(scheduler.address(), now), Err(OrderError::Malformed(_))));
    }
}

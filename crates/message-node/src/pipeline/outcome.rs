//! What became of a submission.

use std::sync::Arc;

use protocol::api::message_node::MessageStatus;

use crate::core::Rejection;

/// What became of a submission. It may differ from what is known of its item hash: a wrongly signed copy is rejected while
/// the message itself is in force.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outcome {
    /// Where the message is in its life.
    pub status: MessageStatus,
    /// Why it was rejected.
    pub rejection: Option<Arc<Rejection>>,
}

impl Outcome {
    /// Not decided yet.
    pub(crate) const PENDING: Self = Self { status: MessageStatus::Pending, rejection: None };

    /// An outcome other than a rejection.
    pub(crate) const fn of(status: MessageStatus) -> Self {
        Self { status, rejection: None }
    }

    /// A rejection.
    pub(crate) fn rejected(rejection: Rejection) -> Self {
        Self { status: MessageStatus::Rejected, rejection: Some(Arc::new(rejection)) }
    }
}

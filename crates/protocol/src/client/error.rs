//! What can go wrong when another part of the network is asked.

use crate::api::message_node::ErrorBody;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers at that address.
    #[error("cannot reach {url}: {cause}")]
    Unreachable {
        /// Where.
        url: String,
        /// The innermost cause, as `connection refused`.
        cause: String,
    },
    /// An answer that says no.
    #[error("{url} answered {status}: {message}")]
    Status {
        /// Where.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The sentence of the answer, or its first characters.
        message: String,
        /// The whole answer, when it is JSON.
        body: Option<serde_json::Value>,
    },
    /// An answer that is not what the API promises.
    #[error("{url} sent an answer that cannot be read: {cause}")]
    Malformed {
        /// Where.
        url: String,
        /// Why not.
        cause: String,
    },
}

impl ClientError {
    /// Nobody answered, or the connection broke.
    pub(crate) fn unreachable(url: impl Into<String>, error: &dyn std::error::Error) -> Self {
        let mut innermost = error;
        while let Some(source) = innermost.source() {
            innermost = source;
        }
        Self::Unreachable { url: url.into(), cause: innermost.to_string() }
    }

    pub(crate) fn malformed(url: impl Into<String>, error: impl std::fmt::Display) -> Self {
        Self::Malformed { url: url.into(), cause: error.to_string() }
    }

    /// Reads the error of an answer that is no success.
    pub(crate) async fn from_response(response: reqwest::Response) -> Self {
        let (url, status) = (response.url().to_string(), response.status().as_u16());
        let text = response.text().await.unwrap_or_default();
        let body: Option<serde_json::Value> = serde_json::from_str(&text).ok();
        let sentence = body.clone().and_then(|body| serde_json::from_value::<ErrorBody>(body).ok()).map(|e| e.message);
        let message = sentence.unwrap_or_else(|| text.chars().take(300).collect());
        Self::Status { url, status, message, body }
    }

    /// The HTTP status, when there was an answer.
    pub const fn status(&self) -> Option<u16> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether the same request may succeed later: nobody answered, or the answer was a server's error or "too many".
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Status { status, .. } => *status >= 500 || *status == 429 || *status == 408,
            Self::Malformed { .. } => false,
        }
    }
}

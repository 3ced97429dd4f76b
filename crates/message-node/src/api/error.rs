//! Answers that are no success.

use axum::Json;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use protocol::api::archive::StaleEpochDetails;
use protocol::api::message_node::ErrorBody;
use protocol::message::{ContentError, EnvelopeError};
use serde_json::{Value, json};

use super::openapi;
use crate::admission::{NotAdmitted, whole_seconds};
use crate::archive::Failure;
use crate::core::Rejection;
use crate::core::archive::Refusal;
use crate::core::car::CarError;
use crate::core::quota::Exceeded;
use crate::files::UploadError;
use crate::files::car::ImportError;
use crate::pipeline::SubmitError;
use crate::store::StoreError;

/// Seconds after which a client that was turned away by a busy node may come back.
const RETRY_AFTER: u64 = 2;

/// Why a request failed.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    body: ErrorBody,
    /// Seconds after which a client that was turned away may come back.
    retry_after: Option<u64>,
}

/// The result of a request.
pub(crate) type Answer<T> = Result<T, ApiError>;

impl ApiError {
    fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            body: ErrorBody { code: code.to_owned(), message: message.into(), details: None },
            retry_after: None,
        }
    }

    /// 400.
    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    /// 404.
    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    /// 410: it was there.
    pub(super) fn gone(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "gone", message)
    }

    /// 413.
    pub(super) fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    }

    /// 422.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", message)
    }

    /// 422: a page of a list would be too large.
    pub(super) fn page_too_large(most: u64) -> Self {
        Self::invalid(format!("this page would have more than {most} bytes: lower 'pagination', or use 'cursor'"))
    }

    /// 403: the signature is not the sender's.
    pub(super) fn wrong_signature(error: &EnvelopeError) -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "invalid_signature",
            format!("{error}; sign the message with the key of its sender"),
        )
    }

    /// 402.
    pub(super) fn payment_required(rejection: &Rejection) -> Self {
        Self::new(StatusCode::PAYMENT_REQUIRED, "payment_required", rejection.code.explanation()).about(rejection)
    }

    /// 422 because the message was rejected.
    pub(super) fn rejected(rejection: &Rejection) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "rejected", rejection.code.explanation()).about(rejection)
    }

    /// 408: the client stopped sending.
    pub(super) fn timed_out(message: impl Into<String>) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "timed_out", message)
    }

    /// 416.
    pub(super) fn bad_range(bytes: u64) -> Self {
        let message = format!("the file has {bytes} bytes; ask for a range within it");
        Self::new(StatusCode::RANGE_NOT_SATISFIABLE, "bad_range", message)
    }

    /// 400 or 426: a stream was asked for in another way than by a WebSocket.
    pub(super) fn no_websocket(rejection: &WebSocketUpgradeRejection) -> Self {
        let code = if rejection.status() == StatusCode::UPGRADE_REQUIRED { "upgrade_required" } else { "bad_request" };
        let message = format!("{}; open a WebSocket here", rejection.body_text());
        Self::new(rejection.status(), code, message)
    }

    /// 503: later it may work.
    pub(super) fn busy(message: impl Into<String>) -> Self {
        Self { retry_after: Some(RETRY_AFTER), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message) }
    }

    /// 500; the cause goes to the log.
    pub(super) fn internal(cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(%cause, "a request failed");
        let message = "the message node failed; see its log, and try again later";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }

    fn about(mut self, rejection: &Rejection) -> Self {
        let Value::Object(mut details) = rejection.details() else { return self };
        details.insert("error_code".to_owned(), json!(rejection.code.code()));
        self.body.details = Some(details.into());
        self
    }

    /// The answer to unknown paths.
    pub(super) async fn no_such_route(uri: Uri) -> Self {
        Self::not_found(format!("there is nothing at {}; {} says what there is", uri.path(), openapi::PATH))
    }

    /// The answer to known paths with an unknown method.
    pub(super) async fn no_such_method(uri: Uri) -> Self {
        let message = format!("{} does not take this method; {} says which it takes", uri.path(), openapi::PATH);
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body)).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Away(_) => Self::busy(error.to_string()),
            StoreError::Nul => Self::invalid(error.to_string()),
            _ => Self::internal(&error),
        }
    }
}

impl From<NotAdmitted> for ApiError {
    fn from(refusal: NotAdmitted) -> Self {
        let message = refusal.to_string();
        match refusal {
            NotAdmitted::Signature(error) => Self::wrong_signature(&error),
            NotAdmitted::Stranger(_) | NotAdmitted::Anonymous => {
                Self::new(StatusCode::FORBIDDEN, "sender_not_allowed", message)
            }
            NotAdmitted::TooMuch(_, Exceeded { after, .. }) => Self {
                retry_after: after.map(whole_seconds),
                ..Self::new(StatusCode::TOO_MANY_REQUESTS, "sender_limit", message)
            },
        }
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let status = StatusCode::from_u16(refusal.code.status()).expect("the codes of the archive have statuses");
        let mut error = Self::new(status, refusal.code.as_str(), refusal.message);
        error.body.details = refusal.highest.map(|highest| json!(StaleEpochDetails { highest }));
        error
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(refusal) => refusal.into(),
            Failure::Store(error) => error.into(),
        }
    }
}

impl From<EnvelopeError> for ApiError {
    fn from(error: EnvelopeError) -> Self {
        Self::invalid(error.to_string())
    }
}

impl From<ContentError> for ApiError {
    fn from(error: ContentError) -> Self {
        Self::invalid(format!("{error}; {} says what is expected", openapi::PATH))
    }
}

impl From<UploadError> for ApiError {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::TooLarge { .. } => Self::too_large(error.to_string()),
            UploadError::Write(_) => Self::internal(&error),
            UploadError::Stopping => Self::busy(error.to_string()),
        }
    }
}

impl From<CarError> for ApiError {
    fn from(error: CarError) -> Self {
        Self::invalid(format!("{error}; make the CAR file anew"))
    }
}

impl From<ImportError> for ApiError {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::Tree(_) | ImportError::Missing(_) => Self::invalid(format!("{error}; make the CAR file anew")),
            ImportError::Upload(error) => error.into(),
            ImportError::Store(error) => error.into(),
        }
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Busy(_) | SubmitError::Stopping => Self::busy(error.to_string()),
            SubmitError::Store(error) => error.into(),
            SubmitError::NotStored => Self::internal(&error),
        }
    }
}

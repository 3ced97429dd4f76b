//! The gateway's own answers, told apart from the programs' by a header.

use axum::body::Body;
use forward::ForwardError;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use protocol::ProgramId;
use protocol::api::message_node::{ErrorBody, MessageStatus};
use protocol::control::Failure;

/// Marks an answer that is the gateway's, not the program's: other gateways may try again elsewhere.
pub(crate) const GATEWAY_ANSWER: HeaderName = HeaderName::from_static("aleph-gateway-error");

/// Says so when the node, not the program, is the reason.
pub(crate) const NODE_FAULT: &str = "node_fault";

/// Seconds after which a client may try again.
const RETRY_SECONDS: HeaderValue = HeaderValue::from_static("2");

/// Why a request is not answered by a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No id.
    NotAnId(String),
    /// No such program.
    Unknown(ProgramId),
    /// Not in force.
    Over(ProgramId, MessageStatus),
    /// In force, but no program.
    Invalid(String),
    /// Never runs on requests.
    NotOnRequests(ProgramId),
    /// Nobody can be asked what it is.
    NobodyToAsk(String),
    /// It does not run now; the reason is for people.
    NotRunning(String),
    /// It failed.
    Failed(Failure),
    /// It runs, but not on this node.
    NotHere,
    /// It did not answer in time.
    TooSlow(u64),
    /// The connection to it broke.
    Broken(String),
}

impl From<ForwardError> for Refusal {
    fn from(error: ForwardError) -> Self {
        match error {
            ForwardError::TooSlow(limit) => Self::TooSlow(limit.as_secs()),
            ForwardError::Broken(why) => Self::Broken(why),
        }
    }
}

impl Refusal {
    fn parts(&self) -> (StatusCode, &'static str, String) {
        match self {
            Self::NotAnId(text) => {
                let message = format!("'{text}' is no program's id: expected the 64 hexadecimal digits of its message");
                (StatusCode::BAD_REQUEST, "bad_program_id", message)
            }
            Self::Unknown(id) => (StatusCode::NOT_FOUND, "unknown_program", format!("there is no program {id}")),
            Self::Over(id, status) => {
                let code = if *status == MessageStatus::Rejected { StatusCode::NOT_FOUND } else { StatusCode::GONE };
                (code, "program_over", format!("the program {id} is {}", status.as_str()))
            }
            Self::Invalid(why) => {
                (StatusCode::NOT_FOUND, "not_a_program", format!("this message is no program: {why}"))
            }
            Self::NotOnRequests(id) => {
                let message = format!("the program {id} does not run on requests (`on.http` is false)");
                (StatusCode::NOT_FOUND, "not_on_requests", message)
            }
            Self::NobodyToAsk(why) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", why.clone()),
            Self::NotRunning(why) => {
                (StatusCode::SERVICE_UNAVAILABLE, "not_running", format!("the program does not run now: {why}"))
            }
            Self::Failed(failure) => {
                // What exactly happened is for its owner, in the log.
                let code = if failure.kind.is_fault_of_node() { NODE_FAULT } else { "program_failed" };
                let message = format!("the program does not run: {}", failure.kind.words());
                (StatusCode::SERVICE_UNAVAILABLE, code, message)
            }
            Self::NotHere => {
                (StatusCode::MISDIRECTED_REQUEST, "not_here", "the program does not run on this node".to_owned())
            }
            Self::TooSlow(seconds) => {
                let message = format!("the program did not answer within its {seconds} s (`resources.seconds`)");
                (StatusCode::GATEWAY_TIMEOUT, "too_slow", message)
            }
            Self::Broken(why) => {
                (StatusCode::BAD_GATEWAY, "broken", format!("the connection to the program broke: {why}"))
            }
        }
    }

    /// A word for what happened.
    pub(crate) fn code(&self) -> &'static str {
        self.parts().1
    }

    /// The answer.
    pub(crate) fn respond(&self) -> Response<Body> {
        let (status, code, message) = self.parts();
        let body = ErrorBody { code: code.to_owned(), message, details: None };
        let mut response = Response::new(Body::from(serde_json::to_vec(&body).expect("an error is JSON")));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(GATEWAY_ANSWER, HeaderValue::from_static(code));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, RETRY_SECONDS);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use protocol::control::FailureKind;

    use super::*;

    #[test]
    fn refusals_can_be_told_from_the_programs_own_answers() {
        let response = Refusal::NotRunning("it moves".into()).respond();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[RETRY_AFTER], "2");
        assert_eq!(response.headers()[GATEWAY_ANSWER], "not_running");
        let id = ProgramId::from_bytes([1; 32]);
        assert_eq!(Refusal::Over(id, MessageStatus::Forgotten).respond().status(), StatusCode::GONE);
        let failed = |kind| Refusal::Failed(Failure { kind, message: String::new() }).code();
        assert_eq!(failed(FailureKind::NodeFault), NODE_FAULT);
        assert_eq!(failed(FailureKind::StartupError), "program_failed");
        assert_eq!(Refusal::NotHere.respond().status(), StatusCode::MISDIRECTED_REQUEST);
    }
}

//! Answers: those of programs, here and on other nodes, and the gateway's own, told apart by a header.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use forward::{Answer, BoxError, ForwardError, UnixSocket};
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use protocol::ProgramId;
use protocol::api::message_node::{ErrorBody, MessageStatus};
use protocol::control::Failure;

use super::nodes::ToNode;
use crate::programs::endpoint::Visit;

/// An answer.
pub(crate) type Reply = Response<ReplyBody>;

/// The body of an answer.
#[derive(Debug)]
pub(crate) enum ReplyBody {
    /// This node's own.
    Own(Body),
    /// That of a program on this node.
    Program(Answer<UnixSocket, Incoming, Visit>),
    /// That of another node.
    Node(Answer<ToNode, Incoming, ()>),
}

impl http_body::Body for ReplyBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut *self {
            Self::Own(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Self::Program(body) => Pin::new(body).poll_frame(cx),
            Self::Node(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(body) => body.is_end_stream(),
            Self::Program(body) => body.is_end_stream(),
            Self::Node(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(body) => body.size_hint(),
            Self::Program(body) => body.size_hint(),
            Self::Node(body) => body.size_hint(),
        }
    }
}

/// Marks an answer that is the gateway's, not the program's: other gateways may try again elsewhere.
pub(crate) const GATEWAY_ANSWER: HeaderName = HeaderName::from_static("aleph-gateway-error");

/// Says so when the node, not the program, is the reason.
pub(crate) const NODE_FAULT: &str = "node_fault";

/// Says so when the program does not run on that node.
pub(super) const NOT_HERE: &str = "not_here";

/// Say so when the connection to the program cannot be made, and when it broke.
pub(super) const UNREACHABLE: &str = "unreachable";
pub(super) const BROKEN: &str = "broken";

/// Seconds after which a client may try again.
const RETRY_SECONDS: HeaderValue = HeaderValue::from_static("2");

const CLOSE: HeaderValue = HeaderValue::from_static("close");
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");

/// Why a request is not answered by a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It cannot be told what it asks for; the reason is for people.
    BadRequest(String),
    /// Its body is coded in a way that would be lost on the way.
    UnknownCoding,
    /// It asks for a tunnel.
    NoTunnels,
    /// The client sent nothing of its body for so many seconds.
    ClientTooSlow(u64),
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
    /// There is no connection to it: nothing was sent.
    Unreachable(String),
    /// The connection to it broke. It may have acted upon the request.
    Broken(String),
}

impl From<ForwardError> for Refusal {
    fn from(error: ForwardError) -> Self {
        match error {
            ForwardError::TooSlow(limit) => Self::TooSlow(limit.as_secs()),
            ForwardError::ClientTooSlow(limit) => Self::ClientTooSlow(limit.as_secs()),
            ForwardError::BadBody(why) => Self::BadRequest(format!("its body is broken: {why}")),
            ForwardError::Unreachable(why) => Self::Unreachable(why),
            ForwardError::Broken(why) => Self::Broken(why),
        }
    }
}

impl Refusal {
    fn parts(&self) -> (StatusCode, &'static str, String) {
        match self {
            Self::BadRequest(why) => (StatusCode::BAD_REQUEST, "bad_request", format!("this is no request: {why}")),
            Self::UnknownCoding => {
                let message = "the only Transfer-Encoding that is taken is chunked".to_owned();
                (StatusCode::NOT_IMPLEMENTED, "unknown_coding", message)
            }
            Self::NoTunnels => {
                let message = "a gateway opens no tunnels: send the request itself instead of CONNECT".to_owned();
                (StatusCode::METHOD_NOT_ALLOWED, "no_tunnels", message)
            }
            Self::ClientTooSlow(seconds) => {
                let message = format!("nothing of the request's body came for {seconds} s");
                (StatusCode::REQUEST_TIMEOUT, "client_too_slow", message)
            }
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
                (StatusCode::MISDIRECTED_REQUEST, NOT_HERE, "the program does not run on this node".to_owned())
            }
            Self::TooSlow(seconds) => {
                let message = format!("the program did not answer within its {seconds} s (`resources.seconds`)");
                (StatusCode::GATEWAY_TIMEOUT, "too_slow", message)
            }
            Self::Unreachable(why) => {
                (StatusCode::BAD_GATEWAY, UNREACHABLE, format!("the program cannot be connected to: {why}"))
            }
            Self::Broken(why) => {
                (StatusCode::BAD_GATEWAY, BROKEN, format!("the connection to the program broke: {why}"))
            }
        }
    }

    /// Whether the program exists, and it is not answered all the same.
    pub(crate) fn is_about_a_program_in_force(&self) -> bool {
        match self {
            Self::Failed(_) | Self::NotHere | Self::TooSlow(_) | Self::Unreachable(_) | Self::Broken(_) => true,
            // Of what comes after it was found.
            Self::NotRunning(_) | Self::ClientTooSlow(_) | Self::BadRequest(_) => true,
            Self::UnknownCoding | Self::NoTunnels | Self::NotAnId(_) | Self::Unknown(_) | Self::Over(..) => false,
            Self::Invalid(_) | Self::NotOnRequests(_) | Self::NobodyToAsk(_) => false,
        }
    }

    /// A word for what happened.
    pub(crate) fn code(&self) -> &'static str {
        self.parts().1
    }

    /// The answer.
    pub(crate) fn respond(&self) -> Reply {
        let (status, code, message) = self.parts();
        let body = ErrorBody { code: code.to_owned(), message, details: None };
        let body = Body::from(serde_json::to_vec(&body).expect("an error is JSON"));
        let mut response = Response::new(ReplyBody::Own(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(GATEWAY_ANSWER, HeaderValue::from_static(code));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, RETRY_SECONDS);
        }
        match self {
            // What else comes on the connection may be anything.
            Self::BadRequest(_) | Self::UnknownCoding | Self::ClientTooSlow(_) => {
                headers.insert(CONNECTION, CLOSE);
            }
            Self::NoTunnels => {
                headers.insert(ALLOW, METHODS);
            }
            _ => {}
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

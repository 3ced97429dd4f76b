//! Passes a request on and its answer back, as they are: streaming both ways, upgrades included.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::uri::PathAndQuery;
use http::{Request, Response, StatusCode, Uri};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::Connect;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

/// Headers that concern one connection only (RFC 9110, 7.6.1).
const HOP_BY_HOP: [HeaderName; 6] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
];

/// How long an answer may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Until it begins.
    pub head: Duration,
    /// Until it is over, if that is limited, too.
    pub whole: Option<Duration>,
}

/// Why there is no answer to pass back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// The answer did not begin in time.
    #[error("no answer within {} s", .0.as_secs())]
    TooSlow(Duration),
    /// The connection cannot be made or broke.
    #[error("{0}")]
    Broken(String),
}

/// Sends a request to `origin` (scheme and authority) at `path`, and keeps `visit` as long as anything of it is under way.
///
/// # Errors
/// [`ForwardError`], before anything of an answer was there.
pub async fn forward<C, V>(
    client: &Client<C, Body>,
    mut request: Request<Body>,
    origin: &Uri,
    path: PathAndQuery,
    limits: Limits,
    visit: V,
) -> Result<Response<Body>, ForwardError>
where
    C: Connect + Clone + Send + Sync + 'static,
    V: Send + Sync + Unpin + 'static,
{
    let began = Instant::now();
    let upgrade = upgrade_of(request.headers());
    let client_side = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
    strip_hop_by_hop(request.headers_mut());
    put_upgrade_back(request.headers_mut(), upgrade.as_ref());
    *request.uri_mut() = at(origin, path);
    *request.version_mut() = http::Version::HTTP_11;

    let response = match timeout(limits.head, client.request(request)).await {
        Err(_) => return Err(ForwardError::TooSlow(limits.head)),
        Ok(Err(error)) => return Err(ForwardError::Broken(innermost(&error))),
        Ok(Ok(response)) => response,
    };
    let mut response: Response<Incoming> = response;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(client_side) = client_side
    {
        let program_side = hyper::upgrade::on(&mut response);
        tokio::spawn(async move {
            let _visit = visit;
            if let (Ok(client), Ok(program)) = (client_side.await, program_side.await) {
                // Either side may break off whenever it likes.
                let _ = copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(program)).await;
            }
        });
        return Ok(response.map(|_| Body::empty()));
    }
    strip_hop_by_hop(response.headers_mut());
    let deadline = limits.whole.map(|whole| Box::pin(sleep_until(began + whole)));
    Ok(response.map(|body| Body::new(Accompanied { body, deadline, _visit: visit })))
}

fn at(origin: &Uri, path: PathAndQuery) -> Uri {
    let mut parts = origin.clone().into_parts();
    parts.path_and_query = Some(path);
    Uri::from_parts(parts).expect("an origin and a path are an address")
}

/// The protocol that a request wants to switch to.
fn upgrade_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let wants = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let wants = wants.flat_map(|value| value.split(',')).any(|token| token.trim().eq_ignore_ascii_case("upgrade"));
    wants.then(|| headers.get(UPGRADE).cloned()).flatten()
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

fn put_upgrade_back(headers: &mut HeaderMap, upgrade: Option<&HeaderValue>) {
    if let Some(protocol) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol.clone());
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// An answer's body, with what must be kept until it is over, and the moment at which it is cut off.
struct Accompanied<V> {
    body: Incoming,
    deadline: Option<Pin<Box<Sleep>>>,
    _visit: V,
}

impl<V: Unpin> HttpBody for Accompanied<V> {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Some(Err("the answer took longer than it may".into())));
        }
        Pin::new(&mut self.body).poll_frame(cx).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_one_connection_stay_there() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("connection", "close, X-Mine"), ("x-mine", "1"), ("te", "trailers"), ("x-other", "2")] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-other"]);
    }

    #[test]
    fn upgrades_need_both_headers() {
        let mut headers = HeaderMap::new();
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        assert_eq!(upgrade_of(&headers), None);
        headers.insert(CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
        assert_eq!(upgrade_of(&headers).unwrap(), "websocket");
    }
}

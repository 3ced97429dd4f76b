//! What programs can ask, and what they are told.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use axum::{Router, http};
use protocol::{Epoch, NodeId};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{OnceCell, Semaphore};

use super::{Flush, FlushError};
use crate::programs::sandboxes::Owner;

/// How long a flush may take, in seconds, if the program does not say.
const FLUSH_SECONDS: u64 = 30;

/// How long it may take at most, in seconds.
const MAX_FLUSH_SECONDS: u64 = 300;

/// How many flushes of a sandbox may be under way. Others wait, within their own time.
const FLUSHES_AT_ONCE: usize = 4;

/// What there is, for those who ask for something else.
const ROUTES: &str = "GET /properties, GET /fence and POST /volumes/flush";

struct Guest<F> {
    owner: Owner,
    node: Arc<OnceCell<NodeId>>,
    flush: Option<Arc<F>>,
    flushing: Semaphore,
}

/// An answer that says no.
struct GuestError {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl IntoResponse for GuestError {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": self.code, "message": self.message }))).into_response()
    }
}

fn refuse(status: StatusCode, code: &'static str, message: impl Into<String>) -> GuestError {
    GuestError { status, code, message: message.into() }
}

impl From<FlushError> for GuestError {
    fn from(error: FlushError) -> Self {
        let (status, code, what_to_do) = match &error {
            FlushError::NoVolumes => (
                StatusCode::CONFLICT,
                "no_volumes",
                "deploy it with a volume that has a name and a size, or do not flush",
            ),
            FlushError::NoStandby(_) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "no_standby",
                "what was written is on this node only; try again later",
            ),
            FlushError::Stopped(_) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "stopped",
                "this copy of the program ends; repeat what was not confirmed when the next one runs",
            ),
        };
        refuse(status, code, format!("{error}: {what_to_do}"))
    }
}

/// The routes of one sandbox.
pub(super) fn router<F: Flush>(owner: Owner, node: Arc<OnceCell<NodeId>>, flush: Option<Arc<F>>) -> Router {
    Router::new()
        .route("/properties", get(properties::<F>))
        .route("/fence", get(fence::<F>))
        .route("/volumes/flush", post(flush_volumes::<F>))
        .fallback(unknown)
        .method_not_allowed_fallback(unknown)
        .with_state(Arc::new(Guest { owner, node, flush, flushing: Semaphore::new(FLUSHES_AT_ONCE) }))
}

async fn properties<F: Flush>(State(guest): State<Arc<Guest<F>>>) -> Json<Value> {
    let epoch = guest.owner.epoch().map(Epoch::get);
    Json(json!({
        "item_hash": guest.owner.program(),
        "persistent": epoch.is_some(),
        "fence": epoch,
        "node_id": guest.node.get(),
    }))
}

async fn fence<F: Flush>(State(guest): State<Arc<Guest<F>>>) -> Result<Json<Value>, GuestError> {
    let epoch = epoch(&guest, "its writes cannot be told from those of another copy")?;
    Ok(Json(json!({ "epoch": epoch.get() })))
}

fn epoch<F>(guest: &Guest<F>, therefore: &str) -> Result<Epoch, GuestError> {
    guest.owner.epoch().ok_or_else(|| {
        let message = format!(
            "this copy was started on demand and there may be others, so {therefore}: deploy the program with \
             `on.persistent`"
        );
        refuse(StatusCode::CONFLICT, "on_demand", message)
    })
}

#[derive(Deserialize)]
struct FlushQuery {
    timeout: Option<String>,
}

impl FlushQuery {
    fn within(&self) -> Result<Duration, GuestError> {
        let seconds = self.timeout.as_ref().map_or(Some(FLUSH_SECONDS), |text| text.parse().ok());
        let seconds = seconds.filter(|seconds| (1..=MAX_FLUSH_SECONDS).contains(seconds));
        seconds.map(Duration::from_secs).ok_or_else(bad_timeout)
    }
}

fn bad_timeout() -> GuestError {
    let message =
        format!("`timeout` is a whole number of seconds from 1 to {MAX_FLUSH_SECONDS}: give one, or leave it out");
    refuse(StatusCode::BAD_REQUEST, "bad_timeout", message)
}

async fn flush_volumes<F: Flush>(
    State(guest): State<Arc<Guest<F>>>,
    query: Result<Query<FlushQuery>, QueryRejection>,
) -> Result<Json<Value>, GuestError> {
    let within = query.map_err(|_| bad_timeout())?.within()?;
    let epoch = epoch(&guest, "it has no persistent volumes")?;
    // A node that keeps no data starts no program with persistent volumes.
    let flush = guest.flush.as_ref().ok_or(FlushError::NoVolumes)?;
    let done = async {
        let _turn = guest.flushing.acquire().await.expect("it is never closed");
        flush.flush(guest.owner.program(), epoch).await
    };
    match tokio::time::timeout(within, done).await {
        Ok(snapshot) => {
            let snapshot = snapshot?.map(|id| id.to_string());
            Ok(Json(json!({ "snapshot": snapshot, "epoch": epoch.get() })))
        }
        Err(_) => {
            let message = format!(
                "what was written is not on the standby after {} s: ask again, with a longer `timeout` (at most \
                 {MAX_FLUSH_SECONDS})",
                within.as_secs()
            );
            Err(refuse(StatusCode::GATEWAY_TIMEOUT, "timeout", message))
        }
    }
}

async fn unknown(method: http::Method, uri: Uri) -> GuestError {
    let message = format!("the guest API has no {method} {}: there is {ROUTES}", uri.path());
    refuse(StatusCode::NOT_FOUND, "not_found", message)
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http::Request;
    use protocol::ProgramId;
    use protocol::data::SnapshotId;
    use tower::ServiceExt;

    use super::*;
    use crate::core::on_demand::CopyId;
    use crate::core::persistent::Assignment;

    const PROGRAM: ProgramId = ProgramId::from_bytes([7; 32]);
    const PERSISTENT: Owner = Owner::Persistent(Assignment { program: PROGRAM, epoch: Epoch::new(3) });

    /// Says this, or never anything.
    struct Fake(Option<Result<Option<SnapshotId>, FlushError>>);

    impl Flush for Fake {
        async fn flush(&self, program: ProgramId, epoch: Epoch) -> Result<Option<SnapshotId>, FlushError> {
            assert_eq!((program, epoch), (PROGRAM, Epoch::new(3)), "the socket says who it is");
            match &self.0 {
                Some(answer) => answer.clone(),
                None => std::future::pending().await,
            }
        }
    }

    fn fake(answer: Result<Option<SnapshotId>, FlushError>) -> Option<Fake> {
        Some(Fake(Some(answer)))
    }

    async fn ask(owner: Owner, fake: Option<Fake>, method: &str, path: &str) -> (u16, Value) {
        let router = router(owner, Arc::default(), fake.map(Arc::new));
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        let answer = router.oneshot(request).await.unwrap();
        let status = answer.status().as_u16();
        let body = axum::body::to_bytes(answer.into_body(), 1 << 16).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap())
    }

    /// A refusal's code, after a look at whether it says anything to people.
    async fn refused(owner: Owner, fake: Option<Fake>, method: &str, path: &str) -> (u16, String) {
        let (status, body) = ask(owner, fake, method, path).await;
        assert!(body["message"].as_str().is_some_and(|message| message.len() > 20), "{body}");
        (status, body["error"].as_str().unwrap().to_owned())
    }

    #[tokio::test]
    async fn a_program_is_told_who_it_is() {
        let (status, said) = ask(PERSISTENT, None, "GET", "/properties").await;
        let expected = json!({ "item_hash": PROGRAM.to_string(), "persistent": true, "fence": 3, "node_id": null });
        assert_eq!((status, said), (200, expected));
        assert_eq!(ask(PERSISTENT, None, "GET", "/fence").await, (200, json!({ "epoch": 3 })));
        let (_, said) = ask(Owner::OnDemand(CopyId::first(PROGRAM)), None, "GET", "/properties").await;
        assert_eq!((&said["persistent"], &said["fence"]), (&json!(false), &Value::Null));
    }

    #[tokio::test]
    async fn copies_on_demand_have_neither_fence_nor_volumes() {
        let on_demand = Owner::OnDemand(CopyId::first(PROGRAM));
        assert_eq!(refused(on_demand, None, "GET", "/fence").await, (409, "on_demand".into()));
        assert_eq!(refused(on_demand, fake(Ok(None)), "POST", "/volumes/flush").await, (409, "on_demand".into()));
    }

    #[tokio::test]
    async fn a_flush_says_which_snapshot_has_it() {
        let id = SnapshotId { epoch: Epoch::new(3), sequence: 9 };
        let flushed = ask(PERSISTENT, fake(Ok(Some(id))), "POST", "/volumes/flush?timeout=5").await;
        assert_eq!(flushed, (200, json!({ "snapshot": "3-9", "epoch": 3 })));
        let nothing = ask(PERSISTENT, fake(Ok(None)), "POST", "/volumes/flush").await;
        assert_eq!(nothing, (200, json!({ "snapshot": null, "epoch": 3 })));
    }

    #[tokio::test]
    async fn a_flush_that_cannot_be_says_why() {
        let flush = async |fake| refused(PERSISTENT, fake, "POST", "/volumes/flush").await;
        assert_eq!(flush(fake(Err(FlushError::NoVolumes))).await, (409, "no_volumes".into()));
        assert_eq!(flush(None).await, (409, "no_volumes".into()));
        assert_eq!(flush(fake(Err(FlushError::NoStandby("x".into())))).await, (503, "no_standby".into()));
        assert_eq!(flush(fake(Err(FlushError::Stopped("x".into())))).await, (503, "stopped".into()));
        for timeout in ["0", "301", "-1", "1.5", "", "x", "1&timeout=2"] {
            let path = format!("/volumes/flush?timeout={timeout}");
            let bad = refused(PERSISTENT, fake(Ok(None)), "POST", &path).await;
            assert_eq!(bad, (400, "bad_timeout".into()), "{timeout}");
        }
    }

    #[tokio::test]
    async fn a_flush_ends_in_time_and_so_do_those_that_wait_for_others() {
        let router = router(PERSISTENT, Arc::default(), Some(Arc::new(Fake(None))));
        let flush = |timeout: u64| {
            let path = format!("/volumes/flush?timeout={timeout}");
            let request = Request::post(path).body(Body::empty()).unwrap();
            let router = router.clone();
            async move { router.oneshot(request).await.unwrap().status().as_u16() }
        };
        let slow: Vec<_> = (0..FLUSHES_AT_ONCE).map(|_| tokio::spawn(flush(MAX_FLUSH_SECONDS))).collect();
        tokio::task::yield_now().await;
        assert_eq!(flush(1).await, 504, "it waits for the others, but not longer than it may");
        assert!(slow.iter().all(|flush| !flush.is_finished()));
    }

    #[tokio::test]
    async fn whoever_asks_for_something_else_hears_what_there_is() {
        for (method, path) in [("GET", "/"), ("GET", "/volumes/flush"), ("POST", "/sign"), ("DELETE", "/fence")] {
            let (status, said) = ask(PERSISTENT, None, method, path).await;
            assert_eq!((status, &said["error"]), (404, &json!("not_found")));
            assert!(said["message"].as_str().unwrap().contains("POST /volumes/flush"), "{said}");
        }
    }
}

//! Where other nodes bring copies of their programs' data.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONNECTION, UPGRADE};
use axum::http::{HeaderValue, Response, StatusCode};
use hyper_util::rt::TokioIo;
use protocol::data::REPLICATION_PROTOCOL;
use tracing::debug;

use super::{ApiError, ApiState};

/// `GET /control/replication`. Who dials proves who it is after the upgrade.
pub(super) async fn accept(
    State(state): State<Arc<ApiState>>,
    mut request: Request,
) -> Result<Response<Body>, ApiError> {
    let asked = request.headers().get(UPGRADE).is_some_and(|to| to.as_bytes() == REPLICATION_PROTOCOL.as_bytes());
    if !asked {
        let message = format!("this is where nodes bring copies: send 'Upgrade: {REPLICATION_PROTOCOL}'");
        return Err(ApiError(StatusCode::UPGRADE_REQUIRED, message));
    }
    let Some(data) = state.data.clone() else {
        let message = "this node has no pool for volumes: start it with --pool-mib or --pool".to_owned();
        return Err(ApiError(StatusCode::NOT_IMPLEMENTED, message));
    };
    let taking = data.take_in_copies().ok_or_else(|| {
        let message = "this node takes in as many copies as it can: try again later".to_owned();
        ApiError(StatusCode::SERVICE_UNAVAILABLE, message)
    })?;
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(stream) => taking.from(TokioIo::new(stream)).await,
            Err(error) => debug!(%error, "a node did not bring copies after all"),
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static(REPLICATION_PROTOCOL));
    Ok(response)
}

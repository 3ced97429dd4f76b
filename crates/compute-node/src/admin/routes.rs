//! What the operator can ask.
//!
//! | | |
//! | --- | --- |
//! | `GET /volumes` | all programs: [`ProgramList`] |
//! | `GET /volumes/{program}` | one: [`ProgramVolumes`] |
//! | `POST /volumes/{program}/undelete`, `…/forget` | what it is afterwards: [`ProgramVolumes`] |
//! | `GET /volumes/{program}/export?snapshot=3-17`, `?recovery_point=2` | a tar archive; one that is cut has no proper end |
//!
//! A program is named by its id, or the first digits of it.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use futures_util::StreamExt;
use http::header::CONTENT_TYPE;
use protocol::ProgramId;
use protocol::data::SnapshotId;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio_util::io::ReaderStream;
use tracing::{info, warn};
use volumes::{Error, Readable, Refusal, Source};

use super::EXPORTED;
use super::answers::{ProgramList, ProgramVolumes, RoleName};
use crate::api::ApiError;
use crate::programs::data::ProgramData;

/// How many digits of an id name a program, at least.
const MIN_DIGITS: usize = 8;

/// How many exports there can be at once: they read from the disk that programs write to.
const MAX_EXPORTS: usize = 4;

/// How much of an archive is passed on at once, in bytes.
const PIECE: usize = 64 << 10;

struct Operator {
    data: Option<Arc<ProgramData>>,
    exports: Arc<Semaphore>,
}

type Answer<T> = Result<Json<T>, ApiError>;

pub(super) fn router(data: Option<Arc<ProgramData>>) -> Router {
    Router::new()
        .route("/volumes", get(list))
        .route("/volumes/{program}", get(show))
        .route("/volumes/{program}/undelete", post(undelete))
        .route("/volumes/{program}/forget", post(forget))
        .route("/volumes/{program}/export", get(export))
        .fallback(unknown)
        .with_state(Arc::new(Operator { data, exports: Arc::new(Semaphore::new(MAX_EXPORTS)) }))
}

async fn list(State(operator): State<Arc<Operator>>) -> Answer<ProgramList> {
    let data = operator.data()?;
    let found = data.inventory(data.programs()).await.map_err(refuse)?;
    let programs = found.into_iter().map(|(program, found)| ProgramVolumes::new(program, found));
    Ok(Json(ProgramList { programs: programs.filter(|program| program.role != RoleName::Nothing).collect() }))
}

async fn show(State(operator): State<Arc<Operator>>, Path(program): Path<String>) -> Answer<ProgramVolumes> {
    let data = operator.data()?;
    let shown = described(data, resolve(&program, &data.programs())?).await?;
    if shown.role == RoleName::Nothing { Err(refuse(Refusal::NothingHere.into())) } else { Ok(Json(shown)) }
}

async fn undelete(State(operator): State<Arc<Operator>>, Path(program): Path<String>) -> Answer<ProgramVolumes> {
    let data = operator.data()?;
    let program = resolve(&program, &data.programs())?;
    data.undelete(program).await.map_err(refuse)?;
    described(data, program).await.map(Json)
}

async fn forget(State(operator): State<Arc<Operator>>, Path(program): Path<String>) -> Answer<ProgramVolumes> {
    let data = operator.data()?;
    let program = resolve(&program, &data.programs())?;
    data.forget(program).await.map_err(refuse)?;
    described(data, program).await.map(Json)
}

#[derive(Deserialize)]
struct ExportQuery {
    snapshot: Option<SnapshotId>,
    recovery_point: Option<u64>,
}

async fn export(
    State(operator): State<Arc<Operator>>,
    Path(program): Path<String>,
    query: Result<Query<ExportQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let data = operator.data()?;
    let Query(query) = query.map_err(|e| ApiError(StatusCode::BAD_REQUEST, e.body_text()))?;
    let wanted = match (query.snapshot, query.recovery_point) {
        (None, None) => None,
        (Some(id), None) => Some(Source::Snapshot(id)),
        (None, Some(number)) => Some(Source::RecoveryPoint(number)),
        (Some(_), Some(_)) => {
            let message = "name a snapshot or a recovery point, not both".to_owned();
            return Err(ApiError(StatusCode::BAD_REQUEST, message));
        }
    };
    let permit = operator.exports.clone().try_acquire_owned().map_err(|_| {
        let message = format!("{MAX_EXPORTS} exports are under way: try again when one has ended");
        ApiError(StatusCode::SERVICE_UNAVAILABLE, message)
    })?;
    let program = resolve(&program, &data.programs())?;
    let (what, archive) = data.export(program, wanted).await.map_err(refuse)?;
    info!(%program, ?what, "the operator takes out a copy");
    let pieces = ReaderStream::with_capacity(archive, PIECE).inspect(move |piece| {
        // Held as long as there are pieces.
        let _ = &permit;
        if let Err(error) = piece {
            warn!(%program, %error, "the export is not complete");
        }
    });
    let headers = [(CONTENT_TYPE.as_str(), "application/x-tar".to_owned()), (EXPORTED, words(what))];
    Ok((headers, Body::from_stream(pieces)).into_response())
}

async fn unknown(uri: Uri) -> ApiError {
    let message = format!("this node's operator cannot ask for {}: is it of another version?", uri.path());
    ApiError(StatusCode::NOT_FOUND, message)
}

/// Which copy it is, for people and for programs.
fn words(what: Readable) -> String {
    match what {
        Readable::Live(_) => "live".to_owned(),
        Readable::Snapshot(id) => format!("snapshot {id}"),
        Readable::RecoveryPoint(number) => format!("recovery point {number}"),
    }
}

impl Operator {
    fn data(&self) -> Result<&Arc<ProgramData>, ApiError> {
        self.data.as_ref().ok_or_else(|| {
            let message = "this node keeps no volumes: it was started without --pool-mib and --pool".to_owned();
            ApiError(StatusCode::CONFLICT, message)
        })
    }
}

async fn described(data: &ProgramData, program: ProgramId) -> Result<ProgramVolumes, ApiError> {
    let found = data.inventory(vec![program]).await.map_err(refuse)?;
    let found = found.into_iter().map(|(program, found)| ProgramVolumes::new(program, found)).next();
    found.ok_or_else(|| refuse(Refusal::NothingHere.into()))
}

fn refuse(error: Error) -> ApiError {
    let there_is = "`aleph-node volumes list` shows what there is";
    match error {
        Error::Refused(refusal @ Refusal::NothingHere) => ApiError(StatusCode::NOT_FOUND, refusal.to_string()),
        Error::Refused(refusal @ (Refusal::NoSnapshot(_) | Refusal::NoRecoveryPoint(_))) => {
            ApiError(StatusCode::NOT_FOUND, format!("{refusal}; {there_is}"))
        }
        Error::Refused(refusal) => ApiError(StatusCode::CONFLICT, refusal.to_string()),
        error => ApiError(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// The program that is meant, of those that the node knows.
fn resolve(text: &str, known: &[ProgramId]) -> Result<ProgramId, ApiError> {
    let text = text.to_ascii_lowercase();
    if text.len() < MIN_DIGITS || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        let message =
            format!("'{text}' names no program: write its id, or the first {MIN_DIGITS} digits or more of it");
        return Err(ApiError(StatusCode::BAD_REQUEST, message));
    }
    let mut fitting = known.iter().filter(|id| id.to_string().starts_with(&text));
    match (fitting.next(), fitting.next()) {
        (Some(program), None) => Ok(*program),
        (Some(_), Some(_)) => {
            let message = format!("several programs begin with {text}: write more digits of its id");
            Err(ApiError(StatusCode::CONFLICT, message))
        }
        (None, _) => {
            let message =
                format!("this node has nothing of a program {text}; `aleph-node volumes list` shows what it has");
            Err(ApiError(StatusCode::NOT_FOUND, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_named_by_enough_digits_of_its_id() {
        let id = |last: u8| {
            let mut bytes = [0xab; 32];
            bytes[31] = last;
            ProgramId::from_bytes(bytes)
        };
        let known = [id(1), id(2), ProgramId::from_bytes([0xcd; 32])];
        let resolved = |text: &str| resolve(text, &known).map_err(|ApiError(status, _)| status.as_u16());
        assert_eq!(resolved("CDCDCDCD"), Ok(known[2]));
        assert_eq!(resolved(&id(2).to_string()), Ok(known[1]));
        assert_eq!(resolved("abababab"), Err(409));
        assert_eq!(resolved("cdcdcdc"), Err(400));
        assert_eq!(resolved("../../etc"), Err(400));
        assert_eq!(resolved("00000000"), Err(404));
    }
}

//! `GET /aggregates/{address}.json`.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use protocol::Address;
use serde::Serialize;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{AnyOfBuilder, Object, Ref, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::error::{Answer, ApiError};
use super::openapi::{BadRequest, Failed, Invalid, NotFound};
use super::parameters::Documents;
use super::path::Path;
use super::query::Params;
use crate::clock::iso;
use crate::core::aggregate::Document;
use crate::node::Node;
use crate::published::History;

/// Documents in an answer at most.
const MOST: u32 = 1000;

#[derive(Serialize, ToSchema)]
#[schema(as = Aggregates)]
pub(super) struct Answered {
    address: String,
    #[schema(value_type = BTreeMap<String, serde_json::Value>)]
    data: BTreeMap<String, Document>,
    info: BTreeMap<String, Info>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = AggregateInfo)]
struct Info {
    created: String,
    last_updated: String,
    original_item_hash: String,
    last_update_item_hash: String,
}

/// All documents, or one alone.
pub(super) struct AllOrOne;

impl PartialSchema for AllOrOne {
    fn schema() -> RefOr<Schema> {
        Schema::from(AnyOfBuilder::new().item(Ref::from_schema_name(Answered::name())).item(Object::new())).into()
    }
}

impl ToSchema for AllOrOne {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((Answered::name().into_owned(), Answered::schema()));
        Answered::schemas(schemas);
    }
}

impl From<History> for Info {
    fn from(history: History) -> Self {
        Self {
            created: iso(history.first.0),
            last_updated: iso(history.last.0),
            original_item_hash: history.first.1,
            last_update_item_hash: history.last.1,
        }
    }
}

/// The documents of an account: those with the `keys`, or all. With `value_only` and one key, the document alone.
#[utoipa::path(get, path = "/api/v0/aggregates/{address}", tag = "aggregates",
    params(("address" = String, Path, description = "The account and `.json`", example = "0xAB.json"), Documents),
    responses((status = 200, description = "The documents", body = AllOrOne), BadRequest, NotFound, Invalid, Failed))]
pub(super) async fn of_address(
    State(node): State<Node>,
    Path(address): Path<String>,
    params: Params,
) -> Answer<Response> {
    let Some(address) = address.strip_suffix(".json") else {
        return Err(ApiError::not_found(format!("ask for {address}.json")));
    };
    let (keys, limit) = (params.list(&["keys"])?, params.limit(MOST)?);
    let (network, most) = (&node.context.network, node.context.limits.page_bytes);
    let part = network.documents(&mut *node.db().await?, &Address::new(address), &keys, limit, most).await?;
    if part.cut {
        return Err(ApiError::invalid(format!(
            "the documents have more than {most} bytes together: name fewer 'keys'"
        )));
    }
    let found = part.rows;
    if found.is_empty() {
        return Err(ApiError::not_found("No aggregate found for this address; check the address and the keys"));
    }
    if params.is_on("value_only")
        && let [published] = &found[..]
        && keys.len() == 1
    {
        return Ok(Json(&published.document).into_response());
    }
    let mut answer = Answered { address: address.to_owned(), data: BTreeMap::new(), info: BTreeMap::new() };
    for published in found {
        if let Some(history) = published.history {
            answer.info.insert(published.key.clone(), history.into());
        }
        answer.data.insert(published.key, published.document);
    }
    Ok(Json(answer).into_response())
}

//! What the node says about itself.

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{Html, IntoResponse, Response};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::error::Answer;
use super::openapi::{self, BadRequest, Failed, Invalid};
use super::parameters::Direction;
use super::query::Params;
use crate::balances::ChainNumbers;
use crate::metrics::StoredNumbers;
use crate::node::Node;
use crate::store::{files, messages, pending, programs};
use crate::view::raw;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Programs in the list of those that start on messages.
const MOST_PROGRAMS: u32 = 10_000;

/// What the node is.
#[derive(Serialize, ToSchema)]
pub(super) struct Version {
    version: &'static str,
}

/// `GET /version`.
#[utoipa::path(get, path = "/api/v0/version", tag = "node",
    responses((status = 200, description = "The version", body = Version)))]
pub(super) async fn version() -> Json<Version> {
    Json(Version { version: VERSION })
}

/// How it stands with the process that answers.
#[derive(Serialize, ToSchema)]
pub(super) struct Health {
    /// `ok` when it decides messages, `follower` when it passes on what changes something, to another process on the same
    /// database.
    status: &'static str,
    /// Where that one is reached, if it is known.
    leader: Option<String>,
}

/// `GET /health`: whether the process can answer. While its database is away it cannot.
#[utoipa::path(get, path = "/health", tag = "node",
    responses((status = 200, description = "It can", body = Health), Failed))]
pub(super) async fn health(State(node): State<Node>) -> Answer<Json<Health>> {
    node.store().lock().await?;
    let status = if node.leadership.leads() { "ok" } else { "follower" };
    Ok(Json(Health { status, leader: node.leadership.leader_url() }))
}

/// Other nodes.
#[derive(Serialize, ToSchema)]
pub(super) struct PublicInfo {
    node_multi_addresses: Vec<String>,
}

/// `GET /info/public.json`: other nodes to connect to; there are none.
#[utoipa::path(get, path = "/api/v0/info/public.json", tag = "node",
    responses((status = 200, description = "Other nodes: none", body = PublicInfo)))]
pub(super) async fn public_info() -> Json<PublicInfo> {
    Json(PublicInfo { node_multi_addresses: Vec::new() })
}

/// The channels of messages in force.
#[derive(Serialize, ToSchema)]
pub(super) struct Channels {
    channels: Vec<String>,
}

/// `GET /channels.json`.
#[utoipa::path(get, path = "/api/v0/channels.json", tag = "messages",
    responses((status = 200, description = "All channels", body = Channels), Failed))]
pub(super) async fn channels(State(node): State<Node>) -> Answer<Json<Channels>> {
    let channels = messages::channels(&mut *node.db().await?).await?;
    Ok(Json(Channels { channels }))
}

/// `GET /programs/on/message`: programs that start on messages, and on which.
#[utoipa::path(get, path = "/api/v0/programs/on/message", tag = "messages", params(Direction),
    responses((status = 200, description = "Programs", body = Vec<Value>), BadRequest, Invalid, Failed))]
pub(super) async fn programs_on_message(State(node): State<Node>, params: Params) -> Answer<Response> {
    let found = programs::on_message(&mut *node.db().await?, params.order()?, MOST_PROGRAMS).await?;
    let mut list = Vec::with_capacity(found.len());
    for (item_hash, subscriptions) in &found {
        list.push(
            json!({ "item_hash": item_hash, "content": { "on": { "message": raw(subscriptions, item_hash)? } } }),
        );
    }
    Ok(Json(list).into_response())
}

async fn numbers(node: &Node) -> Answer<StoredNumbers> {
    let mut db = node.db().await?;
    Ok(StoredNumbers {
        messages: messages::counts(&mut db).await?,
        pending: pending::count(&mut db).await?,
        files: files::totals(&mut db).await?,
        chain: node.context.balances.chain(),
    })
}

/// `GET /metrics`, in the text format of Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "node",
    responses((status = 200, description = "Numbers", body = String, content_type = "text/plain"), Failed))]
pub(super) async fn metrics(State(node): State<Node>) -> Answer<Response> {
    let text = node.context.metrics.render(&numbers(&node).await?);
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

/// How it stands with the chain that balances are read from.
fn chain_sentence(chain: &ChainNumbers) -> String {
    let at = match chain.health.at {
        Some(block) => format!("Balances are as of block {} of the chain.", block.number),
        None => "No balances are known.".to_owned(),
    };
    // The other side's words are not to be trusted.
    let escaped = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let trouble = chain.health.trouble.as_deref();
    let trouble = trouble.map(|why| format!(" <b>They are not read now: {}.</b>", escaped(why))).unwrap_or_default();
    format!("<p>{at}{trouble}</p>")
}

/// `GET /status`: a page for people.
#[utoipa::path(get, path = "/status", tag = "node",
    responses((status = 200, description = "The page", body = String, content_type = "text/html"), Failed))]
pub(super) async fn status_page(State(node): State<Node>) -> Answer<Html<String>> {
    let numbers = numbers(&node).await?;
    let rows: String = numbers
        .messages
        .iter()
        .map(|(kind, status, count)| format!("<tr><td>{kind}</td><td>{status}</td><td>{count}</td></tr>"))
        .collect();
    let (files, bytes) = numbers.files;
    let chain = numbers.chain.as_ref().map(chain_sentence).unwrap_or_default();
    Ok(Html(format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Aleph message node</title>\
         <style>body{{font:16px/1.5 system-ui;margin:2rem auto;max-width:40rem}}td,th{{padding:0 1rem 0 0;text-align:left}}\
         </style><h1>Aleph message node {VERSION}</h1>\
         <p>{pending} messages wait to be decided. {files} files with {bytes} bytes. \
         <a href=\"/metrics\">Metrics</a>, <a href=\"{openapi}\">description of the API</a></p>{chain}\
         <table><tr><th>Type</th><th>Status</th><th>Messages</th></tr>{rows}</table></html>",
        pending = numbers.pending,
        openapi = openapi::PATH,
    )))
}

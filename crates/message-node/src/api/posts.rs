//! `GET /posts.json`: posts with the content of their newest amend, in the two shapes that clients read.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use utoipa::ToSchema;

use super::described::PostList;
use super::error::{Answer, ApiError};
use super::messages::post_document;
use super::openapi::{BadRequest, Failed, Invalid};
use super::parameters::{Direction, Places, PostFilters};
use super::query::{Params, write_cursor};
use crate::clock::{iso, seconds};
use crate::node::Node;
use crate::store::list::Place;
use crate::store::posts::{PostFilter, PostRow, count, part};
use crate::store::{Stored, from_db};

#[derive(Serialize, ToSchema)]
pub(super) struct PostV0<'a> {
    chain: &'a str,
    item_hash: &'a str,
    sender: &'a str,
    #[serde(rename = "type")]
    post_type: &'a str,
    channel: Option<&'a str>,
    confirmed: bool,
    #[schema(value_type = Value)]
    content: &'a RawValue,
    item_content: Option<&'a str>,
    item_type: &'a str,
    signature: Option<&'a str>,
    size: u64,
    time: f64,
    #[schema(value_type = Vec<Value>)]
    confirmations: [(); 0],
    original_item_hash: &'a str,
    original_signature: Option<&'a str>,
    original_type: &'a str,
    hash: &'a str,
    address: &'a str,
    #[serde(rename = "ref")]
    reference: Option<&'a str>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct PostV1<'a> {
    item_hash: &'a str,
    #[schema(value_type = Value)]
    content: &'a RawValue,
    original_item_hash: &'a str,
    original_type: &'a str,
    address: &'a str,
    #[serde(rename = "ref")]
    reference: Option<&'a str>,
    channel: Option<&'a str>,
    created: String,
    last_updated: String,
}

#[derive(Serialize)]
struct Page {
    posts: Vec<Box<RawValue>>,
    pagination_page: u64,
    pagination_total: i64,
    pagination_per_page: u32,
    pagination_item: &'static str,
}

#[derive(Serialize)]
struct CursorPage {
    posts: Vec<Box<RawValue>>,
    pagination_per_page: u32,
    next_cursor: Option<String>,
}

/// `GET /api/v0/posts.json`.
#[utoipa::path(get, path = "/api/v0/posts.json", tag = "posts", params(PostFilters, Places, Direction),
    operation_id = "posts_v0",
    responses((status = 200, description = "Posts", body = PostList<PostV0<'static>>), BadRequest, Invalid, Failed))]
pub(super) async fn list_v0(State(node): State<Node>, params: Params) -> Answer<Response> {
    answer(&node, &params, v0).await
}

/// `GET /api/v1/posts.json`.
#[utoipa::path(get, path = "/api/v1/posts.json", tag = "posts", params(PostFilters, Places, Direction),
    operation_id = "posts_v1",
    responses((status = 200, description = "Posts", body = PostList<PostV1<'static>>), BadRequest, Invalid, Failed))]
pub(super) async fn list_v1(State(node): State<Node>, params: Params) -> Answer<Response> {
    answer(&node, &params, v1).await
}

async fn answer(node: &Node, params: &Params, show: fn(&PostRow) -> Stored<Box<RawValue>>) -> Answer<Response> {
    let (filter, order) = (filter(params)?, params.order()?);
    let paging = params.paging(&node.context.limits)?;
    let mut db = node.db().await?;
    let max_bytes = node.context.limits.page_bytes;
    let mut found = part(&mut db, &filter, order, &paging.window, paging.rows(), max_bytes).await?;
    let more = paging.cut(&mut found.rows);
    let posts = found.rows.iter().map(show).collect::<Stored<_>>()?;
    let Some(page) = paging.page else {
        let last = found.rows.pop().filter(|_| more || found.cut);
        let next = last.map(|row| Place { time_us: row.created_us, item_hash: row.original_hash });
        let body = CursorPage { posts, pagination_per_page: paging.per_page, next_cursor: next.map(write_cursor) };
        return Ok(Json(body).into_response());
    };
    if found.cut && !more {
        return Err(ApiError::page_too_large(max_bytes));
    }
    let body = Page {
        posts,
        pagination_page: page,
        pagination_total: count(&mut db, &filter).await?,
        pagination_per_page: paging.per_page,
        pagination_item: "posts",
    };
    Ok(Json(body).into_response())
}

pub(super) fn filter(params: &Params) -> Answer<PostFilter> {
    let messages = params.filter()?;
    Ok(PostFilter {
        owners: messages.senders,
        hashes: messages.hashes,
        refs: messages.refs,
        types: params.list(&["types", "post_types"])?,
        tags: messages.tags,
        channels: messages.channels,
        chains: messages.chains,
        start_us: messages.start_us,
        end_us: messages.end_us,
    })
}

fn v0(row: &PostRow) -> Stored<Box<RawValue>> {
    let content = row.content.as_str();
    raw(&PostV0 {
        chain: &row.chain,
        item_hash: &row.item_hash,
        sender: &row.address,
        post_type: &row.post_type,
        channel: row.channel.as_deref(),
        confirmed: false,
        content: post_document(content, &row.item_hash)?,
        item_content: Some(content).filter(|_| row.item_type == "inline"),
        item_type: &row.item_type,
        signature: row.signature.as_deref(),
        size: from_db(row.size),
        time: seconds(row.time_us),
        confirmations: [],
        original_item_hash: &row.original_hash,
        original_signature: row.original_signature.as_deref(),
        original_type: &row.original_type,
        hash: &row.original_hash,
        address: &row.address,
        reference: row.reference.as_deref(),
    })
}

fn v1(row: &PostRow) -> Stored<Box<RawValue>> {
    raw(&PostV1 {
        item_hash: &row.item_hash,
        content: post_document(&row.content, &row.item_hash)?,
        original_item_hash: &row.original_hash,
        original_type: &row.original_type,
        address: &row.address,
        reference: row.reference.as_deref(),
        channel: row.channel.as_deref(),
        created: iso(row.created_us),
        last_updated: iso(row.updated_us),
    })
}

fn raw(post: &impl Serialize) -> Stored<Box<RawValue>> {
    Ok(to_raw_value(post).expect("a post is JSON"))
}

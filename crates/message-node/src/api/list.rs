//! `GET /messages.json`: lists by page or by cursor.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::described::MessageList;
use super::error::{Answer, ApiError};
use super::openapi::{BadRequest, Failed, Invalid};
use super::parameters::{Direction, MessageFilters, PageSize, Places};
use super::path::Path;
use super::query::{Params, write_cursor};
use crate::node::Node;
use crate::store::list::{Place, count, part};
use crate::store::messages::MessageRow;
use crate::view::MessageView;

#[derive(Serialize)]
struct Page<'a> {
    messages: Vec<MessageView<'a>>,
    pagination_page: u64,
    pagination_total: i64,
    pagination_per_page: u32,
    pagination_item: &'static str,
}

#[derive(Serialize)]
struct CursorPage<'a> {
    messages: Vec<MessageView<'a>>,
    pagination_per_page: u32,
    next_cursor: Option<String>,
}

/// `GET /messages/page/{page}.json`.
#[utoipa::path(get, path = "/api/v0/messages/page/{page}", tag = "messages",
    params(("page" = String, Path, description = "The page and `.json`", example = "1.json"), MessageFilters,
        PageSize, Direction),
    responses((status = 200, description = "Messages", body = MessageList), BadRequest, Invalid, Failed))]
pub(super) async fn list_page(State(node): State<Node>, Path(page): Path<String>, params: Params) -> Answer<Response> {
    answer(&node, &params.with_page(&page)).await
}

/// `GET /messages.json`.
#[utoipa::path(get, path = "/api/v0/messages.json", tag = "messages", params(MessageFilters, Places, Direction),
    operation_id = "messages", responses((status = 200, description = "Messages", body = MessageList), BadRequest,
        Invalid, Failed))]
pub(super) async fn list(State(node): State<Node>, params: Params) -> Answer<Response> {
    answer(&node, &params).await
}

async fn answer(node: &Node, params: &Params) -> Answer<Response> {
    let (filter, order) = (params.filter()?, params.order()?);
    let limits = &node.context.limits;
    let paging = params.paging(limits)?;
    let mut db = node.db().await?;
    let mut found = part(&mut db, &filter, order, &paging.window, paging.rows(), limits.page_bytes).await?;
    let more = paging.cut(&mut found.rows);
    let Some(page) = paging.page else {
        let next = found.rows.last().filter(|_| more || found.cut).map(|row| write_cursor(place(row)));
        let messages = found.rows.iter().map(MessageView::of_row).collect();
        let body = CursorPage { messages, pagination_per_page: paging.per_page, next_cursor: next };
        return Ok(Json(body).into_response());
    };
    if found.cut && !more {
        return Err(ApiError::page_too_large(limits.page_bytes));
    }
    let body = Page {
        messages: found.rows.iter().map(MessageView::of_row).collect(),
        pagination_page: page,
        pagination_total: count(&mut db, &filter).await?,
        pagination_per_page: paging.per_page,
        pagination_item: "messages",
    };
    Ok(Json(body).into_response())
}

fn place(row: &MessageRow) -> Place {
    Place { time_us: row.time_us, item_hash: row.item_hash.clone() }
}

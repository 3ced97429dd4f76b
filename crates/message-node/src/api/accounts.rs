//! What accounts hold, and their files.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use protocol::Address;
use protocol::api::message_node::Balance;
use protocol::message::PaymentKind;
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::described::OwnedFiles;
use super::error::{Answer, ApiError};
use super::openapi::{BadRequest, Failed, Invalid};
use super::parameters::{Account, Direction, Pages, Places};
use super::path::Path;
use super::query::{Params, write_cursor};
use crate::balances::CHAIN;
use crate::clock::{iso, seconds};
use crate::core::chain::Holding;
use crate::filter::canonical;
use crate::node::Node;
use crate::store::balances::Entry;
use crate::store::list::{Place, Window};
use crate::store::stores::{StoreRow, of_owner, totals};
use crate::store::{costs, from_db};

/// What every account holds on a network where nothing is paid for: clients compare it with prices before they send anything.
const UNLIMITED: f64 = 1_000_000_000.0;

/// The same in credits on a network where credits pay and nothing is charged.
const UNLIMITED_CREDITS: i64 = 1_000_000_000_000;

/// `GET /addresses/{address}/balance`.
#[utoipa::path(get, path = "/api/v0/addresses/{address}/balance", tag = "accounts", params(Account),
    responses((status = 200, description = "What it holds", body = Balance), BadRequest, Failed))]
pub(super) async fn balance(State(node): State<Node>, Path(address): Path<String>) -> Answer<Response> {
    let address = Address::new(address);
    let balance = match holding(&node, &address).await? {
        Holding::Unlimited => UNLIMITED,
        Holding::Tokens(tokens) => number(tokens),
        Holding::Unknown => return Err(unknown(&node, &address)),
    };
    let mut db = node.db().await?;
    let locked = costs::locked(&mut db, &address.canonical()).await?;
    let by_chain = node.context.balances.by_chain(&mut db, &address).await?;
    let details: Map<String, Value> =
        by_chain.into_iter().map(|entry| (entry.chain, number(entry.balance).into())).collect();
    let details = if details.is_empty() { json!({ CHAIN: balance }) } else { details.into() };
    let free = node.context.payment.without_charge.contains(&PaymentKind::Credit);
    let answer = Balance {
        address,
        balance,
        details: Some(details),
        locked_amount: number(locked),
        credit_balance: if free { UNLIMITED_CREDITS } else { 0 },
    };
    Ok(Json(answer).into_response())
}

/// What an account holds; waits a while for it to be read.
pub(super) async fn holding(node: &Node, address: &Address) -> Answer<Holding> {
    let wait = node.context.timing.balance_wait;
    Ok(node.context.balances.read(&node.context.store, address, wait).await?)
}

/// The answer where a balance is not known, which is not zero.
pub(super) fn unknown(node: &Node, address: &Address) -> ApiError {
    let why = node.context.balances.why_unknown();
    ApiError::busy(format!("the balance of {address} is not known: {why}; try again in a few seconds"))
}

fn number(amount: Decimal) -> f64 {
    amount.to_f64().unwrap_or(f64::MAX)
}

#[derive(Serialize, ToSchema)]
struct BalanceEntry {
    address: String,
    balance: f64,
    chain: String,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Balances {
    balances: Vec<BalanceEntry>,
    pagination_page: u64,
    pagination_total: u64,
    pagination_per_page: u32,
    pagination_item: &'static str,
}

/// `GET /balances`: the balances that are known by page, ordered by address. Empty on a network where nothing is paid for.
#[utoipa::path(get, path = "/api/v0/balances", tag = "accounts", params(Pages),
    responses((status = 200, description = "Balances", body = Balances), BadRequest, Invalid, Failed))]
pub(super) async fn balances(State(node): State<Node>, params: Params) -> Answer<Response> {
    let paging = params.paging(&node.context.limits)?;
    let skip = match &paging.window {
        Window::Skip(rows) => *rows,
        Window::After(_) => 0,
    };
    let (entries, all) = node.context.balances.page(&mut *node.db().await?, skip, paging.per_page).await?;
    let show = |Entry { account, chain, balance }| BalanceEntry { address: account, balance: number(balance), chain };
    let answer = Balances {
        balances: entries.into_iter().map(show).collect(),
        pagination_page: paging.page.unwrap_or(1),
        pagination_total: all,
        pagination_per_page: paging.per_page,
        pagination_item: "balances",
    };
    Ok(Json(answer).into_response())
}

/// `GET /addresses/{address}/files`: by page, or by cursor. Clients read the date as a number in the latter.
#[utoipa::path(get, path = "/api/v0/addresses/{address}/files", tag = "accounts", params(Account, Places, Direction),
    responses((status = 200, description = "Its files", body = OwnedFiles), BadRequest, Invalid, Failed))]
pub(super) async fn files(State(node): State<Node>, Path(address): Path<String>, params: Params) -> Answer<Response> {
    let (order, paging) = (params.order()?, params.paging(&node.context.limits)?);
    let owner = canonical(&address);
    let mut db = node.db().await?;
    let (count, bytes) = totals(&mut db, &owner).await?;
    let mut rows = of_owner(&mut db, &owner, order, &paging.window, paging.rows()).await?;
    let more = paging.cut(&mut rows);
    let by_cursor = paging.page.is_none();
    let mut answer = json!({
        "address": address,
        "total_size": bytes,
        "files": rows.iter().map(|row| entry(row, by_cursor)).collect::<Vec<_>>(),
        "pagination_per_page": paging.per_page,
    });
    if by_cursor {
        let next = rows.pop().filter(|_| more).map(|row| Place { time_us: row.time_us, item_hash: row.item_hash });
        answer["next_cursor"] = json!(next.map(write_cursor));
    } else {
        answer["pagination_page"] = json!(paging.page);
        answer["pagination_total"] = json!(count);
        answer["pagination_item"] = json!("files");
    }
    Ok(Json(answer).into_response())
}

fn entry(row: &StoreRow, by_cursor: bool) -> Value {
    let created = if by_cursor { json!(seconds(row.time_us)) } else { json!(iso(row.time_us)) };
    json!({
        "file_hash": row.file_hash,
        "size": from_db(row.size),
        "type": "file",
        "created": created,
        "item_hash": row.item_hash,
    })
}

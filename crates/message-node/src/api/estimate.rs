//! `POST /price/estimate`: what a message would cost.
//!
//! Clients send a whole message, but with a signature of zeros, a time as text, `null` for everything that is not set, and
//! `estimated_size_mib` beside files that are not uploaded yet. So only type and content are read here, and leniently.

use std::collections::HashMap;

use axum::Json;
use axum::extract::State;
use protocol::api::message_node::Price;
use protocol::message::ProgramContent;
use protocol::{Address, Aliases};
use rust_decimal::Decimal;
use rust_decimal::prelude::{FromPrimitive, ToPrimitive};
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::error::{Answer, ApiError};
use super::openapi::{BadRequest, Failed, Invalid, TimedOut, TooLarge};
use super::submit::{SmallBody, parse_json};
use crate::node::Node;
use crate::prices::{PriceTable, Slot, VolumeSizes, mib, program_price, store_price};
use crate::store::{Connection, Stored, files, from_db, stores};

/// The field with which clients announce the size of a file.
const ESTIMATED_SIZE: &str = "estimated_size_mib";

/// What is to be priced.
#[derive(Deserialize, ToSchema)]
#[schema(as = PriceRequest)]
pub(super) struct Request {
    message: Message,
}

/// As much of a message as its price needs.
#[derive(Deserialize, ToSchema)]
#[schema(as = PricedMessage)]
struct Message {
    #[serde(rename = "type")]
    /// `PROGRAM` or `STORE`.
    message_type: String,
    /// The content as text.
    item_content: Option<String>,
    /// The content, where there is no text.
    content: Option<Value>,
}

/// The largest size of a file that can be announced, in MiB.
const MAX_ANNOUNCED_MIB: f64 = 1e12;

/// Sizes of files in MiB: as the client announced them, or as they are.
#[derive(Default)]
struct Sizes {
    announced: HashMap<Slot, Decimal>,
    known: HashMap<(String, bool), Decimal>,
}

impl VolumeSizes for Sizes {
    fn size(&self, slot: Slot, reference: &str, use_latest: bool) -> Option<Decimal> {
        self.announced.get(&slot).or_else(|| self.known.get(&(reference.to_owned(), use_latest))).copied()
    }
}

/// The price that a message would have.
#[utoipa::path(post, path = "/api/v0/price/estimate", tag = "prices", request_body = Request,
    responses((status = 200, description = "The price", body = Price), BadRequest, TimedOut, TooLarge, Invalid,
        Failed))]
pub(super) async fn estimate(State(node): State<Node>, SmallBody(body, _room): SmallBody) -> Answer<Json<Price>> {
    let Request { message } = parse_json(&body)?;
    let content = match (message.item_content, message.content) {
        (Some(text), _) => parse_json(text.as_bytes())?,
        (None, Some(content)) => content,
        (None, None) => {
            return Err(ApiError::invalid("the message has neither 'item_content' nor 'content'; send one"));
        }
    };
    let Value::Object(mut content) = without_nulls(content) else {
        return Err(ApiError::invalid("the content is no JSON object; send that of a PROGRAM or STORE message"));
    };
    let mut db = node.db().await?;
    let network = &node.context.network;
    let table = network.price_table(&mut db).await?;
    let price = match message.message_type.as_str() {
        "PROGRAM" => of_program(&mut db, &mut content, &table, &network.aliases).await?,
        "STORE" => of_store(&mut db, &content, &table).await?,
        other => return Err(ApiError::invalid(format!("{other} messages have no price here; PROGRAM and STORE have"))),
    };
    Ok(Json(price))
}

async fn of_program(
    db: &mut Connection,
    content: &mut Map<String, Value>,
    table: &PriceTable,
    aliases: &Aliases,
) -> Answer<Price> {
    let mut sizes = Sizes { announced: announced(content), known: HashMap::new() };
    let content: ProgramContent = ProgramContent::parse(&Value::Object(content.clone()).to_string())?;
    for (reference, use_latest) in content.references() {
        if let Some(row) = stores::resolve(db, aliases.resolve(reference), use_latest).await? {
            sizes.known.insert((reference.to_owned(), use_latest), mib(from_db(row.size)));
        }
    }
    Ok(program_price(&content, &sizes, table))
}

async fn of_store(db: &mut Connection, content: &Map<String, Value>, table: &PriceTable) -> Stored<Price> {
    let text = |field: &str| content.get(field).and_then(Value::as_str);
    let bytes = match (content.get(ESTIMATED_SIZE).and_then(Value::as_f64), text("item_hash")) {
        (Some(mib), _) => (mib.clamp(0.0, MAX_ANNOUNCED_MIB) * 1024.0 * 1024.0).to_u64().unwrap_or(u64::MAX),
        (None, Some(hash)) => match hash.parse() {
            Ok(name) => files::find(db, name).await?.map_or(0, |file| file.bytes),
            Err(_) => 0,
        },
        (None, None) => 0,
    };
    Ok(store_price(&Address::new(text("address").unwrap_or_default()), bytes, table))
}

/// Takes the announced sizes out of the content: they are no part of the schema.
fn announced(content: &mut Map<String, Value>) -> HashMap<Slot, Decimal> {
    let take = |slot: Slot, holder: Option<&mut Value>| {
        let size = holder?.as_object_mut()?.remove(ESTIMATED_SIZE)?.as_f64()?;
        Some((slot, Decimal::from_f64(size.clamp(0.0, MAX_ANNOUNCED_MIB))?))
    };
    let mut found = HashMap::new();
    found.extend(take(Slot::Code, content.get_mut("code")));
    found.extend(take(Slot::Runtime, content.get_mut("runtime")));
    found.extend(take(Slot::Data, content.get_mut("data")));
    if let Some(Value::Array(volumes)) = content.get_mut("volumes") {
        found.extend(volumes.iter_mut().enumerate().filter_map(|(i, volume)| take(Slot::Volume(i), Some(volume))));
    }
    found
}

/// Fields that are `null` are fields that are not set. JSON's nesting was bounded when it was read.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            fields.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k, without_nulls(v))).collect()
        }
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn announced_sizes_are_taken_out() {
        let mut content = json!({
            "code": {"ref": "c", "estimated_size_mib": 3},
            "runtime": {"ref": "r"},
            "volumes": [{"size_mib": 1}, {"ref": "v", "estimated_size_mib": 2.5}],
        });
        let content = content.as_object_mut().unwrap();
        let found = announced(content);
        assert_eq!(found.len(), 2);
        assert_eq!(found[&Slot::Code], Decimal::from(3));
        assert_eq!(found[&Slot::Volume(1)].to_string(), "2.5");
        assert!(!Value::Object(content.clone()).to_string().contains(ESTIMATED_SIZE));
    }

    #[test]
    fn nulls_are_fields_that_are_not_set() {
        let dumped = json!({"a": null, "b": {"c": null, "d": [{"e": null}, 1]}});
        assert_eq!(without_nulls(dumped), json!({"b": {"d": [{}, 1]}}));
    }
}

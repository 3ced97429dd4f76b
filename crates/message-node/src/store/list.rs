//! Lists of messages, by page or from a position.

use super::messages::{COLUMNS, MessageRow};
use super::query::Query;
use super::{Connection, Part, Stored, bounded, to_db};
use crate::filter::Filter;

/// The direction of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Oldest first.
    Ascending,
    /// Newest first.
    Descending,
}

/// The place of a message in lists: its time and, among equals, its hash. It does not move when others come or go, so that
/// whoever follows a list from place to place sees everything that was in it when he started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// Microseconds since 1970.
    pub time_us: i64,
    /// The message.
    pub item_hash: String,
}

/// Which part of a list.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Window {
    /// After so many messages.
    Skip(u64),
    /// After this place; `None` from the start.
    After(Option<Place>),
}

/// Reads at most `limit` messages with at most `max_bytes` of contents (at least one message).
pub(crate) async fn part(
    db: &mut Connection,
    filter: &Filter,
    order: Order,
    window: &Window,
    limit: u32,
    max_bytes: u64,
) -> Stored<Part<MessageRow>> {
    let mut query = Query::new(format!("SELECT {COLUMNS} FROM messages WHERE "));
    push_filter(&mut query, filter);
    push_window(&mut query, "", order, window, limit);
    bounded(query.rows().fetch(db), MessageRow::size, max_bytes).await
}

/// How many messages pass the filter.
pub(crate) async fn count(db: &mut Connection, filter: &Filter) -> Stored<i64> {
    // By type and status they are counted as they come, so that nobody has to count a million.
    let by_kind = Filter { types: filter.types.clone(), statuses: filter.statuses.clone(), ..Filter::default() };
    let mut query = Query::new(match *filter == by_kind {
        true => "SELECT CAST(COALESCE(SUM(count), 0) AS BIGINT) FROM message_counts WHERE ",
        false => "SELECT COUNT(*) FROM messages WHERE ",
    });
    push_filter(&mut query, filter);
    Ok(query.values().fetch_one(db).await?)
}

fn push_filter(query: &mut Query, filter: &Filter) {
    query.push_in("status", filter.statuses().iter().map(|status| status.as_str().to_owned()));
    let lists = [
        ("item_hash", &filter.hashes),
        ("sender_key", &filter.senders),
        ("owner", &filter.owners),
        ("content_ref", &filter.refs),
        ("content_hash", &filter.content_hashes),
        ("content_key", &filter.content_keys),
        ("content_type", &filter.content_types),
        ("chain", &filter.chains),
        ("channel", &filter.channels),
    ];
    let types: Vec<String> = filter.types.iter().map(ToString::to_string).collect();
    for (column, values) in lists.into_iter().chain([("type", &types)]) {
        if !values.is_empty() {
            query.push(" AND ");
            query.push_in(column, values.iter().cloned());
        }
    }
    push_tags(query, "item_hash", &filter.tags);
    if let Some(start) = filter.start_us {
        query.push(" AND time_us >= ").push_bind(start);
    }
    if let Some(end) = filter.end_us {
        query.push(" AND time_us < ").push_bind(end);
    }
}

/// The rest of a query that lists by time and hash: where to start, the order, how many. `table` is empty or ends in a dot.
pub(crate) fn push_window(query: &mut Query, table: &str, order: Order, window: &Window, limit: u32) {
    let (comparison, direction) = if order == Order::Ascending { (">", "ASC") } else { ("<", "DESC") };
    if let Window::After(Some(place)) = window {
        query.push(format!(" AND ({table}time_us, {table}item_hash) {comparison} (")).push_bind(place.time_us);
        query.push(", ").push_bind(place.item_hash.clone()).push(")");
    }
    query
        .push(format!(" ORDER BY {table}time_us {direction}, {table}item_hash {direction} LIMIT "))
        .push_bind(i64::from(limit));
    if let Window::Skip(rows) = window {
        query.push(" OFFSET ").push_bind(to_db(*rows));
    }
}

/// That the message with the hash in this column has one of these tags, if there are any.
pub(crate) fn push_tags(query: &mut Query, column: &str, tags: &[String]) {
    if !tags.is_empty() {
        query.push(format!(" AND {column} IN (SELECT item_hash FROM message_tags WHERE "));
        query.push_in("tag", tags.iter().cloned()).push(")");
    }
}

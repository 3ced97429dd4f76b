//! POST messages in force, and the amends that replace them.

use sqlx::FromRow;

use super::list::{Order, Window, push_tags, push_window};
use super::query::Query;
use super::{Connection, Part, Stored, bounded, from_db};

/// A new post.
pub(crate) struct NewPost<'a> {
    /// The message.
    pub item_hash: &'a str,
    /// Its owner, canonical.
    pub owner: &'a str,
    /// Its owner, as written.
    pub address: &'a str,
    /// Its type.
    pub post_type: &'a str,
    /// The message it refers to.
    pub reference: Option<&'a str>,
    /// The post it replaces.
    pub amends: Option<&'a str>,
    /// Its channel.
    pub channel: Option<&'a str>,
    /// The content's time, microseconds since 1970.
    pub time_us: i64,
}

/// What others need to know of a post to amend it.
#[derive(Debug, FromRow)]
pub(crate) struct PostFacts {
    /// Its owner, as written.
    pub address: String,
    /// Its type.
    #[sqlx(rename = "type")]
    pub post_type: String,
    /// The post it replaces.
    pub amends: Option<String>,
}

/// A post as lists show it: the original with the content of its newest amend.
#[derive(Debug, FromRow)]
pub(crate) struct PostRow {
    /// The first version.
    pub original_hash: String,
    /// The shown version.
    pub item_hash: String,
    /// The owner, as written.
    pub address: String,
    /// The type of the first version.
    pub original_type: String,
    /// The type of the shown version; `amend` when it is one.
    #[sqlx(rename = "type")]
    pub post_type: String,
    /// The message that the first version refers to.
    #[sqlx(rename = "ref")]
    pub reference: Option<String>,
    /// The channel of the first version.
    pub channel: Option<String>,
    /// When the first version was written, microseconds since 1970.
    pub created_us: i64,
    /// When the shown version was written, microseconds since 1970.
    pub updated_us: i64,
    /// The word of the chain.
    pub chain: String,
    /// Of the shown version.
    pub signature: Option<String>,
    /// Of the first version.
    pub original_signature: Option<String>,
    /// Of the shown version.
    pub item_type: String,
    /// The item content of the shown version, byte for byte.
    pub content: String,
    /// Bytes of the content.
    pub size: i64,
    /// The envelope's time of the shown version, microseconds since 1970.
    pub time_us: i64,
}

/// Which posts are wanted. An empty list wants all.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct PostFilter {
    /// Owners, canonical.
    pub owners: Vec<String>,
    /// First versions.
    pub hashes: Vec<String>,
    /// Messages that first versions refer to.
    pub refs: Vec<String>,
    /// Types of first versions.
    pub types: Vec<String>,
    /// Tags of the shown versions.
    pub tags: Vec<String>,
    /// Channels.
    pub channels: Vec<String>,
    /// Words of chains, of first versions.
    pub chains: Vec<String>,
    /// Written not before this time, microseconds since 1970.
    pub start_us: Option<i64>,
    /// Written before this time, microseconds since 1970.
    pub end_us: Option<i64>,
}

/// Puts a post in force, and shows it in place of the one that it amends if it is the newest to do so.
pub(crate) async fn insert(db: &mut Connection, post: &NewPost<'_>) -> Stored<()> {
    sqlx::query(
        "INSERT INTO posts (item_hash, owner, address, type, ref, amends, channel, time_us)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(post.item_hash)
    .bind(post.owner)
    .bind(post.address)
    .bind(post.post_type)
    .bind(post.reference)
    .bind(post.amends)
    .bind(post.channel)
    .bind(post.time_us)
    .execute(&mut *db)
    .await?;
    match post.amends {
        Some(original) => show_newest_amend(db, original).await,
        None => Ok(()),
    }
}

async fn show_newest_amend(db: &mut Connection, original: &str) -> Stored<()> {
    sqlx::query(
        "UPDATE posts SET latest_amend =
             (SELECT a.item_hash FROM posts a WHERE a.amends = $1 ORDER BY a.time_us DESC, a.item_hash DESC LIMIT 1)
         WHERE item_hash = $1",
    )
    .bind(original)
    .execute(db)
    .await?;
    Ok(())
}

/// What others need to know of a post to amend it; `None` when it is not in force.
pub(crate) async fn facts(db: &mut Connection, item_hash: &str) -> Stored<Option<PostFacts>> {
    Ok(sqlx::query_as("SELECT address, type, amends FROM posts WHERE item_hash = $1")
        .bind(item_hash)
        .fetch_optional(db)
        .await?)
}

/// The amends of a post.
pub(crate) async fn amends_of(db: &mut Connection, item_hash: &str) -> Stored<Vec<String>> {
    Ok(sqlx::query_scalar("SELECT item_hash FROM posts WHERE amends = $1").bind(item_hash).fetch_all(db).await?)
}

/// Puts a post out of force; what it amended shows its next newest version.
pub(crate) async fn delete(db: &mut Connection, item_hash: &str) -> Stored<()> {
    let amended: Option<Option<String>> = sqlx::query_scalar("DELETE FROM posts WHERE item_hash = $1 RETURNING amends")
        .bind(item_hash)
        .fetch_optional(&mut *db)
        .await?;
    match amended.flatten() {
        Some(original) => show_newest_amend(db, &original).await,
        None => Ok(()),
    }
}

/// A part of the list of posts, by the time the first version was written, with at most `max_bytes` of contents.
pub(crate) async fn part(
    db: &mut Connection,
    filter: &PostFilter,
    order: Order,
    window: &Window,
    limit: u32,
    max_bytes: u64,
) -> Stored<Part<PostRow>> {
    let mut query = Query::new(
        "SELECT p.item_hash AS original_hash, m.item_hash, p.address, p.type AS original_type,
             COALESCE(a.type, p.type) AS type, p.ref, p.channel, p.time_us AS created_us,
             COALESCE(a.time_us, p.time_us) AS updated_us, m.chain, m.signature, o.signature AS original_signature,
             m.item_type, m.content, m.size, m.time_us
         FROM posts p
         LEFT JOIN posts a ON a.item_hash = p.latest_amend
         JOIN messages m ON m.item_hash = COALESCE(p.latest_amend, p.item_hash)
         JOIN messages o ON o.item_hash = p.item_hash
         WHERE ",
    );
    push_filter(&mut query, filter);
    push_window(&mut query, "p.", order, window, limit);
    bounded(query.rows().fetch(db), |row: &PostRow| from_db(row.size), max_bytes).await
}

/// How many posts pass the filter.
pub(crate) async fn count(db: &mut Connection, filter: &PostFilter) -> Stored<i64> {
    let mut query = Query::new("SELECT COUNT(*) FROM posts p WHERE ");
    push_filter(&mut query, filter);
    Ok(query.values().fetch_one(db).await?)
}

fn push_filter(query: &mut Query, filter: &PostFilter) {
    query.push("p.amends IS NULL");
    let lists = [
        ("p.owner", &filter.owners),
        ("p.item_hash", &filter.hashes),
        ("p.ref", &filter.refs),
        ("p.type", &filter.types),
        ("p.channel", &filter.channels),
    ];
    for (column, values) in lists {
        if !values.is_empty() {
            query.push(" AND ");
            query.push_in(column, values.iter().cloned());
        }
    }
    if !filter.chains.is_empty() {
        query.push(" AND EXISTS (SELECT 1 FROM messages f WHERE f.item_hash = p.item_hash AND ");
        query.push_in("f.chain", filter.chains.iter().cloned());
        query.push(")");
    }
    push_tags(query, "COALESCE(p.latest_amend, p.item_hash)", &filter.tags);
    if let Some(start) = filter.start_us {
        query.push(" AND p.time_us >= ").push_bind(start);
    }
    if let Some(end) = filter.end_us {
        query.push(" AND p.time_us < ").push_bind(end);
    }
}

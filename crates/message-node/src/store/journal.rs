//! What streams were told, for the other processes on the same database.
//!
//! It is written in the transaction in which the messages are decided. Only the process that leads writes, so that numbers
//! follow each other without gaps: whoever reads on from a number and finds another than the next has missed something.

use sqlx::FromRow;

use super::{Connection, StoreError, Stored};
use crate::events::{Event, News};

#[derive(FromRow)]
struct Row {
    seq: i64,
    news: String,
    traits: String,
    message: String,
}

impl Row {
    fn read(self) -> Stored<(i64, Event)> {
        let corrupt = |e: serde_json::Error| StoreError::corrupt("entry of the journal", self.seq.to_string(), e);
        let traits = serde_json::from_str(&self.traits).map_err(corrupt)?;
        let news = News::from_word(&self.news).map_err(corrupt)?;
        Ok((self.seq, Event::new(traits, news, self.message)))
    }
}

/// Adds what streams are told once the transaction is done, in order.
pub(crate) async fn append(db: &mut Connection, events: &[Event], now_us: i64) -> Stored<()> {
    if events.is_empty() {
        return Ok(());
    }
    for (seq, event) in (end(db).await? + 1..).zip(events) {
        let traits = serde_json::to_string(&event.traits).expect("traits are JSON");
        sqlx::query("INSERT INTO journal (seq, at_us, news, traits, message) VALUES ($1, $2, $3, $4, $5)")
            .bind(seq)
            .bind(now_us)
            .bind(event.news.word())
            .bind(traits)
            .bind(event.json.as_str())
            .execute(&mut *db)
            .await?;
    }
    Ok(())
}

/// The number of the last entry; 0 when there was none.
pub(crate) async fn end(db: &mut Connection) -> Stored<i64> {
    Ok(sqlx::query_scalar("SELECT COALESCE(MAX(seq), 0) FROM journal").fetch_one(db).await?)
}

/// The next entries after a number, in order, at most `limit`.
pub(crate) async fn after(db: &mut Connection, seq: i64, limit: u32) -> Stored<Vec<(i64, Event)>> {
    let sql = "SELECT seq, news, traits, message FROM journal WHERE seq > $1 ORDER BY seq LIMIT $2";
    let rows: Vec<Row> = sqlx::query_as(sql).bind(seq).bind(i64::from(limit)).fetch_all(db).await?;
    rows.into_iter().map(Row::read).collect()
}

/// Drops what is older than this, but for the last entry.
pub(crate) async fn prune(db: &mut Connection, before_us: i64) -> Stored<()> {
    sqlx::query("DELETE FROM journal WHERE at_us < $1 AND seq < (SELECT MAX(seq) FROM journal)")
        .bind(before_us)
        .execute(db)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use protocol::api::message_node::MessageStatus;
    use protocol::message::MessageType;

    use super::super::{Database, Store};
    use super::*;
    use crate::filter::Traits;

    fn event(hash: &str, news: News) -> Event {
        let traits = Traits {
            item_hash: hash.into(),
            message_type: MessageType::Post,
            chain: "ETH".into(),
            channel: None,
            sender: "0xs".into(),
            owner: Some("0xo".into()),
            time_us: 5,
            content_type: Some("note".into()),
            content_ref: None,
            content_hash: None,
            content_key: None,
            tags: vec!["a".into()],
        };
        Event::new(traits, news, format!(r#"{{"item_hash":"{hash}"}}"#))
    }

    #[tokio::test]
    async fn entries_are_read_as_they_were_told_and_the_last_one_stays() {
        let url = tokio::task::spawn_blocking(|| aleph_tests::Postgres::shared().database()).await.unwrap();
        let store = Store::open(&Database::Postgres(url.parse().unwrap())).await.unwrap();
        let told = [
            event("a", News::Arrived),
            event("b", News::Status(MessageStatus::Removing)),
            event("b", News::Back),
            event("c", News::Status(MessageStatus::Removed)),
        ];
        let mut tx = store.write().await.unwrap();
        assert_eq!(end(&mut tx).await.unwrap(), 0);
        append(&mut tx, &told[..1], 10).await.unwrap();
        tx.commit().await.unwrap();
        let mut undone = store.write().await.unwrap();
        append(&mut undone, &told, 11).await.unwrap();
        drop(undone);
        let mut tx = store.write().await.unwrap();
        append(&mut tx, &told[1..], 20).await.unwrap();
        let show = |(seq, event): &(i64, Event)| (*seq, event.traits.clone(), event.news, event.json.to_string());
        let expected: Vec<_> = (1..).zip(told).collect();
        let found = after(&mut tx, 0, 10).await.unwrap();
        assert_eq!(found.iter().map(show).collect::<Vec<_>>(), expected.iter().map(show).collect::<Vec<_>>());
        let numbers = async |db: &mut Connection, seq, limit| {
            after(db, seq, limit).await.unwrap().iter().map(|(seq, _)| *seq).collect::<Vec<_>>()
        };
        assert_eq!(numbers(&mut tx, 1, 2).await, [2, 3]);
        prune(&mut tx, 15).await.unwrap();
        assert_eq!(numbers(&mut tx, 0, 10).await, [2, 3, 4]);
        prune(&mut tx, 100).await.unwrap();
        assert_eq!((numbers(&mut tx, 0, 10).await, end(&mut tx).await.unwrap()), (vec![4], 4));
    }
}

//! What the node answers under the well-known addresses of the network; the rules are in [`crate::core::network`].

use protocol::network::{CORECHANNEL_KEY, PRICING_KEY, SETTINGS_ADDRESS};
use protocol::{Address, Aliases};
use serde_json::{Map, Value};

use crate::core::aggregate::Document;
use crate::core::network::{built_in, keys_of, overlay};
use crate::prices::PriceTable;
use crate::store::{Connection, Part, StoreError, Stored, aggregates, nodes};

/// Who speaks for the network, and the prices that the operator set.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    /// The network's authority.
    pub authority: Option<Address>,
    /// Products that replace built-in ones.
    pub pricing: Map<String, Value>,
    /// Other names of files.
    pub aliases: Aliases,
}

impl Network {
    /// The documents of an account: those that its messages make, and for well-known addresses those that describe the
    /// network. `keys` is empty for all. At most `limit` with at most `max_bytes` together.
    pub(crate) async fn documents(
        &self,
        db: &mut Connection,
        address: &Address,
        keys: &[String],
        limit: u32,
        max_bytes: u64,
    ) -> Stored<Part<Published>> {
        let own = aggregates::of_owner(db, &address.canonical(), keys, limit, max_bytes).await?;
        let mut rows: Vec<Published> = own
            .rows
            .into_iter()
            .map(|row| Published {
                key: row.key,
                document: row.aggregate.into_document(),
                history: Some(History { first: row.first, last: row.last }),
            })
            .collect();
        for key in keys_of(address) {
            let wanted = keys.is_empty() || keys.iter().any(|wanted| wanted == key);
            if wanted && !rows.iter().any(|published| published.key == *key) {
                let document = self.synthesised(db, key).await?;
                rows.push(Published { key: (*key).to_owned(), document, history: None });
            }
        }
        Ok(Part { rows, cut: own.cut })
    }

    /// What the authority published over what is built in.
    async fn synthesised(&self, db: &mut Connection, key: &str) -> Stored<Document> {
        let nodes = if key == CORECHANNEL_KEY { nodes::all(db).await? } else { Vec::new() };
        let published = match &self.authority {
            Some(authority) => aggregates::get(db, &authority.canonical(), key).await?,
            None => None,
        };
        Ok(overlay(built_in(key, &self.pricing, &nodes), published.map(|row| row.aggregate.into_document())))
    }

    /// The prices in force: those that clients read.
    pub(crate) async fn price_table(&self, db: &mut Connection) -> Stored<PriceTable> {
        let keys = [PRICING_KEY.to_owned()];
        let found = self.documents(db, &Address::new(SETTINGS_ADDRESS), &keys, 1, u64::MAX).await?;
        let mut pricing = Map::new();
        for (product, entry) in found.rows.into_iter().flat_map(|published| published.document) {
            let entry = serde_json::from_str(entry.get()).map_err(|e| StoreError::corrupt("price", &product, e))?;
            pricing.insert(product, entry);
        }
        Ok(PriceTable::from_aggregate(&pricing))
    }
}

/// One document of an account.
#[derive(Debug)]
pub(crate) struct Published {
    /// Its key.
    pub key: String,
    /// Its values.
    pub document: Document,
    /// Where it came from; `None` for documents that the node answers itself.
    pub history: Option<History>,
}

/// The oldest and the newest message of a document.
#[derive(Debug)]
pub(crate) struct History {
    /// The oldest: content time in microseconds since 1970, and hash.
    pub first: (i64, String),
    /// The newest.
    pub last: (i64, String),
}

//! Balances as JSON documents: the ledger in a file, and what trusted senders publish.
//!
//! The latter are POST messages of the type `balances-update` (source: pyaleph, `handlers/content/post.py` and
//! `db/accessors/balances.py`): `{"chain": "ETH", "main_height": 21000000, "balances": {"0x…": 12.5}}`, with `dapp` for
//! tokens that something else holds for the accounts; those are kept and do not count. An update holds what changed or all;
//! whom it does not name keeps what it had. A balance as of a lower block never replaces one of a higher.

use std::collections::HashMap;

use protocol::message::{ErrorCode, PostContent};
use rust_decimal::Decimal;
use serde_json::{Map, Value};

use super::Rejection;

/// The type of the posts that publish balances.
pub(crate) const UPDATE_POST: &str = "balances-update";

/// Balances in tokens by canonical address.
pub(crate) type ByAccount = HashMap<String, Decimal>;

/// Balances on one chain as of one block.
#[derive(Debug, PartialEq)]
pub(crate) struct Update {
    /// The word of the chain.
    pub chain: String,
    /// What holds the tokens for the accounts; empty when they do themselves.
    pub dapp: String,
    /// The number of the block.
    pub height: i64,
    /// The balances.
    pub balances: ByAccount,
}

/// Reads the balances of a document.
///
/// # Errors
/// A sentence about the first entry that is no balance.
pub(crate) fn by_account(document: &Map<String, Value>) -> Result<ByAccount, String> {
    let mut balances = ByAccount::with_capacity(document.len());
    for (address, value) in document {
        let balance = amount(value).ok_or_else(|| format!("the balance of {address} is no amount of tokens"))?;
        if balances.insert(crate::filter::canonical(address), balance).is_some() {
            return Err(format!("{address} is listed twice, in capital and small letters"));
        }
    }
    Ok(balances)
}

/// Reads an update.
///
/// # Errors
/// [`ErrorCode::InvalidFormat`].
pub(crate) fn update(post: &PostContent) -> Result<Update, Rejection> {
    let wrong = |why: &str| Rejection::new(ErrorCode::InvalidFormat, format!("{UPDATE_POST}: {why}"));
    let content = &post.content;
    let chain = content["chain"].as_str().filter(|chain| !chain.is_empty());
    let dapp = match &content["dapp"] {
        Value::Null => "",
        dapp => dapp.as_str().ok_or_else(|| wrong("'dapp' is no text"))?,
    };
    let balances = content["balances"].as_object().ok_or_else(|| wrong("'balances' is no object"))?;
    Ok(Update {
        chain: chain.ok_or_else(|| wrong("'chain' is missing"))?.to_owned(),
        dapp: dapp.to_owned(),
        height: content["main_height"].as_i64().ok_or_else(|| wrong("'main_height' is no whole number"))?,
        balances: by_account(balances).map_err(|why| wrong(&why))?,
    })
}

fn amount(value: &Value) -> Option<Decimal> {
    let amount: Option<Decimal> = match value {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => {
            let text = number.to_string();
            text.parse().or_else(|_| Decimal::from_scientific(&text)).ok()
        }
        _ => None,
    };
    amount.filter(|amount| *amount >= Decimal::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn post(content: &Value) -> PostContent {
        let content = json!({"address": "0xA", "time": 1.0, "type": UPDATE_POST, "content": content});
        serde_json::from_value(content).unwrap()
    }

    #[test]
    fn amounts_are_numbers_or_text() {
        let document = json!({"0xABcd": "10000.5", "So1": 12, "0x1": 1e3, "0x2": 0.1, "0x3": 1e-7});
        let balances = by_account(document.as_object().unwrap()).unwrap();
        assert_eq!(balances["0xabcd"].to_string(), "10000.5");
        assert_eq!((balances["So1"], balances["0x1"]), (Decimal::from(12), Decimal::from(1000)));
        assert_eq!((balances["0x2"].to_string(), balances["0x3"].to_string()), ("0.1".into(), "0.0000001".into()));
        for bad in [json!({"0x1": null}), json!({"0x1": "much"}), json!({"0x1": -1}), json!({"0x1": 1e40})] {
            let error = by_account(bad.as_object().unwrap()).unwrap_err();
            assert!(error.contains("0x1"), "{error}");
        }
        let error = by_account(json!({"0xAB": 1, "0xab": 2}).as_object().unwrap()).unwrap_err();
        assert!(error.contains("twice"), "{error}");
    }

    #[test]
    fn updates_name_chain_and_block() {
        let whole = json!({"chain": "ETH", "main_height": 7, "balances": {"0xAB": 12.5}});
        let balances = ByAccount::from([("0xab".to_owned(), Decimal::new(125, 1))]);
        let expected = Update { chain: "ETH".into(), dapp: String::new(), height: 7, balances };
        assert_eq!(update(&post(&whole)), Ok(expected));
        let mut locked = whole.clone();
        locked["dapp"] = json!("SABLIER");
        assert_eq!(update(&post(&locked)).unwrap().dapp, "SABLIER");
        for (field, bad) in [
            ("chain", json!("")),
            ("main_height", json!("7")),
            ("main_height", Value::Null),
            ("dapp", json!(1)),
            ("balances", json!([])),
            ("balances", json!({"0xab": -1})),
        ] {
            let mut broken = whole.clone();
            broken[field] = bad;
            let rejection = update(&post(&broken)).unwrap_err();
            assert_eq!(rejection.code, ErrorCode::InvalidFormat);
            assert!(rejection.errors[0].as_str().unwrap().contains(UPDATE_POST), "{rejection:?}");
        }
        assert!(update(&post(&Value::Null)).is_err());
    }
}

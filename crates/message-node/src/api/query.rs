//! Query parameters, by the names that clients use: pyaleph's, in camel case or as its own code spells them.

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use data_encoding::BASE64URL_NOPAD;
use protocol::api::message_node::MessageStatus;
use protocol::message::{MessageTime, MessageType};
use protocol::openapi::MESSAGE_TYPES;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::{Answer, ApiError};
use crate::config::Limits;
use crate::core::type_from_name;
use crate::filter::{Filter, canonical};
use crate::store::list::{Order, Place, Window};

/// Messages in a page when the client does not say.
const DEFAULT_PAGE: u32 = 20;
/// Values of one parameter.
pub(super) const MAX_VALUES: usize = 1000;

/// The query parameters of a request.
pub(super) struct Params(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Query(pairs) = Query::<Vec<(String, String)>>::from_request_parts(parts, state)
            .await
            .map_err(|e| ApiError::bad_request(format!("{}; percent-encode the query", e.body_text())))?;
        Ok(Self(pairs))
    }
}

impl Params {
    /// These names with their values.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn from_pairs(pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(pairs.into_iter().collect())
    }

    /// The value of the first of these names that is there and not empty.
    pub(super) fn get(&self, names: &[&str]) -> Option<&str> {
        self.present(names).filter(|value| !value.is_empty())
    }

    /// The value of the first of these names that is there.
    pub(super) fn present(&self, names: &[&str]) -> Option<&str> {
        let find = |name: &&str| self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        names.iter().find_map(find)
    }

    /// The comma-separated values of the first of these names that is there; none when it is not.
    pub(super) fn list(&self, names: &[&str]) -> Answer<Vec<String>> {
        let Some(text) = self.get(names) else { return Ok(Vec::new()) };
        let values: Vec<String> = text.split(',').map(|v| v.trim().to_owned()).filter(|v| !v.is_empty()).collect();
        if values.len() > MAX_VALUES {
            return Err(ApiError::invalid(format!(
                "'{}' has more than {MAX_VALUES} values; ask several times",
                names[0]
            )));
        }
        Ok(values)
    }

    /// Addresses, canonical.
    pub(super) fn addresses(&self, names: &[&str]) -> Answer<Vec<String>> {
        Ok(self.list(names)?.iter().map(|address| canonical(address)).collect())
    }

    /// Whether a switch is on.
    pub(super) fn is_on(&self, name: &str) -> bool {
        self.get(&[name])
            .is_some_and(|value| matches!(value.to_ascii_lowercase().as_str(), "true" | "1" | "yes" | "on"))
    }

    fn number(&self, names: &[&str]) -> Answer<Option<u64>> {
        let Some(text) = self.get(names) else { return Ok(None) };
        let wrong = || ApiError::invalid(format!("'{}' is '{text}': expected a whole number", names[0]));
        text.parse().map(Some).map_err(|_| wrong())
    }

    /// A time in seconds since 1970 or ISO 8601, as microseconds; `None` for 0, which clients send for "not set".
    pub(super) fn time(&self, names: &[&str]) -> Answer<Option<i64>> {
        let Some(text) = self.get(names) else { return Ok(None) };
        let value = text.parse::<f64>().map_or_else(|_| Value::from(text), Value::from);
        let time: MessageTime =
            serde_json::from_value(value).map_err(|e| ApiError::invalid(format!("'{}': {e}", names[0])))?;
        Ok(Some(time.as_micros()).filter(|us| *us != 0))
    }

    /// The direction of a list; newest first when the client does not say.
    pub(super) fn order(&self) -> Answer<Order> {
        match self.get(&["sortOrder", "sort_order"]) {
            None | Some("-1") => Ok(Order::Descending),
            Some("1") => Ok(Order::Ascending),
            Some(other) => Err(ApiError::invalid(format!("'sortOrder' is '{other}': expected 1 or -1"))),
        }
    }

    /// How many older messages a stream starts with.
    pub(super) fn history(&self) -> Answer<u32> {
        /// Messages that a stream starts with when the client does not say.
        const DEFAULT: u64 = 10;
        /// Messages that a stream starts with at most.
        const MOST: u64 = 200;
        let wanted = self.number(&["history"])?.unwrap_or(DEFAULT).min(MOST);
        Ok(u32::try_from(wanted).expect("it was just bounded"))
    }

    /// Which documents of an account at most.
    pub(super) fn limit(&self, most: u32) -> Answer<u32> {
        let wanted = self.number(&["limit"])?.unwrap_or(most.into());
        Ok(u32::try_from(wanted).unwrap_or(most).clamp(1, most))
    }

    /// Which messages are wanted.
    pub(super) fn filter(&self) -> Answer<Filter> {
        let types = self.list(&["msgTypes", "message_types", "msgType", "message_type"])?;
        let statuses = self.list(&["msgStatuses", "message_statuses"])?;
        let filter = Filter {
            types: types.iter().map(|word| message_type(word)).collect::<Answer<_>>()?,
            statuses: statuses.iter().map(|word| status(word)).collect::<Answer<_>>()?,
            senders: self.addresses(&["addresses"])?,
            owners: self.addresses(&["owners"])?,
            hashes: self.list(&["hashes"])?,
            refs: self.list(&["refs"])?,
            content_hashes: self.list(&["contentHashes", "content_hashes"])?,
            content_keys: self.list(&["contentKeys", "content_keys"])?,
            content_types: self.list(&["contentTypes", "content_types"])?,
            tags: self.list(&["tags"])?,
            chains: self.list(&["chains"])?,
            channels: self.list(&["channels"])?,
            start_us: self.time(&["startDate", "start_date"])?,
            end_us: self.time(&["endDate", "end_date"])?,
        };
        if let (Some(start), Some(end)) = (filter.start_us, filter.end_us)
            && end < start
        {
            return Err(ApiError::invalid("'endDate' is before 'startDate': give the earlier one as 'startDate'"));
        }
        Ok(filter)
    }

    /// Which part of a list is wanted. A list is never sent as a whole: `pagination=0` and large pages get the node's limit.
    pub(super) fn paging(&self, limits: &Limits) -> Answer<Paging> {
        let per_page = match self.number(&["pagination"])? {
            None => DEFAULT_PAGE.min(limits.page),
            Some(0) => limits.page,
            Some(wanted) => u32::try_from(wanted).unwrap_or(u32::MAX).min(limits.page),
        };
        let window = match self.present(&["cursor"]) {
            None => {
                let page = self.number(&["page"])?.unwrap_or(1);
                let skipped = page.checked_sub(1).and_then(|full| full.checked_mul(per_page.into()));
                let rows = skipped.ok_or_else(|| ApiError::invalid(format!("'page' is {page}: expected 1 or more")))?;
                return Ok(Paging { per_page, page: Some(page), window: Window::Skip(rows) });
            }
            Some("") => Window::After(None),
            Some(cursor) => Window::After(Some(read_cursor(cursor)?)),
        };
        Ok(Paging { per_page, page: None, window })
    }

    /// The page of a path such as `/messages/page/3.json` as if it had been a parameter.
    pub(super) fn with_page(mut self, page: &str) -> Self {
        self.0.retain(|(key, _)| key != "page" && key != "cursor");
        self.0.push(("page".to_owned(), page.trim_end_matches(".json").to_owned()));
        self
    }
}

fn message_type(word: &str) -> Answer<MessageType> {
    type_from_name(word).ok_or_else(|| {
        ApiError::invalid(format!("'{word}' is no type of message; those are {}", MESSAGE_TYPES.join(", ")))
    })
}

fn status(word: &str) -> Answer<MessageStatus> {
    use MessageStatus::{Forgotten, Pending, Processed, Rejected, Removed, Removing};
    let all = [Pending, Processed, Rejected, Forgotten, Removing, Removed];
    let wrong = || {
        let words = all.map(MessageStatus::as_str).join(", ");
        ApiError::invalid(format!("'{word}' is no status of a message; those are {words}"))
    };
    all.into_iter().find(|status| status.as_str() == word).ok_or_else(wrong)
}

/// Which part of a list is wanted.
#[derive(Debug, PartialEq)]
pub(super) struct Paging {
    /// Entries in a page.
    pub per_page: u32,
    /// The page, from 1; `None` in lists by cursor.
    pub page: Option<u64>,
    /// The same for the database.
    pub window: Window,
}

impl Paging {
    /// How many rows to read: one more than the page has tells whether there is another page.
    pub(super) fn rows(&self) -> u32 {
        self.per_page + 1
    }

    /// Cuts what was read to the page; tells whether there is more.
    pub(super) fn cut<T>(&self, rows: &mut Vec<T>) -> bool {
        let most = self.per_page as usize;
        let more = rows.len() > most;
        rows.truncate(most);
        more
    }
}

/// A cursor is the place of the last message of a page: opaque to clients, in the form of pyaleph's.
#[derive(Serialize, Deserialize)]
struct Cursor {
    t: i64,
    h: String,
}

/// Where the next page starts.
pub(super) fn write_cursor(place: Place) -> String {
    let cursor = Cursor { t: place.time_us, h: place.item_hash };
    BASE64URL_NOPAD.encode(&serde_json::to_vec(&cursor).expect("a cursor is JSON"))
}

fn read_cursor(text: &str) -> Answer<Place> {
    let bytes = BASE64URL_NOPAD.decode(text.trim_end_matches('=').as_bytes()).ok();
    let cursor: Option<Cursor> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let cursor =
        cursor.ok_or_else(|| ApiError::invalid("'cursor' is not one that this node gave; start with an empty one"))?;
    Ok(Place { time_us: cursor.t, item_hash: cursor.h })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(query: &str) -> Params {
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap();
            (key.to_owned(), value.to_owned())
        });
        Params::from_pairs(pairs)
    }

    #[test]
    fn filters_have_several_spellings() {
        for query in ["msgType=STORE", "msgTypes=STORE", "message_types=STORE"] {
            assert_eq!(params(query).filter().unwrap().types, [MessageType::Store], "{query}");
        }
        let filter =
            params("addresses=0xAB,So1&owners=0xCD&startDate=1.5&endDate=0&msgStatuses=removing,removed").filter();
        let filter = filter.unwrap();
        assert_eq!(filter.senders, ["0xab", "So1"]);
        assert_eq!(filter.owners, ["0xcd"]);
        assert_eq!((filter.start_us, filter.end_us), (Some(1_500_000), None));
        assert_eq!(filter.statuses, [MessageStatus::Removing, MessageStatus::Removed]);
        assert_eq!(params("addresses=&hashes=,").filter().unwrap(), Filter::default());
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let bad = ["msgTypes=PROGRAM,nonsense", "msgStatuses=x", "startDate=x", "startDate=5&endDate=4"];
        for query in bad {
            assert!(params(query).filter().is_err(), "{query}");
        }
        let many = format!("hashes={}", vec!["h"; MAX_VALUES + 1].join(","));
        assert!(params(&many).filter().is_err());
        assert!(params("sort_order=0").order().is_err());
        for query in
            ["page=0", "page=x", "pagination=-1", "cursor=nonsense", "page=18446744073709551615&pagination=100"]
        {
            assert!(params(query).paging(&Limits::default()).is_err(), "{query}");
        }
    }

    #[test]
    fn pages_are_bounded() {
        let limits = Limits::default();
        let page = |query: &str| params(query).paging(&limits).unwrap();
        assert_eq!((page("").per_page, page("").page), (DEFAULT_PAGE, Some(1)));
        assert_eq!(page("pagination=0").per_page, limits.page);
        assert_eq!(page("pagination=99999999999").per_page, limits.page);
        assert_eq!(page("page=3&pagination=10").window, Window::Skip(20));
        assert_eq!(page("cursor=").window, Window::After(None));
        assert_eq!(page("cursor=&page=3").page, None);
    }

    #[test]
    fn cursors_return_to_their_place() {
        let place = Place { time_us: 7, item_hash: "h".into() };
        let query = format!("cursor={}", write_cursor(place.clone()));
        assert_eq!(params(&query).paging(&Limits::default()).unwrap().window, Window::After(Some(place)));
    }

    #[test]
    fn histories_are_bounded() {
        assert_eq!(params("").history().unwrap(), 10);
        assert_eq!(params("history=0").history().unwrap(), 0);
        assert_eq!(params("history=5000").history().unwrap(), 200);
    }
}

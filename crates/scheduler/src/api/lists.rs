//! Lists: their query parameters and pages.

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use protocol::api::scheduler::{Page, Pagination};

use super::error::{Answer, ApiError};

/// Items in a page when the client does not say, and at most.
const DEFAULT_PAGE: u64 = 50;
const MAX_PAGE: u64 = 200;

/// The query parameters of a request.
pub(super) struct Params(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Query(pairs) = Query::<Vec<(String, String)>>::from_request_parts(parts, state)
            .await
            .map_err(|e| ApiError::bad_request(e.body_text()))?;
        Ok(Self(pairs))
    }
}

/// Which page is wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    page: u64,
    size: u64,
}

impl Params {
    /// A parameter that is there and not empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        found.filter(|value| !value.is_empty())
    }

    /// The page that is wanted.
    pub(super) fn window(&self) -> Answer<Window> {
        let number =
            |name: &str, default: u64| match self.get(name) {
                None => Ok(default),
                Some(text) => text.parse::<u64>().ok().filter(|number| *number > 0).ok_or_else(|| {
                    ApiError::bad_request(format!("'{name}' is '{text}': expected a whole number from 1"))
                }),
            };
        Ok(Window { page: number("page", 1)?, size: number("page_size", DEFAULT_PAGE)?.min(MAX_PAGE) })
    }
}

impl Window {
    /// Items before the page.
    pub(super) fn offset(self) -> u64 {
        (self.page - 1).saturating_mul(self.size)
    }

    /// Items in the page at most.
    pub(super) fn size(self) -> u64 {
        self.size
    }

    /// The page with these items of `total` in all.
    pub(super) fn page<T>(self, items: Vec<T>, total: u64) -> Page<T> {
        let total_pages = total.div_ceil(self.size).max(1);
        Page {
            items,
            pagination: Pagination { page: self.page, page_size: self.size, total_items: total, total_pages },
        }
    }

    /// The page of a list that is there as a whole.
    pub(super) fn cut<S, T>(self, all: &[S], item: impl Fn(&S) -> T) -> Page<T> {
        let bound = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let items = all.iter().skip(bound(self.offset())).take(bound(self.size)).map(item).collect();
        self.page(items, all.len() as u64)
    }
}

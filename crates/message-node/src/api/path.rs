//! Parameters in paths.

use axum::extract::FromRequestParts;
use axum::extract::rejection::PathRejection;

use super::error::ApiError;

/// [`axum::extract::Path`] that refuses in the words of this API.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(ApiError))]
pub(super) struct Path<T>(pub T);

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> Self {
        Self::bad_request(format!("{}; write it in UTF-8 and percent-encode what is no letter", rejection.body_text()))
    }
}

//! JSON over GET.

use reqwest::{Response, StatusCode};
use serde::de::DeserializeOwned;

use super::ClientError;

/// Reads an answer's JSON.
pub(super) async fn read<T: DeserializeOwned>(response: Response) -> Result<T, ClientError> {
    let url = response.url().to_string();
    let bytes = response.bytes().await.map_err(|e| ClientError::unreachable(&url, &e))?;
    serde_json::from_slice(&bytes).map_err(|e| ClientError::malformed(url, e))
}

/// Asks for a document; `None` when there is none (404).
pub(super) async fn get<T: DeserializeOwned>(
    http: &reqwest::Client,
    url: &str,
    query: &[(&str, String)],
) -> Result<Option<T>, ClientError> {
    let response = http.get(url).query(query).send().await.map_err(|e| ClientError::unreachable(url, &e))?;
    match response.status() {
        StatusCode::NOT_FOUND => Ok(None),
        status if status.is_success() => read(response).await.map(Some),
        _ => Err(ClientError::from_response(response).await),
    }
}

/// Asks for a document that must be there.
pub(super) async fn get_required<T: DeserializeOwned>(
    http: &reqwest::Client,
    url: &str,
    query: &[(&str, String)],
) -> Result<T, ClientError> {
    let response = http.get(url).query(query).send().await.map_err(|e| ClientError::unreachable(url, &e))?;
    if response.status().is_success() { read(response).await } else { Err(ClientError::from_response(response).await) }
}

//! A client of the scheduler's read API.

use super::{ClientError, EventStream, http_client, json, open_events};
use crate::api::scheduler::{Health, NodeRecord, Page, SchedulerEvent, VmRecord};
use crate::{NodeId, ProgramId};

/// A scheduler, by its public API.
#[derive(Debug, Clone)]
pub struct Scheduler {
    base: String,
    http: reqwest::Client,
}

impl Scheduler {
    /// The scheduler at this base URL.
    pub fn new(base: impl Into<String>) -> Self {
        Self { base: base.into().trim_end_matches('/').to_owned(), http: http_client() }
    }

    /// Its base URL, without a slash at the end.
    pub fn url(&self) -> &str {
        &self.base
    }

    /// A persistent program; `None` when the scheduler does not know it.
    ///
    /// # Errors
    /// [`ClientError`] when the scheduler cannot be asked.
    pub async fn vm(&self, program: &ProgramId) -> Result<Option<VmRecord>, ClientError> {
        json::get(&self.http, &format!("{}/api/v1/vms/{program}", self.base), &[]).await
    }

    /// All compute nodes.
    ///
    /// # Errors
    /// [`ClientError`] when the scheduler cannot be asked.
    pub async fn nodes(&self) -> Result<Vec<NodeRecord>, ClientError> {
        let (mut all, mut number) = (Vec::new(), 1);
        loop {
            let query = [("page", number.to_string()), ("page_size", "200".to_owned())];
            let page: Page<NodeRecord> =
                json::get_required(&self.http, &format!("{}/api/v1/nodes", self.base), &query).await?;
            all.extend(page.items);
            if number >= page.pagination.total_pages {
                return Ok(all);
            }
            number += 1;
        }
    }

    /// One compute node; `None` when the scheduler does not know it.
    ///
    /// # Errors
    /// [`ClientError`] when the scheduler cannot be asked.
    pub async fn node(&self, node: &NodeId) -> Result<Option<NodeRecord>, ClientError> {
        json::get(&self.http, &format!("{}/api/v1/nodes/{node}", self.base), &[]).await
    }

    /// Whether it works.
    ///
    /// # Errors
    /// [`ClientError`] when the scheduler cannot be asked.
    pub async fn health(&self) -> Result<Health, ClientError> {
        json::get_required(&self.http, &format!("{}/health", self.base), &[]).await
    }

    /// What happens from now on.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`].
    pub async fn events(&self) -> Result<EventStream<SchedulerEvent>, ClientError> {
        open_events(&format!("{}/api/v1/ws", self.base)).await
    }
}

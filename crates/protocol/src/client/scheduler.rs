//! A client of the scheduler's read API.

use serde::de::DeserializeOwned;

use super::{ClientError, EventStream, http_client, json, open_events};
use crate::api::scheduler::{Health, NodeRecord, Page, SchedulerEvent, VmRecord};
use crate::history::SignedEntry;
use crate::operation::SignedOrder;
use crate::{Address, NodeId, ProgramId};

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

    /// The persistent programs of an owner.
    ///
    /// # Errors
    /// [`ClientError`] when the scheduler cannot be asked; nothing is returned then, so that half a list is never taken for
    /// the whole.
    pub async fn vms(&self, owner: &Address) -> Result<Vec<VmRecord>, ClientError> {
        self.list("vms", &[("owner", owner.to_string())]).await
    }

    /// The persistent programs on a node.
    ///
    /// # Errors
    /// [`ClientError`] when the scheduler cannot be asked.
    pub async fn vms_on(&self, node: &NodeId) -> Result<Vec<VmRecord>, ClientError> {
        self.list("vms", &[("node", node.to_string())]).await
    }

    /// All compute nodes.
    ///
    /// # Errors
    /// [`ClientError`] when the scheduler cannot be asked.
    pub async fn nodes(&self) -> Result<Vec<NodeRecord>, ClientError> {
        self.list("nodes", &[]).await
    }

    /// All pages of a list of the v1 API.
    async fn list<T: DeserializeOwned>(
        &self,
        what: &str,
        filter: &[(&'static str, String)],
    ) -> Result<Vec<T>, ClientError> {
        let (mut all, mut number) = (Vec::new(), 1);
        loop {
            let mut query = filter.to_vec();
            query.extend([("page", number.to_string()), ("page_size", "200".to_owned())]);
            let page: Page<T> = json::get_required(&self.http, &format!("{}/api/v1/{what}", self.base), &query).await?;
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

    /// The signed history of a program, from its first entry on.
    ///
    /// # Errors
    /// [`ClientError`] when the scheduler cannot be asked.
    pub async fn signed_history(&self, program: &ProgramId) -> Result<Vec<SignedEntry>, ClientError> {
        self.list(&format!("vms/{program}/history/signed"), &[]).await
    }

    /// Has an operator's order carried out.
    ///
    /// # Errors
    /// [`ClientError`] when it is refused or nobody can be asked.
    pub async fn order(&self, order: &SignedOrder) -> Result<(), ClientError> {
        let url = format!("{}/api/v1/orders", self.base);
        let response = self.http.post(&url).json(order).send().await.map_err(|e| ClientError::unreachable(&url, &e))?;
        if response.status().is_success() { Ok(()) } else { Err(ClientError::from_response(response).await) }
    }

    /// What happens from now on.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`].
    pub async fn events(&self) -> Result<EventStream<SchedulerEvent>, ClientError> {
        open_events(&format!("{}/api/v1/ws", self.base)).await
    }
}

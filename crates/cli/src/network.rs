//! The network beside its message node: schedulers and the gateway.

use protocol::api::scheduler::{Health, NodeRecord, VmRecord};
use protocol::client::{ClientError, Scheduler};
use protocol::history::SignedEntry;
use protocol::network::program_url;
use protocol::{Address, NodeId, ProgramId};

use crate::failure::{Code, Failure};

/// The scheduler that leads.
#[derive(Debug)]
pub struct Leader {
    /// Where it is asked.
    pub scheduler: Scheduler,
    /// What it says of itself.
    pub health: Health,
}

/// The network's schedulers and gateway.
#[derive(Debug)]
pub struct Network {
    schedulers: Vec<Scheduler>,
    gateway: Option<String>,
    /// The accounts of the schedulers, as far as the network publishes them.
    addresses: Vec<Address>,
}

impl Network {
    /// A network with these base URLs.
    pub fn new(schedulers: Vec<String>, gateway: Option<String>, addresses: Vec<Address>) -> Self {
        let gateway = gateway.map(|url| url.trim_end_matches('/').to_owned());
        Self { schedulers: schedulers.into_iter().map(Scheduler::new).collect(), gateway, addresses }
    }

    /// The accounts of the network's schedulers, which sign histories.
    pub fn scheduler_addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Base URL of the gateway.
    pub fn gateway(&self) -> Option<&str> {
        self.gateway.as_deref()
    }

    /// A program's URL at the gateway.
    pub fn program_url(&self, program: &ProgramId) -> Option<String> {
        self.gateway().map(|gateway| program_url(gateway, program))
    }

    /// Checks that somebody can be asked where programs run, before anything is done that is to be waited for.
    ///
    /// # Errors
    /// [`Failure`] with [`Code::NoScheduler`].
    pub fn require_scheduler_to_wait(&self) -> Result<(), Failure> {
        if !self.schedulers.is_empty() {
            return Ok(());
        }
        let failure = self.no_scheduler();
        let hint = failure.hint.clone().unwrap_or_default();
        Err(failure.hint(format!("{hint}, or pass --no-wait: nobody can be asked whether it runs")))
    }

    /// Whether this is the URL of one of the schedulers.
    pub fn is_scheduler(&self, url: &str) -> bool {
        self.schedulers.iter().any(|scheduler| url.starts_with(scheduler.url()))
    }

    /// What to say when nobody can be asked.
    fn no_scheduler(&self) -> Failure {
        Failure::new(Code::NoScheduler, "this network does not say where its scheduler is")
            .hint("name it with --scheduler-url URL or the variable ALEPH_SCHEDULER_URL")
    }

    /// What the schedulers know of a program; `None` when they do not know it.
    ///
    /// # Errors
    /// [`ClientError`] when none of them can be asked.
    pub async fn vm(&self, program: &ProgramId) -> anyhow::Result<Option<VmRecord>> {
        self.ask(async |scheduler: &Scheduler| scheduler.vm(program).await).await
    }

    /// What the schedulers know of an owner's programs.
    ///
    /// # Errors
    /// [`ClientError`] when none of them can be asked.
    pub async fn vms(&self, owner: &Address) -> anyhow::Result<Vec<VmRecord>> {
        self.ask(async |scheduler: &Scheduler| scheduler.vms(owner).await).await
    }

    /// All compute nodes.
    ///
    /// # Errors
    /// [`ClientError`] when no scheduler can be asked.
    pub async fn nodes(&self) -> anyhow::Result<Vec<NodeRecord>> {
        self.ask(async |scheduler: &Scheduler| scheduler.nodes().await).await
    }

    /// A compute node; `None` when the schedulers do not know it.
    ///
    /// # Errors
    /// [`ClientError`] when no scheduler can be asked.
    pub async fn node(&self, node: &NodeId) -> anyhow::Result<Option<NodeRecord>> {
        self.ask(async |scheduler: &Scheduler| scheduler.node(node).await).await
    }

    /// The signed history of a program.
    ///
    /// # Errors
    /// [`ClientError`] when no scheduler can be asked.
    pub async fn signed_history(&self, program: &ProgramId) -> anyhow::Result<Vec<SignedEntry>> {
        self.ask(async |scheduler: &Scheduler| scheduler.signed_history(program).await).await
    }

    /// The programs on a node.
    ///
    /// # Errors
    /// [`ClientError`] when no scheduler can be asked.
    pub async fn programs_on(&self, node: &NodeId) -> anyhow::Result<Vec<VmRecord>> {
        self.ask(async |scheduler: &Scheduler| scheduler.vms_on(node).await).await
    }

    /// The scheduler that leads: orders are for it alone.
    ///
    /// # Errors
    /// [`ClientError`] when no scheduler can be asked.
    pub async fn leader(&self) -> anyhow::Result<Leader> {
        self.ask(async |scheduler: &Scheduler| {
            let health = scheduler.health().await?;
            let Some(leader) = &health.leader else { return Ok(Leader { scheduler: scheduler.clone(), health }) };
            let scheduler = Scheduler::new(leader.as_str());
            Ok(Leader { health: scheduler.health().await?, scheduler })
        })
        .await
    }

    /// Asks the schedulers one after the other until one answers. Followers answer reads as the leader does.
    async fn ask<T>(&self, question: impl AsyncFn(&Scheduler) -> Result<T, ClientError>) -> anyhow::Result<T> {
        let mut last = None;
        for scheduler in &self.schedulers {
            match question(scheduler).await {
                Err(error) if error.is_transient() => last = Some(error),
                answer => return Ok(answer?),
            }
        }
        Err(last.map_or_else(|| self.no_scheduler().into(), anyhow::Error::from))
    }
}

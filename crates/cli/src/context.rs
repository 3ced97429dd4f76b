//! What every command works with: settings, the account, the servers, and where to talk to.

use std::sync::{Arc, Mutex};

use anyhow::Result;
use protocol::Account;
use protocol::client::{ClientError, MessageNode};
use protocol::network::{self, NetworkSettings};
use tokio::sync::OnceCell;

use crate::failure::{Code, Failure};
use crate::keys;
use crate::network::Network;
use crate::output::Output;
use crate::settings::{Origin, Settings};

/// What Ctrl-C means right now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Meaning {
    /// Nothing was done.
    #[default]
    Nothing,
    /// Something goes on without us, as this says.
    Leaves(String),
    /// It is the way to end the command.
    End,
}

/// What Ctrl-C means as the command goes on.
#[derive(Debug, Clone, Default)]
pub struct Interruption(Arc<Mutex<Meaning>>);

impl Interruption {
    /// From now on, Ctrl-C leaves this behind.
    pub fn leaves(&self, text: impl Into<String>) {
        self.set(Meaning::Leaves(text.into()));
    }

    /// From now on, Ctrl-C is the way to end the command.
    pub fn ends(&self) {
        self.set(Meaning::End);
    }

    /// What Ctrl-C means now.
    pub fn meaning(&self) -> Meaning {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    fn set(&self, meaning: Meaning) {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = meaning;
    }
}

/// What every command works with.
pub struct Context {
    /// All settings.
    pub settings: Settings,
    /// Where to talk to.
    pub out: Output,
    /// The message node.
    pub node: MessageNode,
    /// What Ctrl-C means.
    pub interruption: Interruption,
    network: OnceCell<Network>,
}

impl Context {
    /// A context with these settings.
    pub fn new(settings: Settings, out: Output) -> Self {
        let node = MessageNode::new(settings.api_host.as_str());
        Self { settings, out, node, interruption: Interruption::default(), network: OnceCell::new() }
    }

    /// The account that signs. At a terminal, offers to make a key when there is none.
    ///
    /// # Errors
    /// [`Failure`] when there is no key, or it cannot be used.
    pub fn account(&self) -> Result<Account> {
        if let Some(account) = keys::load(&self.settings)? {
            return Ok(account);
        }
        let missing = keys::no_key(&self.settings);
        // A key that somebody named is missing by mistake: another one would be another account.
        if !self.out.can_ask() || self.settings.key.origin() != Origin::Default {
            return Err(missing.into());
        }
        self.out.note(&missing);
        if !ask("Create a new key now?", false)? {
            return Err(missing.into());
        }
        let (account, path) = crate::commands::account::create_default(&self.settings)?;
        self.out.note(format!("Created {} in {}", account.address(), path.display()));
        Ok(account)
    }

    /// The network's schedulers and gateway, asked once from the message node where they are not set.
    ///
    /// # Errors
    /// [`ClientError`] when the message node cannot be asked.
    pub async fn network(&self) -> Result<&Network, ClientError> {
        self.network
            .get_or_try_init(|| async {
                let (scheduler, gateway) = (&self.settings.scheduler_url, &self.settings.gateway_url);
                let published: Option<NetworkSettings> = match (scheduler, gateway) {
                    (Some(_), Some(_)) => None,
                    _ => self.node.aggregate(network::SETTINGS_ADDRESS, network::SETTINGS_KEY).await?,
                };
                let published = published.unwrap_or_default();
                let schedulers = scheduler.clone().map_or(published.scheduler_urls, |url| vec![url]);
                let gateway = gateway.clone().or(published.gateway_url);
                Ok(Network::new(schedulers, gateway, published.scheduler_addresses))
            })
            .await
    }

    /// What to do when this answer came from one of our servers.
    pub fn hint_for(&self, error: &ClientError) -> Option<String> {
        let url = match error {
            ClientError::Unreachable { url, .. }
            | ClientError::Malformed { url, .. }
            | ClientError::Status { url, .. } => url,
        };
        let host = &self.settings.api_host;
        match error {
            ClientError::Unreachable { .. } if url.starts_with(host) => Some(format!(
                "{host} is the message node ({}). Is it running? `aleph-node up` starts a network on this machine. \
                 Name another message node with {}",
                self.settings.api_host_origin,
                self.settings.how_to_name_a_node()
            )),
            ClientError::Malformed { .. } if url.starts_with(host) => Some(format!(
                "{host} does not look like an Aleph message node. Name another with {}",
                self.settings.how_to_name_a_node()
            )),
            ClientError::Unreachable { .. } if self.network.get().is_some_and(|network| network.is_scheduler(url)) => {
                Some("that is the scheduler: is it running? Name another with --scheduler-url URL".to_owned())
            }
            ClientError::Unreachable { .. } => Some("that server may be down; try again in a moment".to_owned()),
            ClientError::Status { status, .. } if *status >= 500 || *status == 429 => {
                Some("this is the server's fault; try again in a moment".to_owned())
            }
            _ => None,
        }
    }
}

/// Asks a yes-or-no question at the terminal.
///
/// # Errors
/// [`Failure`] with [`Code::Interrupted`] when the question is not answered.
pub fn ask(question: &str, default: bool) -> Result<bool> {
    inquire::Confirm::new(question).with_default(default).prompt().map_err(|e| match e {
        inquire::InquireError::OperationCanceled | inquire::InquireError::OperationInterrupted => {
            Failure::new(Code::Interrupted, "nothing was done").into()
        }
        e => anyhow::Error::from(e),
    })
}

//! A token on a chain, read over JSON-RPC: does the I/O of [`crate::core::chain`].

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rust_decimal::Decimal;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::TokenConfig;
use crate::core::balances::ByAccount;
use crate::core::chain::{
    self, Account, Chain, Health, Holding, Interest, MAX_ANSWER_BYTES, Reply, Request, Token, Trouble,
};

/// The balances of a token.
#[derive(Debug)]
pub(crate) struct TokenBalances {
    config: TokenConfig,
    token: Token,
    state: Mutex<State>,
    /// Somebody asked for a balance that is not known.
    wanted: Notify,
    /// Counts rounds: those who wait for a balance look again.
    rounds: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    chain: Chain,
    /// Accounts whose balance changed and that nobody was told of.
    changed: BTreeSet<Account>,
    answered: Option<Instant>,
}

impl TokenBalances {
    /// Nothing is known.
    pub(crate) fn new(config: TokenConfig) -> Self {
        let token = Token { contract: config.contract.0, decimals: config.decimals };
        let chain = Chain::new(config.confirmations, config.passing_accounts);
        let state = Mutex::new(State { chain, changed: BTreeSet::new(), answered: None });
        Self { config, token, state, wanted: Notify::new(), rounds: watch::Sender::new(0) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an account holds, as far as is known. Accounts of other kinds of chains hold nothing of this token.
    pub(super) fn holding(&self, account: &str, interest: Interest) -> Holding {
        let Some(account) = chain::account(account) else { return Holding::Tokens(Decimal::ZERO) };
        let holding = self.state().chain.holding(account, interest);
        if holding == Holding::Unknown {
            self.wanted.notify_one();
        }
        holding
    }

    pub(super) fn release(&self, account: &str) {
        if let Some(account) = chain::account(account) {
            self.state().chain.release(&account);
        }
    }

    pub(super) fn changes(&self) -> Vec<String> {
        std::mem::take(&mut self.state().changed).iter().map(address).collect()
    }

    pub(super) fn known(&self) -> ByAccount {
        self.state().chain.known().map(|(account, balance)| (address(account), balance)).collect()
    }

    pub(super) fn health(&self) -> Health {
        self.state().chain.health()
    }

    /// How long ago the RPC node answered everything; `None` before the first time.
    pub(super) fn silence(&self) -> Option<Duration> {
        self.state().answered.map(|at| at.elapsed())
    }

    /// What an account, canonical, holds; waits a while for it to be read.
    pub(crate) async fn read(&self, account: &str, patience: Duration) -> Holding {
        let mut rounds = self.rounds.subscribe();
        let deadline = Instant::now() + patience;
        loop {
            let holding = self.holding(account, Interest::Passing);
            if holding != Holding::Unknown {
                return holding;
            }
            match tokio::time::timeout_at(deadline, rounds.changed()).await {
                Ok(Ok(())) => {}
                _ => return Holding::Unknown,
            }
        }
    }

    /// Reads until `stop`: now and then, and when an unknown balance is wanted. `changed` is called when balances came to be
    /// known or changed.
    pub(crate) async fn run(&self, changed: impl Fn() + Send, stop: CancellationToken) {
        let http = protocol::client::http_client_builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(self.config.timeout)
            .build()
            .expect("the TLS library starts");
        let mut was_well = true;
        loop {
            if stop.run_until_cancelled(self.round(&http, &changed)).await.is_none() {
                return;
            }
            let trouble = self.tell(&mut was_well);
            let pause = async {
                let sleep = tokio::time::sleep(self.config.interval);
                // Who does not answer is not asked more often because somebody wants to know something.
                if trouble {
                    return sleep.await;
                }
                tokio::select! {
                    () = sleep => {}
                    () = self.wanted.notified() => {}
                }
            };
            if stop.run_until_cancelled(pause).await.is_none() {
                return;
            }
        }
    }

    /// Says once that something is wrong, or well again. Gives whether something is wrong.
    fn tell(&self, was_well: &mut bool) -> bool {
        let health = self.health();
        match (&health.trouble, *was_well) {
            (Some(trouble), true) => {
                tracing::warn!(%trouble, "balances cannot be read from the chain; the last known ones stay in force");
            }
            (None, false) => tracing::info!("balances are read from the chain again"),
            _ => {}
        }
        *was_well = health.trouble.is_none();
        !*was_well
    }

    async fn round(&self, http: &reqwest::Client, changed: &(impl Fn() + Send)) {
        self.state().chain.begin();
        loop {
            let Some(request) = self.state().chain.request() else { break };
            let answer = self.ask(http, &request).await;
            let mut state = self.state();
            let accounts = state.chain.take(answer);
            let news = !accounts.is_empty();
            state.changed.extend(accounts);
            drop(state);
            if news {
                self.rounds.send_modify(|rounds| *rounds += 1);
                changed();
            }
        }
        let mut state = self.state();
        if state.chain.health().trouble.is_none() {
            state.answered = Some(Instant::now());
        }
    }

    async fn ask(&self, http: &reqwest::Client, request: &Request) -> Result<Reply, Trouble> {
        let question = self.token.question(request);
        // The URL may hold a key of the operator's, and is not shown.
        let failed = |error: reqwest::Error| {
            let what = if error.is_timeout() { "does not answer in time" } else { "cannot be reached" };
            Trouble::Failed(format!("the RPC node {what}"))
        };
        let mut response = http.post(self.config.rpc.clone()).json(&question).send().await.map_err(failed)?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(Trouble::Refused(format!("an answer has more than {MAX_ANSWER_BYTES} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        match self.token.answer(request, &body) {
            // Many say what is wrong in the body of an error.
            Err(Trouble::Failed(_)) if !status.is_success() => {
                Err(Trouble::Failed(format!("the RPC node answers with HTTP status {}", status.as_u16())))
            }
            answer => answer,
        }
    }
}

/// An account as canonical address.
fn address(account: &Account) -> String {
    format!("0x{}", hex::encode(account))
}

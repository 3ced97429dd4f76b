//! Options of a token that balances are read of.

use std::ffi::OsString;
use std::time::Duration;

use clap::Args;
use message_node::{TokenAddress, TokenConfig};
use url::Url;

use super::{in_millis, interval};

/// The environment variable of the URL, which may hold a key: what is an argument is seen by everybody on the machine.
const RPC_VARIABLE: &str = "ALEPH_NODE_TOKEN_RPC";

/// A token on a chain, instead of a ledger.
#[derive(Debug, Clone, Args)]
pub(crate) struct TokenOptions {
    /// URL of an Ethereum JSON-RPC node: balances are those of a token. It may hold a key, and is not shown
    #[arg(long, requires = "token_contract", env = RPC_VARIABLE, hide_env_values = true)]
    pub(crate) token_rpc: Option<Url>,

    /// The address of the token's contract (ERC-20)
    #[arg(long, requires = "token_rpc", env = "ALEPH_NODE_TOKEN_CONTRACT")]
    pub(crate) token_contract: Option<TokenAddress>,

    /// How many digits the token has after the decimal point
    #[arg(long, default_value_t = 18, value_parser = clap::value_parser!(u8).range(0..=77), env = "ALEPH_NODE_TOKEN_DECIMALS")]
    pub(crate) token_decimals: u8,

    /// How many blocks have to be on top of a block before what happens in it counts
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u64).range(..=10_000), env = "ALEPH_NODE_TOKEN_CONFIRMATIONS")]
    pub(crate) token_confirmations: u64,

    /// How often the chain is looked at
    #[arg(long, default_value = "10s", value_parser = interval, env = "ALEPH_NODE_TOKEN_INTERVAL")]
    pub(crate) token_interval: Duration,
}

impl TokenOptions {
    /// The token, if one is named.
    pub(crate) fn config(self) -> Option<TokenConfig> {
        let (rpc, contract) = self.token_rpc.zip(self.token_contract)?;
        Some(TokenConfig {
            decimals: self.token_decimals,
            confirmations: self.token_confirmations,
            interval: self.token_interval,
            ..TokenConfig::new(rpc, contract)
        })
    }

    /// Whether one is named.
    pub(crate) fn is_named(&self) -> bool {
        self.token_rpc.is_some()
    }

    /// The same for another process, if one is named: its arguments, and a variable of its environment.
    pub(crate) fn pass_on(&self) -> Option<(Vec<OsString>, (&'static str, OsString))> {
        let (rpc, contract) = self.token_rpc.as_ref().zip(self.token_contract)?;
        let arguments = vec![
            "--token-contract".into(),
            contract.to_string().into(),
            "--token-decimals".into(),
            self.token_decimals.to_string().into(),
            "--token-confirmations".into(),
            self.token_confirmations.to_string().into(),
            "--token-interval".into(),
            in_millis(self.token_interval),
        ];
        Some((arguments, (RPC_VARIABLE, rpc.as_str().into())))
    }
}

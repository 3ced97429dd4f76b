//! Options of a token that balances are read of.

use std::time::Duration;

use clap::Args;
use message_node::{TokenAddress, TokenConfig};
use url::Url;

use super::interval;

/// A token on a chain, instead of a ledger.
#[derive(Debug, Args)]
pub(crate) struct TokenOptions {
    /// URL of an Ethereum JSON-RPC node: balances are those of a token. It may hold a key, and is not shown
    #[arg(
        long,
        requires = "token_contract",
        conflicts_with = "ledger",
        env = "ALEPH_NODE_TOKEN_RPC",
        hide_env_values = true
    )]
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
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::options::Options;

    #[test]
    fn balances_have_one_source_that_is_whole() {
        let parse = |arguments: &[&str]| Options::try_parse_from([&["aleph-node", "message-node"], arguments].concat());
        let contract = format!("0x{}", "c0".repeat(20));
        let (rpc, contract) = (["--token-rpc", "http://127.0.0.1:8545"], ["--token-contract", contract.as_str()]);
        assert!(parse(&[rpc, contract].concat()).is_ok());
        for wrong in [&rpc[..], &contract[..], &[&rpc[..], &contract, &["--ledger", "ledger.json"]].concat()] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
        let error = parse(&[&rpc[..], &["--token-contract", "0x12"]].concat()).unwrap_err().to_string();
        assert!(error.contains("40 hexadecimal digits"), "{error}");
    }
}

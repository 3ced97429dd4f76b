//! Options of who may send messages to a message node, how many, and how large.

use std::time::Duration;

use clap::Args;
use message_node::{Config, Limits, Rate, SenderRates, SenderRules};
use protocol::Address;

const MIB: u64 = 1024 * 1024;

/// Limits of a message node.
#[derive(Debug, Args)]
pub(crate) struct SenderOptions {
    /// Take messages and files of these accounts only, the operators and the authority; compute nodes have accounts, too
    #[arg(long = "allow-sender", value_delimiter = ',', env = "ALEPH_NODE_ALLOW_SENDERS")]
    allow_senders: Vec<Address>,

    /// Accounts that may send whatever they like
    #[arg(long = "operator", value_delimiter = ',', env = "ALEPH_NODE_OPERATORS")]
    operators: Vec<Address>,

    /// How many messages each account may send in a minute; no limit if not given
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..), env = "ALEPH_NODE_MESSAGES_PER_MINUTE")]
    messages_per_minute: Option<u64>,

    /// How many MiB of messages and files each account may send in an hour; no limit if not given
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1 << 30), env = "ALEPH_NODE_MIB_PER_HOUR")]
    mib_per_hour: Option<u64>,

    /// MiB of a file at most
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=1 << 20), env = "ALEPH_NODE_MAX_FILE_MIB")]
    max_file_mib: u64,

    /// MiB of a file at most that comes without a message
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u64).range(0..=1 << 20), env = "ALEPH_NODE_MAX_ANONYMOUS_FILE_MIB")]
    max_anonymous_file_mib: u64,
}

impl SenderOptions {
    /// These settings with those of senders.
    pub(crate) fn set(self, config: Config) -> Config {
        let rate = |most, per| Rate { most, per };
        let file = self.max_file_mib * MIB;
        Config {
            senders: SenderRules {
                allowed: self.allow_senders,
                operators: self.operators,
                rates: SenderRates {
                    messages: self.messages_per_minute.map(|most| rate(most, Duration::from_secs(60))),
                    bytes: self.mib_per_hour.map(|most| rate(most * MIB, Duration::from_secs(3600))),
                },
            },
            limits: Limits {
                upload_bytes: file,
                ipfs_upload_bytes: file,
                // The tree of a file adds less than a thousandth.
                car_upload_bytes: file + file / 64,
                anonymous_upload_bytes: (self.max_anonymous_file_mib * MIB).min(file),
                ..config.limits
            },
            ..config
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::options::{Options, Role};

    fn parse(arguments: &[&str]) -> Config {
        let options = Options::try_parse_from([&["aleph-node", "message-node"], arguments].concat()).unwrap();
        let Role::MessageNode(options) = options.role else { panic!("another role") };
        options.senders.set(Config::new(options.listen, options.data_dir))
    }

    #[test]
    fn nobody_is_limited_unless_it_is_said() {
        let config = parse(&[]);
        assert!(config.senders.allowed.is_empty() && config.senders.rates == SenderRates::default());
        let (set, default) = (config.limits, Limits::default());
        assert_eq!((set.upload_bytes, set.car_upload_bytes), (default.upload_bytes, default.car_upload_bytes));
        assert_eq!(set.anonymous_upload_bytes, default.anonymous_upload_bytes);
    }

    #[test]
    fn limits_are_in_the_units_of_their_names() {
        let config = parse(&["--messages-per-minute", "30", "--mib-per-hour", "2", "--max-file-mib", "10"]);
        let SenderRates { messages, bytes } = config.senders.rates;
        assert_eq!(messages, Some(Rate { most: 30, per: Duration::from_secs(60) }));
        assert_eq!(bytes, Some(Rate { most: 2 * MIB, per: Duration::from_secs(3600) }));
        assert_eq!((config.limits.upload_bytes, config.limits.anonymous_upload_bytes), (10 * MIB, 10 * MIB));
    }
}

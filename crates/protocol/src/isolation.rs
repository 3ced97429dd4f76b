//! What stands between a program and the machine that it runs on.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What stands between a program and the machine that it runs on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// Namespaces, control groups and a list of system calls: the program talks to the machine's own kernel.
    #[default]
    Container,
    /// gVisor: it talks to a kernel in user space, which talks to the machine's for it.
    Gvisor,
}

impl Isolation {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Container, Self::Gvisor];

    /// The key in the metadata of a program's message that asks for one.
    pub const METADATA_KEY: &str = "isolation";

    /// Its name in messages, options and reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Gvisor => "gvisor",
        }
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write \"container\" or \"gvisor\"")]
pub struct UnknownIsolation;

impl FromStr for Isolation {
    type Err = UnknownIsolation;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|isolation| isolation.as_str() == name).ok_or(UnknownIsolation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_json() {
        for isolation in Isolation::ALL {
            assert_eq!(isolation.to_string().parse(), Ok(isolation));
            assert_eq!(serde_json::to_value(isolation).unwrap(), isolation.as_str());
        }
        assert_eq!("Gvisor".parse::<Isolation>(), Err(UnknownIsolation));
    }
}

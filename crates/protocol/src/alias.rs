//! Other names of files: a network of one's own cannot have the messages of the public one, whose hashes clients have built in.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::FileHash;

/// The runtime that the Python client names when its user names none: the public network's "Official aleph.im runtime".
/// Source: `DEFAULT_RUNTIME_ID` of aleph-sdk-python 2.3.4.
pub const PUBLIC_RUNTIME: &str = "63f07193e6ee9d207b7d1fcf8286f9aee34e6f12f101d2ec77c1229f92964696";

/// One other name: programs that refer to `name` get what the STORE message `of` stores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alias {
    /// The hash that programs name.
    pub name: String,
    /// The hash of the STORE message that is meant.
    pub of: String,
}

/// A text that is no [`Alias`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no other name of a file: expected the hashes of two different messages, NAME=OF")]
pub struct NotAnAlias(pub String);

impl FromStr for Alias {
    type Err = NotAnAlias;

    fn from_str(text: &str) -> Result<Self, NotAnAlias> {
        let is_hash = |hash: &str| hash.parse::<FileHash>().is_ok();
        text.split_once('=')
            .filter(|(name, of)| is_hash(name) && is_hash(of) && name != of)
            .map(|(name, of)| Self { name: name.to_owned(), of: of.to_owned() })
            .ok_or_else(|| NotAnAlias(text.to_owned()))
    }
}

/// As it is parsed, NAME=OF.
impl fmt::Display for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.of)
    }
}

/// What an operator has other names for. They are not followed further: a name of a name is a name that nobody knows.
#[derive(Debug, Clone, Default)]
pub struct Aliases(BTreeMap<String, String>);

impl Aliases {
    /// The hash of the message that is meant.
    pub fn resolve<'a>(&'a self, reference: &'a str) -> &'a str {
        self.0.get(reference).map_or(reference, String::as_str)
    }
}

impl FromIterator<Alias> for Aliases {
    fn from_iter<I: IntoIterator<Item = Alias>>(all: I) -> Self {
        Self(all.into_iter().map(|Alias { name, of }| (name, of)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_another_name_is_found_by_both() {
        let of = "2dd8461befef716345cfd1423a43cf655a237a68c46c6edf85b49126563221f7";
        let aliases: Aliases = [format!("{PUBLIC_RUNTIME}={of}").parse().unwrap()].into_iter().collect();
        assert_eq!((aliases.resolve(PUBLIC_RUNTIME), aliases.resolve(of)), (of, of));
        assert_eq!(Aliases::default().resolve(PUBLIC_RUNTIME), PUBLIC_RUNTIME);
    }

    #[test]
    fn an_alias_is_written_as_it_is_read() {
        let text = format!("{PUBLIC_RUNTIME}=2dd8461befef716345cfd1423a43cf655a237a68c46c6edf85b49126563221f7");
        assert_eq!(text.parse::<Alias>().unwrap().to_string(), text);
    }

    #[test]
    fn what_is_no_alias_says_what_is_expected() {
        let same = format!("{PUBLIC_RUNTIME}={PUBLIC_RUNTIME}");
        for wrong in ["", "=", "python3", PUBLIC_RUNTIME, &format!("{PUBLIC_RUNTIME}=python3"), &same] {
            let error = wrong.parse::<Alias>().unwrap_err().to_string();
            assert!(error.contains("NAME=OF"), "{error}");
        }
    }
}

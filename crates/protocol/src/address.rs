//! Blockchain addresses.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An account's address on its chain. Addresses that start with `0x` compare without regard to case, as EIP-55 writes the
/// same account in mixed case and many clients in lower case; all others compare exactly.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Address(String);

/// Why a text is not an Ethereum address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an Ethereum address: expected 0x and 40 hexadecimal digits")]
pub struct AddressError(String);

impl Address {
    /// An address of any chain, taken as it is.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The form that equal addresses share, for use as a key in databases.
    pub fn canonical(&self) -> String {
        if self.is_hexadecimal() { self.0.to_ascii_lowercase() } else { self.0.clone() }
    }

    fn is_hexadecimal(&self) -> bool {
        self.0.starts_with("0x") || self.0.starts_with("0X")
    }
}

impl PartialEq for Address {
    fn eq(&self, other: &Self) -> bool {
        if self.is_hexadecimal() { self.0.eq_ignore_ascii_case(&other.0) } else { self.0 == other.0 }
    }
}

impl Eq for Address {}

impl Hash for Address {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.canonical().hash(state);
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Address {
    type Err = AddressError;

    /// Reads an Ethereum address.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let digits = text.strip_prefix("0x").unwrap_or_default();
        if digits.len() == 40 && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(AddressError(text.to_owned()))
        }
    }
}

impl From<&Address> for aleph_types::chain::Address {
    fn from(address: &Address) -> Self {
        address.0.clone().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_matters_only_outside_ethereum() {
        assert_eq!(Address::new("0xABcd"), Address::new("0xabCD"));
        assert_ne!(Address::new("So1"), Address::new("so1"));
        assert_eq!(Address::new("0xABcd").canonical(), "0xabcd");
    }

    #[test]
    fn text_that_is_no_ethereum_address_is_refused() {
        for text in ["", "0x12", "12".repeat(20).as_str(), "0xzz00000000000000000000000000000000000000"] {
            assert_eq!(text.parse::<Address>(), Err(AddressError(text.to_owned())));
        }
    }
}

//! Accounts: a private key that signs, and the recovery of the signer's address from a signature (EIP-191).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aleph_types::account::{Account as _, EvmAccount};
use aleph_types::chain::Chain;
use k256::ecdsa::{RecoveryId, Signature, SigningKey, VerifyingKey};
use sha3::{Digest, Keccak256};
use zeroize::Zeroizing;

use crate::Address;

/// Why a key could not be used.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// The key file could not be read or written.
    #[error("cannot use the key file {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The bytes are no secp256k1 private key.
    #[error("not a private key: expected 32 bytes or 64 hexadecimal digits ({0})")]
    NotAKey(String),
}

/// Why a signature was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Not 65 bytes of hexadecimal with a recovery byte of 0, 1, 27 or 28, or no point of the curve.
    #[error("malformed signature: {0}")]
    Malformed(String),
    /// Signed, but by somebody else.
    #[error("signed by {signer}, expected {expected}")]
    WrongSigner {
        /// The address that the signature gives.
        signer: Address,
        /// The address that should have signed.
        expected: Address,
    },
}

/// An Ethereum (or other EVM chain) account that can sign.
pub struct Account {
    inner: EvmAccount,
    address: Address,
}

impl Account {
    /// The account of this 32-byte private key on Ethereum.
    ///
    /// # Errors
    /// [`AccountError::NotAKey`] when the bytes are no key of the curve.
    pub fn from_bytes(key: &[u8]) -> Result<Self, AccountError> {
        Self::on_chain(Chain::Ethereum, key)
    }

    /// The account of this private key on an EVM chain.
    ///
    /// # Errors
    /// [`AccountError::NotAKey`] when the bytes are no key of the curve or the chain is no EVM chain.
    pub fn on_chain(chain: Chain, key: &[u8]) -> Result<Self, AccountError> {
        let inner = EvmAccount::new(chain, key).map_err(|e| AccountError::NotAKey(e.to_string()))?;
        let address = Address::new(inner.address().as_str());
        Ok(Self { inner, address })
    }

    /// The account of a key in hexadecimal, with or without `0x`.
    ///
    /// # Errors
    /// [`AccountError::NotAKey`] when it is no key.
    pub fn from_hex(text: &str) -> Result<Self, AccountError> {
        let digits = text.trim().trim_start_matches("0x");
        let key = Zeroizing::new(hex::decode(digits).map_err(|e| AccountError::NotAKey(e.to_string()))?);
        Self::from_bytes(&key)
    }

    /// A new account from the operating system's randomness.
    pub fn generate() -> Self {
        let key = Zeroizing::new(SigningKey::random(&mut rand_core::OsRng).to_bytes());
        Self::from_bytes(&key).expect("a fresh key is a key of the curve")
    }

    /// Reads a key file as the Python client writes it: 32 raw bytes. Hexadecimal text is accepted too.
    ///
    /// # Errors
    /// [`AccountError`] when the file cannot be read or holds no key.
    pub fn from_file(path: &Path) -> Result<Self, AccountError> {
        let bytes = fs::read(path).map_err(|source| AccountError::File { path: path.into(), source })?;
        let bytes = Zeroizing::new(bytes);
        match std::str::from_utf8(&bytes) {
            Ok(text) if bytes.len() != 32 => Self::from_hex(text),
            _ => Self::from_bytes(&bytes),
        }
    }

    /// Reads the key file, or writes a new key to it when there is none.
    ///
    /// # Errors
    /// [`AccountError`] when the file cannot be read or written, or holds no key.
    pub fn from_file_or_generate(path: &Path) -> Result<Self, AccountError> {
        if path.exists() {
            return Self::from_file(path);
        }
        let account = Self::generate();
        account.write_file(path)?;
        Ok(account)
    }

    /// Writes the 32 raw bytes of the key to a new file that only its owner can read, durably.
    ///
    /// # Errors
    /// [`AccountError::File`] when it exists already or cannot be written.
    pub fn write_file(&self, path: &Path) -> Result<(), AccountError> {
        let write = || -> io::Result<()> {
            let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            fs::create_dir_all(folder)?;
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            file.write_all(&self.secret()[..])?;
            file.sync_all()?;
            File::open(folder)?.sync_all()
        };
        write().map_err(|source| AccountError::File { path: path.into(), source })
    }

    /// The 32 bytes of the private key.
    pub fn secret(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.inner.signing_key().to_bytes().into())
    }

    /// The account's address in mixed case (EIP-55).
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The account's chain.
    pub fn chain(&self) -> Chain {
        self.inner.chain()
    }

    /// Signs bytes as a personal message (EIP-191): `0x` and 65 bytes in hexadecimal, recovery byte 27 or 28.
    pub fn sign(&self, payload: &[u8]) -> String {
        let signature = self.inner.sign_raw(payload).expect("signing a 32-byte digest with a valid key cannot fail");
        signature.as_str().to_owned()
    }
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Account").field("address", &self.address).finish_non_exhaustive()
    }
}

/// The address whose key made this EIP-191 signature over these bytes. `0x` is optional, the recovery byte may be 0, 1, 27
/// or 28 (what wallets produce).
///
/// # Errors
/// [`SignatureError::Malformed`] when it is no signature.
pub fn recover(payload: &[u8], signature: &str) -> Result<Address, SignatureError> {
    let malformed = |why: &dyn std::fmt::Display| SignatureError::Malformed(why.to_string());
    let bytes = hex::decode(signature.trim_start_matches("0x")).map_err(|e| malformed(&e))?;
    let [r_s @ .., v] = &bytes[..] else { return Err(malformed(&"it is empty")) };
    if r_s.len() != 64 {
        return Err(malformed(&format_args!("it has {} bytes, expected 65", bytes.len())));
    }
    let id = v.checked_sub(27).unwrap_or(*v);
    let id = RecoveryId::from_byte(id).ok_or_else(|| malformed(&format_args!("unknown recovery byte {v}")))?;
    let signature = Signature::from_slice(r_s).map_err(|e| malformed(&e))?;
    let digest = Keccak256::new()
        .chain_update(format!("\x19Ethereum Signed Message:\n{}", payload.len()))
        .chain_update(payload)
        .finalize();
    let key = VerifyingKey::recover_from_prehash(&digest, &signature, id).map_err(|e| malformed(&e))?;
    let point = key.to_encoded_point(false);
    let hash = Keccak256::digest(&point.as_bytes()[1..]);
    Ok(Address::new(format!("0x{}", hex::encode(&hash[12..]))))
}

/// Checks that `expected` made this EIP-191 signature over these bytes.
///
/// # Errors
/// [`SignatureError`] when it did not.
pub fn verify(payload: &[u8], signature: &str, expected: &Address) -> Result<(), SignatureError> {
    let signer = recover(payload, signature)?;
    if signer == *expected { Ok(()) } else { Err(SignatureError::WrongSigner { signer, expected: expected.clone() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first account of every Ethereum development chain.
    const KEY: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";

    #[test]
    fn signs_and_recovers() {
        let account = Account::from_hex(KEY).unwrap();
        assert_eq!(account.address().as_str(), "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266");
        let signature = account.sign(b"hello");
        assert_eq!(verify(b"hello", &signature, account.address()), Ok(()));
        assert!(matches!(
            verify(b"hullo", &signature, account.address()),
            Err(SignatureError::WrongSigner { .. } | SignatureError::Malformed(_))
        ));
    }

    #[test]
    fn wallets_may_count_the_recovery_byte_from_zero() {
        let account = Account::from_hex(KEY).unwrap();
        let signature = account.sign(b"hello");
        let mut bytes = hex::decode(&signature[2..]).unwrap();
        bytes[64] -= 27;
        assert_eq!(recover(b"hello", &hex::encode(bytes)).unwrap(), *account.address());
    }

    #[test]
    fn malformed_signatures_are_refused() {
        for text in ["", "0x", "0x00", "zz", &"00".repeat(65), &format!("{}1f", "01".repeat(64))] {
            assert!(matches!(recover(b"x", text), Err(SignatureError::Malformed(_))), "{text}");
        }
    }

    #[test]
    fn key_files_hold_32_raw_bytes_and_are_private() {
        use std::os::unix::fs::PermissionsExt;
        let folder = std::env::temp_dir().join(format!("aleph-account-{}", std::process::id()));
        let path = folder.join("keys/new.key");
        let account = Account::from_file_or_generate(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 32);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Account::from_file(&path).unwrap().address(), account.address());
        assert!(matches!(account.write_file(&path), Err(AccountError::File { .. })), "never overwrites a key");
        fs::write(&path, format!("0x{KEY}\n")).unwrap();
        assert_eq!(Account::from_file(&path).unwrap().address().as_str(), "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266");
        fs::write(&path, "no key").unwrap();
        assert!(matches!(Account::from_file(&path), Err(AccountError::NotAKey(_))));
        fs::remove_dir_all(folder).unwrap();
    }
}

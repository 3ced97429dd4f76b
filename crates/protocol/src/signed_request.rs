//! Requests that an owner signs for a compute node, as the Aleph clients do: a short-lived P-256 key that the account's
//! key vouches for (`X-SignedPubKey`) signs each request (`X-SignedOperation`).
//!
//! Facts from aleph-vm, `doc/operator_auth.md` and `views/authentication.py`. Beyond it, the delegation's `domain` must
//! match too, so that a key given to one node is of no use at another.

use chrono::{DateTime, Duration, SecondsFormat, Utc};
use p256::ecdsa::signature::{Signer, Verifier};
use p256::ecdsa::{Signature, SigningKey, VerifyingKey};
use p256::elliptic_curve::JwkEcKey;
use serde::{Deserialize, Serialize};

use crate::account::{self, Account};
use crate::{Address, FileHash};

/// The header with the delegation.
pub const PUBKEY_HEADER: &str = "X-SignedPubKey";
/// The header with the signed request.
pub const OPERATION_HEADER: &str = "X-SignedOperation";

/// How far a request's time may be from the node's clock.
const MAX_AGE_SECONDS: i64 = 120;

/// How long a key that we make is valid.
const DELEGATION_MINUTES: i64 = 10;

/// Why a signed request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignedRequestError {
    /// A header is missing.
    #[error("Missing {0} header")]
    Missing(&'static str),
    /// A header cannot be read.
    #[error("Invalid {0} format: {1}")]
    Malformed(&'static str, String),
    /// The delegation has run out.
    #[error("Token expired")]
    Expired,
    /// The request is too old, or from the future.
    #[error("the request was signed at {0}, more than two minutes from this node's clock; check your clock")]
    Stale(String),
    /// Signed for something else.
    #[error("Invalid {field}: Signed: '{signed}' != Request: '{actual}'")]
    Mismatch {
        /// What differs.
        field: &'static str,
        /// What was signed.
        signed: String,
        /// What was asked.
        actual: String,
    },
    /// Not made by the key.
    #[error("Invalid signature")]
    Signature,
}

impl SignedRequestError {
    /// Whether the request is malformed (HTTP 400) rather than not allowed (HTTP 401).
    pub const fn is_malformed(&self) -> bool {
        matches!(self, Self::Missing(_) | Self::Malformed(..))
    }
}

/// A hexadecimal payload and its signature, the form of both headers.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Signed {
    payload: String,
    signature: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Delegation {
    pubkey: JwkEcKey,
    alg: String,
    domain: String,
    address: Address,
    expires: String,
    #[serde(default = "ethereum")]
    chain: String,
}

fn ethereum() -> String {
    "ETH".to_owned()
}

#[derive(Debug, Serialize, Deserialize)]
struct Operation {
    time: String,
    method: String,
    path: String,
    domain: String,
}

/// The client's side: a fresh key that an account vouches for at one node.
pub struct RequestSigner {
    key: SigningKey,
    delegation: String,
    domain: String,
}

impl RequestSigner {
    /// Makes a key for requests to the node with this host name (without port), valid for ten minutes.
    pub fn new(account: &Account, domain: &str, now: DateTime<Utc>) -> Self {
        let key = SigningKey::random(&mut rand_core::OsRng);
        let delegation = Delegation {
            pubkey: p256::PublicKey::from(key.verifying_key()).to_jwk(),
            alg: "ECDSA".to_owned(),
            domain: domain.to_owned(),
            address: account.address().clone(),
            expires: (now + Duration::minutes(DELEGATION_MINUTES)).to_rfc3339_opts(SecondsFormat::Millis, true),
            chain: account.chain().to_string(),
        };
        let payload = serde_json::to_vec(&delegation).expect("a delegation is JSON");
        let signed = Signed { signature: account.sign(&payload), payload: hex::encode(payload) };
        let delegation = serde_json::to_string(&signed).expect("hexadecimal texts are JSON");
        Self { key, delegation, domain: domain.to_owned() }
    }

    /// The two headers for one request. `path` is the URL's path without the query.
    pub fn headers(&self, method: &str, path: &str, now: DateTime<Utc>) -> [(&'static str, String); 2] {
        let operation = Operation {
            time: now.to_rfc3339_opts(SecondsFormat::Millis, true),
            method: method.to_owned(),
            path: path.to_owned(),
            domain: self.domain.clone(),
        };
        let payload = serde_json::to_vec(&operation).expect("an operation is JSON");
        let signature: Signature = self.key.sign(&payload);
        let signed = Signed { payload: hex::encode(payload), signature: hex::encode(signature.to_bytes()) };
        let operation = serde_json::to_string(&signed).expect("hexadecimal texts are JSON");
        [(PUBKEY_HEADER, self.delegation.clone()), (OPERATION_HEADER, operation)]
    }
}

/// A request as the node received it.
#[derive(Debug, Clone, Copy)]
pub struct ReceivedRequest<'a> {
    /// The header [`PUBKEY_HEADER`].
    pub pubkey: Option<&'a str>,
    /// The header [`OPERATION_HEADER`].
    pub operation: Option<&'a str>,
    /// `GET`, `POST` and so on.
    pub method: &'a str,
    /// The URL's path without the query.
    pub path: &'a str,
    /// The node's own host name, without port.
    pub domain: &'a str,
}

/// A request whose signature was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Who signed it.
    pub signer: Address,
    /// When, by the signer's clock.
    pub time: DateTime<Utc>,
    /// What the signature was made over: the same for a request that is sent twice, however its headers are written.
    pub id: FileHash,
}

impl Verified {
    /// From when on the request would be refused because of its age.
    pub fn ends(&self) -> DateTime<Utc> {
        self.time + Duration::seconds(MAX_AGE_SECONDS + 1)
    }
}

/// Checks a signed request and says who made it. Whether that account may do it is the caller's to decide.
///
/// # Errors
/// The first [`SignedRequestError`] that applies.
pub fn verify(request: &ReceivedRequest<'_>, now: DateTime<Utc>) -> Result<Address, SignedRequestError> {
    verify_once(request, now).map(|verified| verified.signer)
}

/// [`verify`] for requests that must not take effect twice: the caller remembers [`Verified::id`] until [`Verified::ends`]
/// and refuses what it remembers.
///
/// # Errors
/// The first [`SignedRequestError`] that applies.
pub fn verify_once(request: &ReceivedRequest<'_>, now: DateTime<Utc>) -> Result<Verified, SignedRequestError> {
    let (delegation_payload, delegation_signature) = open(PUBKEY_HEADER, request.pubkey)?;
    let delegation: Delegation = read(PUBKEY_HEADER, &delegation_payload)?;
    let (operation_payload, operation_signature) = open(OPERATION_HEADER, request.operation)?;
    let operation: Operation = read(OPERATION_HEADER, &operation_payload)?;

    if parse_time(PUBKEY_HEADER, &delegation.expires)? < now {
        return Err(SignedRequestError::Expired);
    }
    account::verify(&delegation_payload, &delegation_signature, &delegation.address)
        .map_err(|_| SignedRequestError::Signature)?;
    let key = p256::PublicKey::from_jwk(&delegation.pubkey)
        .map_err(|e| SignedRequestError::Malformed(PUBKEY_HEADER, e.to_string()))?;
    let signature = hex::decode(operation_signature.trim_start_matches("0x"))
        .ok()
        .and_then(|bytes| Signature::from_slice(&bytes).ok())
        .ok_or(SignedRequestError::Signature)?;
    VerifyingKey::from(key).verify(&operation_payload, &signature).map_err(|_| SignedRequestError::Signature)?;

    let time = parse_time(OPERATION_HEADER, &operation.time)?;
    if (time - now).num_seconds().abs() > MAX_AGE_SECONDS {
        return Err(SignedRequestError::Stale(operation.time));
    }
    same("domain", &delegation.domain, request.domain)?;
    same("domain", &operation.domain, request.domain)?;
    same("path", &operation.path, request.path)?;
    same("method", &operation.method, request.method)?;
    // The parts as they were signed: signatures and headers can be written in several ways.
    let id = FileHash::of(
        &[FileHash::of(&delegation_payload), FileHash::of(&operation_payload)].map(|h| *h.as_bytes()).concat(),
    );
    Ok(Verified { signer: delegation.address, time, id })
}

fn open(name: &'static str, header: Option<&str>) -> Result<(Vec<u8>, String), SignedRequestError> {
    let header = header.ok_or(SignedRequestError::Missing(name))?;
    let malformed = |e: &dyn std::fmt::Display| SignedRequestError::Malformed(name, e.to_string());
    let signed: Signed = serde_json::from_str(header).map_err(|e| malformed(&e))?;
    let payload = hex::decode(&signed.payload).map_err(|e| malformed(&e))?;
    Ok((payload, signed.signature))
}

fn read<'a, T: Deserialize<'a>>(name: &'static str, payload: &'a [u8]) -> Result<T, SignedRequestError> {
    serde_json::from_slice(payload).map_err(|e| SignedRequestError::Malformed(name, e.to_string()))
}

fn parse_time(name: &'static str, text: &str) -> Result<DateTime<Utc>, SignedRequestError> {
    DateTime::parse_from_rfc3339(text)
        .map(|t| t.to_utc())
        .map_err(|e| SignedRequestError::Malformed(name, format!("'{text}' is no time: {e}")))
}

fn same(field: &'static str, signed: &str, actual: &str) -> Result<(), SignedRequestError> {
    if signed == actual {
        Ok(())
    } else {
        Err(SignedRequestError::Mismatch { field, signed: signed.to_owned(), actual: actual.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        headers: &[(&'static str, String); 2],
        method: &str,
        path: &str,
        domain: &str,
        now: DateTime<Utc>,
    ) -> Result<Address, SignedRequestError> {
        let request =
            ReceivedRequest { pubkey: Some(&headers[0].1), operation: Some(&headers[1].1), method, path, domain };
        verify(&request, now)
    }

    #[test]
    fn a_signed_request_names_its_account_and_fits_nothing_else() {
        let (account, now) = (Account::generate(), Utc::now());
        let headers = RequestSigner::new(&account, "node-1", now).headers("GET", "/logs", now);
        assert_eq!(check(&headers, "GET", "/logs", "node-1", now).unwrap(), *account.address());
        for (method, path, domain) in
            [("POST", "/logs", "node-1"), ("GET", "/stop", "node-1"), ("GET", "/logs", "node-2")]
        {
            let error = check(&headers, method, path, domain, now).unwrap_err();
            assert!(matches!(error, SignedRequestError::Mismatch { .. }), "{error}");
        }
        assert!(matches!(
            check(&headers, "GET", "/logs", "node-1", now + Duration::minutes(3)),
            Err(SignedRequestError::Stale(_))
        ));
        assert_eq!(
            check(&headers, "GET", "/logs", "node-1", now + Duration::minutes(11)),
            Err(SignedRequestError::Expired)
        );
    }

    #[test]
    fn the_same_request_has_the_same_id_however_it_is_written() {
        let (account, now) = (Account::generate(), Utc::now());
        let id = |headers: &[(&'static str, String); 2]| {
            let request = ReceivedRequest {
                pubkey: Some(&headers[0].1),
                operation: Some(&headers[1].1),
                method: "PUT",
                path: "/x",
                domain: "n",
            };
            verify_once(&request, now).unwrap().id
        };
        let headers = RequestSigner::new(&account, "n", now).headers("PUT", "/x", now);
        let mut rewritten = headers.clone();
        rewritten[1].1 = rewritten[1].1.replace(':', " : ").replace("\"signature\" : \"", "\"signature\" : \"0x");
        assert_ne!(headers, rewritten);
        assert_eq!(id(&headers), id(&rewritten));
        assert_ne!(id(&headers), id(&RequestSigner::new(&account, "n", now).headers("PUT", "/x", now)));
    }

    #[test]
    fn keys_that_nobody_vouched_for_are_refused() {
        let (account, now) = (Account::generate(), Utc::now());
        let trusted = RequestSigner::new(&account, "n", now);
        let mixed = [
            trusted.headers("GET", "/", now)[0].clone(),
            RequestSigner::new(&account, "n", now).headers("GET", "/", now)[1].clone(),
        ];
        assert_eq!(check(&mixed, "GET", "/", "n", now), Err(SignedRequestError::Signature));
    }

    #[test]
    fn missing_and_malformed_headers_are_named() {
        let none = ReceivedRequest { pubkey: None, operation: None, method: "GET", path: "/", domain: "n" };
        assert_eq!(verify(&none, Utc::now()), Err(SignedRequestError::Missing(PUBKEY_HEADER)));
        let junk = ReceivedRequest { pubkey: Some("{}"), ..none };
        assert!(verify(&junk, Utc::now()).unwrap_err().is_malformed());
    }
}

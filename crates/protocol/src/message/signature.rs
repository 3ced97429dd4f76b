//! The signature of a message, in the forms in which accounts of different chains write it.
//!
//! EVM chains: 65 bytes in hexadecimal, EIP-191 over the signed text. Solana and Eclipse: Ed25519 over it, in base58. The
//! Python SDK writes the latter as the text of a JSON object, `{"signature": "…", "publicKey": "…"}`, the Rust SDK as that
//! object. (Sources: `aleph.sdk.chains`, the crate `aleph-types`.)

use aleph_types::chain::Signature;
use aleph_types::item_hash::ItemHash;
use aleph_types::verify_signature;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::{Envelope, EnvelopeError};

/// Reads a signature; an object becomes its text, which is how other message nodes keep it.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Text(String),
        Object(Map<String, Value>),
    }
    let form = Option::<Form>::deserialize(deserializer)?;
    Ok(form.map(|form| match form {
        Form::Text(text) => text,
        Form::Object(object) => Value::Object(object).to_string(),
    }))
}

/// Checks the signature of a message with this item hash.
///
/// # Errors
/// [`EnvelopeError::Signature`] when there is none, it is not by the sender, or the chain's are not known here.
pub(super) fn verify(envelope: &Envelope, hash: &ItemHash) -> Result<(), EnvelopeError> {
    let wrong = |why: String| EnvelopeError::Signature(why);
    let text = envelope.signature.as_deref().ok_or_else(|| wrong("the message is not signed".to_owned()))?;
    let signature = match text.starts_with('{') {
        true => serde_json::from_str(text).map_err(|e| wrong(e.to_string()))?,
        false => Signature::from(text.to_owned()),
    };
    if let Some(key) = signature.public_key().filter(|key| *key != envelope.sender.as_str()) {
        return Err(wrong(format!("it is by {key}, and the sender is {}", envelope.sender)));
    }
    let sender = (&envelope.sender).into();
    verify_signature::verify(&envelope.chain, &sender, &signature, envelope.message_type, hash)
        .map_err(|e| wrong(e.to_string()))
}

#[cfg(test)]
mod tests {
    use aleph_types::account::{Account as _, SolanaAccount};
    use aleph_types::message::MessageType;
    use serde_json::json;

    use super::*;
    use crate::message::{Chain, MessageTime};
    use crate::{Account, Address, FileHash};

    const CONTENT: &str = r#"{"address":"x","time":1.5,"key":"k","content":{}}"#;

    fn by(account: &Account) -> Envelope {
        Envelope::sign_inline(account, MessageType::Aggregate, CONTENT.into(), MessageTime::now(), None)
    }

    /// A message of a Solana account and the parts of its signature.
    fn by_solana(chain: Chain) -> (Envelope, String, String) {
        let account = SolanaAccount::new(chain.clone(), &[7; 32]).unwrap();
        let sender = Address::new(account.address().as_str());
        let mut envelope = Envelope { sender, chain, signature: None, ..by(&Account::generate()) };
        assert_eq!(envelope.item_hash, FileHash::of(CONTENT.as_bytes()).to_string());
        let signature = account.sign_raw(envelope.signed_text().as_bytes()).unwrap();
        let (value, key) = (signature.as_str().to_owned(), signature.public_key().unwrap().to_owned());
        envelope.signature = Some(value.clone());
        (envelope, value, key)
    }

    #[test]
    fn accounts_of_every_evm_chain_sign() {
        for chain in [Chain::Ethereum, Chain::Avax, Chain::Base, Chain::Bsc, Chain::Pol, Chain::Arbitrum] {
            let envelope = by(&Account::on_chain(chain.clone(), &[7; 32]).unwrap());
            assert_eq!((envelope.chain.clone(), envelope.verify()), (chain, Ok(())));
        }
    }

    #[test]
    fn solana_accounts_sign_in_three_forms() {
        for chain in [Chain::Sol, Chain::Eclipse] {
            let (envelope, value, key) = by_solana(chain);
            let object = json!({"signature": value, "publicKey": key});
            for form in [json!(value), json!(object.to_string()), object.clone()] {
                let mut wire = serde_json::to_value(&envelope).unwrap();
                wire["signature"] = form.clone();
                let read: Envelope = serde_json::from_value(wire).unwrap();
                assert_eq!(read.verify(), Ok(()), "{form}");
                let again: Envelope = serde_json::from_str(&serde_json::to_string(&read).unwrap()).unwrap();
                assert_eq!((again.verify(), again), (Ok(()), read));
            }
        }
    }

    #[test]
    fn signatures_of_others_are_refused_with_a_reason() {
        let (envelope, value, _) = by_solana(Chain::Sol);
        let refused = |change: &dyn Fn(&mut Envelope), reason: &str| {
            let mut changed = envelope.clone();
            change(&mut changed);
            let error = changed.verify().unwrap_err();
            assert!(matches!(&error, EnvelopeError::Signature(why) if why.contains(reason)), "{error}");
        };
        refused(&|e| e.message_type = MessageType::Post, "signature");
        refused(&|e| e.chain = Chain::Eclipse, "signature");
        refused(&|e| e.sender = Address::new("1nc1nerator11111111111111111111111111111111"), "signature");
        refused(&|e| e.signature = None, "not signed");
        refused(&|e| e.signature = Some("{".into()), "EOF");
        let by_another = json!({"signature": value, "publicKey": "1nc1nerator11111111111111111111111111111111"});
        refused(&|e| e.signature = Some(by_another.to_string()), "it is by 1nc1nerator");
        refused(&|e| e.chain = Chain::Tezos, "chain");
    }

    #[test]
    fn a_signature_of_another_shape_is_no_message() {
        let mut wire = serde_json::to_value(by(&Account::generate())).unwrap();
        for shape in [json!(5), json!(["0x00"]), json!(true)] {
            wire["signature"] = shape;
            assert!(serde_json::from_value::<Envelope>(wire.clone()).is_err());
        }
        wire["signature"] = Value::Null;
        assert_eq!(serde_json::from_value::<Envelope>(wire).unwrap().signature, None);
    }
}

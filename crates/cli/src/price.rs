//! What a program costs, and whether its owner can pay.

use anyhow::Result;
use protocol::api::message_node::{Balance, Price};
use protocol::client::ClientError;
use protocol::message::Envelope;
use protocol::{Account, FileHash};
use rust_decimal::Decimal;
use serde_json::{Value, json};

use crate::context::Context;
use crate::failure::{Code, Failure};

/// Tokens as people write them.
pub fn tokens(amount: Decimal) -> String {
    amount.normalize().to_string()
}

/// Tokens from the wire's floating-point numbers.
pub fn from_number(amount: f64) -> Decimal {
    Decimal::try_from(amount).unwrap_or_default()
}

/// A price's exact amount.
pub fn amount(price: &Price) -> Decimal {
    price.cost.parse().unwrap_or_else(|_| from_number(price.required_tokens))
}

/// Checks that the account can pay for a program before anything is sent, and returns its price. `None` when the message
/// node gives no estimates; it then decides when the program is sent. `new_code` is the length of code that the node does
/// not have yet.
///
/// # Errors
/// [`Failure`] with [`Code::InsufficientBalance`], or when the message node cannot be asked.
pub async fn check(
    context: &Context,
    account: &Account,
    message: &Envelope,
    new_code: Option<u64>,
) -> Result<Option<Decimal>> {
    let question = as_question(message, new_code);
    let estimate = async {
        let price = context.node.estimate(&question).await?;
        Ok::<_, ClientError>((price, context.node.balance(account.address()).await?))
    };
    match estimate.await {
        Ok((price, balance)) => {
            let required = amount(&price);
            check_balance(&balance, required)?;
            Ok(Some(required))
        }
        Err(error @ ClientError::Status { .. }) => {
            context.out.warn(format!("the price is not known beforehand: {error}"));
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// The message as estimates want it: unsigned, and with the size of code that is not uploaded yet.
fn as_question(message: &Envelope, new_code: Option<u64>) -> Envelope {
    let mut question = Envelope { signature: None, ..message.clone() };
    let content = message.item_content.as_deref().and_then(|text| serde_json::from_str::<Value>(text).ok());
    if let (Some(bytes), Some(mut content)) = (new_code, content) {
        content["code"]["estimated_size_mib"] = json!(bytes.div_ceil(1 << 20));
        let text = content.to_string();
        question.item_hash = FileHash::of(text.as_bytes()).to_string();
        question.item_content = Some(text);
    }
    question
}

fn check_balance(balance: &Balance, required: Decimal) -> Result<(), Failure> {
    let (held, locked) = (from_number(balance.balance), from_number(balance.locked_amount));
    let available = (held - locked).max(Decimal::ZERO);
    if available >= required {
        return Ok(());
    }
    let text = format!(
        "the program needs {} ALEPH, and {} has {} available ({} held, {} of it for other programs and files)",
        tokens(required),
        balance.address,
        tokens(available),
        tokens(held),
        tokens(locked)
    );
    Err(insufficient(&text).details(json!({
        "address": balance.address,
        "required": tokens(required),
        "available": tokens(available),
        "balance": tokens(held),
        "locked": tokens(locked),
    })))
}

/// The owner's balance is below the price.
pub fn insufficient(text: &str) -> Failure {
    Failure::new(Code::InsufficientBalance, text).hint(
        "send ALEPH to the account, ask for less (--vcpus, --memory, or no --persistent), or delete a program that you \
         do not need (`aleph program list`)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn balance(held: f64, locked: f64) -> Balance {
        serde_json::from_value(json!({"address": "0xa", "balance": held, "locked_amount": locked})).unwrap()
    }

    #[test]
    fn what_is_locked_does_not_count() {
        assert!(check_balance(&balance(2000.0, 0.0), 2000.into()).is_ok());
        let failure = check_balance(&balance(2000.0, 0.5), 2000.into()).unwrap_err();
        assert_eq!(failure.code, Code::InsufficientBalance);
        assert!(
            failure.message.contains("needs 2000 ALEPH") && failure.message.contains("1999.5 available"),
            "{failure}"
        );
        assert_eq!(failure.details.unwrap()["available"], "1999.5");
    }

    #[test]
    fn prices_are_exact() {
        let price: Price = serde_json::from_value(json!({
            "required_tokens": 0.1, "payment_type": "hold", "cost": "1000.100000000000000000", "detail": [],
            "charged_address": "0xa",
        }))
        .unwrap();
        assert_eq!(tokens(amount(&price)), "1000.1");
    }
}

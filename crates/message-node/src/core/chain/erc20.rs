//! The questions and answers of [`super`] as JSON-RPC, and the two words of ERC-20 that are needed.
//!
//! Sources: JSON-RPC 2.0; the Ethereum execution APIs (`eth_blockNumber`, `eth_getBlockByNumber`, `eth_getLogs`, `eth_call`);
//! EIP-20 (the token), EIP-234 (transfers of the block with a hash), EIP-1898 (balances as of the block with a hash).

use rust_decimal::Decimal;
use serde_json::{Value, json};

use super::{Account, Block, Hash, Reply, Request, Trouble};

/// Bytes of an answer that are read.
pub(crate) const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;
/// The first four bytes of the Keccak-256 of `balanceOf(address)`.
const BALANCE_OF: &str = "70a08231";
/// The Keccak-256 of `Transfer(address,address,uint256)`.
const TRANSFER: &str = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef";
/// Characters of somebody else's error that are shown.
const MAX_SHOWN: usize = 200;
/// The largest number of decimals that [`Decimal`] has.
const MAX_SCALE: u32 = 28;

/// A token.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Token {
    /// Its contract.
    pub contract: Account,
    /// Digits after the decimal point.
    pub decimals: u8,
}

/// The account with this address, if it is one of this kind of chain.
pub(crate) fn account(address: &str) -> Option<Account> {
    hex::decode(address.strip_prefix("0x")?).ok()?.try_into().ok()
}

impl Token {
    /// The body of a question. Several at once only for several balances.
    pub(crate) fn question(&self, request: &Request) -> Value {
        let call = |id: usize, method: &str, params: Value| json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        match request {
            Request::Head => call(0, "eth_blockNumber", json!([])),
            Request::Block(number) => call(0, "eth_getBlockByNumber", json!([quantity(*number), false])),
            Request::Transfers { from, to } => {
                let mut filter = json!({ "address": text(&self.contract), "topics": [TRANSFER] });
                if *from == to.number {
                    // A node behind a load balancer that does not have the block says so, instead of "no transfers".
                    filter["blockHash"] = text(&to.hash).into();
                } else {
                    filter["fromBlock"] = quantity(*from).into();
                    filter["toBlock"] = quantity(to.number).into();
                }
                call(0, "eth_getLogs", json!([filter]))
            }
            Request::Balances { at, of } => {
                let balance = |(id, account): (usize, &Account)| {
                    let data = format!("0x{BALANCE_OF}{:0>64}", hex::encode(account));
                    let block = json!({ "blockHash": text(at) });
                    call(id, "eth_call", json!([{ "to": text(&self.contract), "data": data }, block]))
                };
                let mut calls: Vec<Value> = of.iter().enumerate().map(balance).collect();
                match calls.len() {
                    1 => calls.remove(0),
                    _ => Value::Array(calls),
                }
            }
        }
    }

    /// Reads the answer to a question.
    ///
    /// # Errors
    /// [`Trouble::Refused`] when it is an error, [`Trouble::Failed`] when it is no answer to this question.
    pub(crate) fn answer(&self, request: &Request, body: &[u8]) -> Result<Reply, Trouble> {
        let body: Value = serde_json::from_slice(body).map_err(|_| nonsense("no JSON"))?;
        match request {
            Request::Head => {
                Ok(Reply::Head(number(result(&body, 0)?).ok_or_else(|| nonsense("no number of a block"))?))
            }
            Request::Block(_) => match result(&body, 0)? {
                Value::Null => Ok(Reply::Block(None)),
                found => block(found).map(|block| Reply::Block(Some(block))).ok_or_else(|| nonsense("no block")),
            },
            Request::Transfers { .. } => {
                let logs = result(&body, 0)?.as_array().ok_or_else(|| nonsense("no list of logs"))?;
                let touched: Option<Vec<[Account; 2]>> = logs.iter().map(parties).collect();
                Ok(Reply::Transfers(touched.ok_or_else(|| nonsense("no transfer of tokens"))?.concat()))
            }
            Request::Balances { of, .. } => {
                let balances = (0..of.len()).map(|id| self.balance(result(&body, id)?));
                balances.collect::<Result<_, _>>().map(Reply::Balances)
            }
        }
    }

    fn balance(&self, value: &Value) -> Result<Decimal, Trouble> {
        if value == "0x" {
            let contract = text(&self.contract);
            return Err(Trouble::Failed(format!("there is no token contract at {contract}; set --token-contract")));
        }
        let amount: Hash = bytes(value).ok_or_else(|| nonsense("no balance"))?;
        Ok(tokens(amount, self.decimals.into()))
    }
}

/// The result of a call, or of the call with this number if there are several.
fn result(body: &Value, id: usize) -> Result<&Value, Trouble> {
    let answer = match body {
        Value::Array(answers) => {
            answers.iter().find(|answer| answer["id"] == id).ok_or_else(|| nonsense("no answer"))?
        }
        single => single,
    };
    if let Some(error) = answer.get("error").filter(|error| !error.is_null()) {
        let message = error.get("message").and_then(Value::as_str).map_or_else(|| error.to_string(), str::to_owned);
        let message: String = message.chars().filter(|c| !c.is_control()).take(MAX_SHOWN).collect();
        return Err(Trouble::Refused(format!("the RPC node says: {message}")));
    }
    match answer.get("result") {
        Some(result) if answer["id"] == id => Ok(result),
        _ => Err(nonsense("no result")),
    }
}

fn nonsense(what: &str) -> Trouble {
    Trouble::Failed(format!("the RPC node answered what is {what}"))
}

fn block(value: &Value) -> Option<Block> {
    Some(Block { number: number(&value["number"])?, hash: bytes(&value["hash"])?, time: number(&value["timestamp"])? })
}

/// Who took part in a transfer: its second and third topic.
fn parties(log: &Value) -> Option<[Account; 2]> {
    let party = |index: usize| {
        let topic: Hash = bytes(&log["topics"][index])?;
        topic[12..].try_into().ok()
    };
    Some([party(1)?, party(2)?])
}

fn number(value: &Value) -> Option<u64> {
    u64::from_str_radix(value.as_str()?.strip_prefix("0x")?, 16).ok()
}

fn quantity(number: u64) -> String {
    format!("{number:#x}")
}

fn bytes<const N: usize>(value: &Value) -> Option<[u8; N]> {
    hex::decode(value.as_str()?.strip_prefix("0x")?).ok()?.try_into().ok()
}

fn text(bytes: &[u8]) -> String {
    format!("0x{}", hex::encode(bytes))
}

/// An amount of the smallest unit in tokens, rounded down to what a [`Decimal`] holds.
fn tokens(mut amount: Hash, decimals: u32) -> Decimal {
    let mut scale = decimals;
    loop {
        let is_small = amount[..20].iter().all(|byte| *byte == 0);
        if is_small && scale <= MAX_SCALE {
            let low = amount[16..].iter().fold(0_i128, |value, byte| value << 8 | i128::from(*byte));
            return Decimal::try_from_i128_with_scale(low, scale).unwrap_or(Decimal::MAX).normalize();
        }
        if scale == 0 {
            // More tokens than anything can cost.
            return Decimal::MAX;
        }
        divide_by_ten(&mut amount);
        scale -= 1;
    }
}

fn divide_by_ten(number: &mut Hash) {
    let mut rest = 0_u16;
    for byte in number {
        let value = rest << 8 | u16::from(*byte);
        // Below 256, because the rest is below 10.
        *byte = u8::try_from(value / 10).unwrap_or(u8::MAX);
        rest = value % 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: Token = Token { contract: [0xc0; 20], decimals: 18 };

    fn amount(number: u128) -> Hash {
        let mut bytes = [0; 32];
        bytes[16..].copy_from_slice(&number.to_be_bytes());
        bytes
    }

    #[test]
    fn amounts_are_counted_in_tokens_and_rounded_down() {
        let show = |number: u128, decimals| tokens(amount(number), decimals).to_string();
        assert_eq!(show(2_000 * 10_u128.pow(18), 18), "2000");
        assert_eq!(show(1_999_999_999_999_999_999_999, 18), "1999.999999999999999999");
        assert_eq!(show(7, 0), "7");
        assert_eq!(show(7, 28), "0.0000000000000000000000000007");
        assert_eq!(show(79, 29), "0.0000000000000000000000000007");
        assert_eq!(show(u128::MAX, 18), "340282366920938463463.37460743");
        assert_eq!(tokens([0xff; 32], 18), Decimal::MAX);
        assert_eq!(tokens([0xff; 32], 77).to_string(), "1.15792089237316195423570985");
        assert_eq!(tokens([0; 32], 255), Decimal::ZERO);
    }

    #[test]
    fn addresses_of_other_chains_are_no_accounts() {
        assert_eq!(account(&format!("0x{}", "Ab".repeat(20))), Some([0xab; 20]));
        for other in ["", "0x", "5x9", "So11111111111111111111111111111111111111112", &format!("0x{}", "ab".repeat(21))]
        {
            assert_eq!(account(other), None, "{other}");
        }
    }

    #[test]
    fn questions_name_block_account_and_contract() {
        let to = Block { number: 16, hash: [2; 32], time: 0 };
        let contract = text(&TOKEN.contract);
        let one = TOKEN.question(&Request::Balances { at: [1; 32], of: vec![[0xab; 20]] });
        assert_eq!(one["params"][0]["to"], contract);
        assert_eq!(one["params"][0]["data"], format!("0x70a08231{}{}", "0".repeat(24), "ab".repeat(20)));
        assert_eq!(one["params"][1]["blockHash"], text(&[1; 32]));
        let two = TOKEN.question(&Request::Balances { at: [1; 32], of: vec![[0xab; 20], [0xcd; 20]] });
        assert_eq!((two[0]["id"].as_u64(), two[1]["id"].as_u64()), (Some(0), Some(1)));
        let range = TOKEN.question(&Request::Transfers { from: 10, to });
        assert_eq!(
            range["params"][0],
            json!({"address": contract, "topics": [TRANSFER], "fromBlock": "0xa", "toBlock": "0x10"})
        );
        let exact = TOKEN.question(&Request::Transfers { from: 16, to });
        assert_eq!(exact["params"][0], json!({"address": contract, "topics": [TRANSFER], "blockHash": text(&[2; 32])}));
        assert_eq!(TOKEN.question(&Request::Block(0))["params"], json!(["0x0", false]));
        assert_eq!(TOKEN.question(&Request::Head)["method"], "eth_blockNumber");
    }

    #[test]
    fn answers_are_read_by_number_and_not_by_place() {
        let request = Request::Balances { at: [1; 32], of: vec![[1; 20], [2; 20]] };
        let body = json!([{"id": 1, "result": text(&amount(10_u128.pow(18)))}, {"id": 0, "result": text(&amount(5))}]);
        let reply = TOKEN.answer(&request, body.to_string().as_bytes()).unwrap();
        assert_eq!(reply, Reply::Balances(vec![Decimal::new(5, 18), Decimal::ONE]));
        let topics =
            [TRANSFER.to_owned(), format!("0x{:0>64}", "11".repeat(20)), format!("0x{:0>64}", "22".repeat(20))];
        let body = json!({"id": 0, "result": [{"topics": topics}]});
        let transfers = Request::Transfers { from: 1, to: Block { number: 2, hash: [0; 32], time: 0 } };
        let reply = TOKEN.answer(&transfers, body.to_string().as_bytes()).unwrap();
        assert_eq!(reply, Reply::Transfers(vec![[0x11; 20], [0x22; 20]]));
        let body = json!({"id": 0, "result": {"number": "0x1f", "hash": text(&[3; 32]), "timestamp": "0x10"}});
        let reply = TOKEN.answer(&Request::Block(31), body.to_string().as_bytes()).unwrap();
        assert_eq!(reply, Reply::Block(Some(Block { number: 31, hash: [3; 32], time: 16 })));
        let body = json!({"id": 0, "result": null}).to_string();
        assert_eq!(TOKEN.answer(&Request::Block(31), body.as_bytes()), Ok(Reply::Block(None)));
    }

    #[test]
    fn nonsense_is_trouble_and_never_an_amount() {
        let balances = Request::Balances { at: [1; 32], of: vec![[1; 20]] };
        let transfers = Request::Transfers { from: 1, to: Block { number: 2, hash: [0; 32], time: 0 } };
        for (request, body) in [
            (&balances, "<html>"),
            (&balances, "[]"),
            (&balances, r#"{"id":0}"#),
            (&balances, r#"{"id":0,"result":null}"#),
            (&balances, r#"{"id":0,"result":"0x12"}"#),
            (&balances, r#"{"id":7,"result":"0x0000000000000000000000000000000000000000000000000000000000000001"}"#),
            (&transfers, r#"{"id":0,"result":[{"topics":["0x01"]}]}"#),
            (&transfers, r#"{"id":0,"result":null}"#),
            (&Request::Head, r#"{"id":0,"result":12}"#),
            (&Request::Head, r#"{"id":0,"result":"0xfffffffffffffffff"}"#),
            (&Request::Block(1), r#"{"id":0,"result":{"number":"0x1"}}"#),
        ] {
            let answer = TOKEN.answer(request, body.as_bytes());
            assert!(matches!(answer, Err(Trouble::Failed(_))), "{body}: {answer:?}");
        }
        let Err(Trouble::Failed(why)) = TOKEN.answer(&balances, br#"{"id":0,"result":"0x"}"#) else { panic!() };
        assert!(why.contains("--token-contract"), "{why}");
        let body = json!({"id": 0, "error": {"code": -32005, "message": "too\nmuch".to_owned() + &"x".repeat(500)}});
        let Err(Trouble::Refused(why)) = TOKEN.answer(&balances, body.to_string().as_bytes()) else { panic!() };
        assert!(why.contains("toomuchx") && why.len() < 300, "{why}");
    }
}

//! The table of prices, in the shape of the network's `pricing` aggregate.

use std::sync::LazyLock;

use rust_decimal::Decimal;
use serde_json::{Map, Value};

/// Built-in prices: those of the Aleph network, except that a persistent program costs 2000 tokens per compute unit, as the
/// tutorials say, instead of 1000.
static DEFAULT_PRICING: LazyLock<Map<String, Value>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("pricing.json")).expect("the built-in prices are a JSON object")
});

/// The built-in prices as an aggregate.
pub(crate) fn default_pricing() -> &'static Map<String, Value> {
    &DEFAULT_PRICING
}

/// The price of one kind of program.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Product {
    /// Tokens to hold per compute unit.
    pub compute_unit: Decimal,
    /// Tokens to hold per MiB of volumes.
    pub storage: Decimal,
    /// MiB of memory in a compute unit.
    pub memory_mib: u64,
    /// MiB of volumes that are free per compute unit.
    pub disk_mib: u64,
}

/// The prices that this node needs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PriceTable {
    /// Programs on demand.
    pub program: Product,
    /// Persistent programs.
    pub program_persistent: Product,
    /// Tokens to hold per MiB of a STORE message's file.
    pub storage: Decimal,
}

impl PriceTable {
    /// Reads the `pricing` aggregate. A product that cannot be read keeps its built-in price: a slip in what the authority
    /// publishes must not make programs free or stop the node.
    pub(crate) fn from_aggregate(pricing: &Map<String, Value>) -> Self {
        Self {
            program: read(pricing, "program", product),
            program_persistent: read(pricing, "program_persistent", product),
            storage: read(pricing, "storage", |entry| holding(entry, "storage")),
        }
    }
}

fn read<T>(pricing: &Map<String, Value>, name: &str, parse: impl Fn(&Value) -> Option<T>) -> T {
    if let Some(entry) = pricing.get(name) {
        match parse(entry) {
            Some(product) => return product,
            None => tracing::warn!(product = name, "the pricing aggregate is malformed here; using the built-in price"),
        }
    }
    parse(&DEFAULT_PRICING[name]).expect("the built-in prices are complete")
}

fn product(entry: &Value) -> Option<Product> {
    let unit = entry.get("compute_unit")?;
    Some(Product {
        compute_unit: holding(entry, "compute_unit")?,
        storage: holding(entry, "storage")?,
        memory_mib: unit.get("memory_mib")?.as_u64().filter(|mib| *mib > 0)?,
        disk_mib: unit.get("disk_mib")?.as_u64()?,
    })
}

/// The highest price of anything, in tokens. Far beyond what exists, and low enough that nothing computed from it overflows.
const MAX_PRICE: u64 = 1_000_000_000;

/// `price.<what>.holding`, a number or decimal text, from 0 to [`MAX_PRICE`].
fn holding(entry: &Value, what: &str) -> Option<Decimal> {
    let amount = match entry.get("price")?.get(what)?.get("holding")? {
        Value::String(text) => text.parse().ok()?,
        Value::Number(number) => number.to_string().parse::<Decimal>().ok()?,
        _ => return None,
    };
    (Decimal::ZERO..=Decimal::from(MAX_PRICE)).contains(&amount).then_some(amount)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_built_in_prices_are_those_of_the_tutorials() {
        let table = PriceTable::from_aggregate(default_pricing());
        assert_eq!(table.program.compute_unit, Decimal::from(200));
        assert_eq!(table.program_persistent.compute_unit, Decimal::from(2000));
        assert_eq!(table.program.disk_mib, 2048);
        assert_eq!(table.program_persistent.disk_mib, 20480);
        assert_eq!(table.storage.to_string(), "0.333333333");
    }

    #[test]
    fn broken_products_keep_their_built_in_price() {
        let mut pricing = default_pricing().clone();
        pricing["program"]["price"]["compute_unit"]["holding"] = json!(150);
        pricing["program_persistent"]["price"]["compute_unit"]["holding"] = json!("-1");
        pricing["storage"]["price"]["storage"]["holding"] = json!("79228162514264337593543950335");
        let table = PriceTable::from_aggregate(&pricing);
        assert_eq!(table.program.compute_unit, Decimal::from(150));
        assert_eq!(table.program_persistent.compute_unit, Decimal::from(2000));
        assert_eq!(table.storage.to_string(), "0.333333333");
        assert_eq!(PriceTable::from_aggregate(&Map::new()).program.compute_unit, Decimal::from(200));
    }
}

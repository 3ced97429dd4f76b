//! The price of a program and of a stored file.

use protocol::Address;
use protocol::api::message_node::{Price, PriceDetail};
use protocol::message::{ProgramContent, VolumeKind};
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;

use super::table::{PriceTable, Product};
use super::{FREE_STORE_BYTES, floor, format, mib};

/// Where a program names a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Slot {
    /// `code.ref`.
    Code,
    /// `runtime.ref`.
    Runtime,
    /// `data.ref`.
    Data,
    /// `volumes[n].ref`.
    Volume(usize),
}

/// The sizes of the files that a program names, in MiB; `None` where the file is not known. Such a file is not charged.
pub(crate) trait VolumeSizes {
    /// The size of the file in this place, which is the newest version when `use_latest`.
    fn size(&self, slot: Slot, reference: &str, use_latest: bool) -> Option<Decimal>;
}

/// One part of a price.
struct Part {
    kind: &'static str,
    name: String,
    cost: Decimal,
    size_mib: Option<Decimal>,
}

const CODE: &str = "EXECUTION_PROGRAM_VOLUME_CODE";
const RUNTIME: &str = "EXECUTION_PROGRAM_VOLUME_RUNTIME";
const DATA: &str = "EXECUTION_PROGRAM_VOLUME_DATA";
// Upstream's spelling, which clients read.
const IMMUTABLE: &str = "EXECUTION_VOLUME_INMUTABLE";
const PERSISTENT: &str = "EXECUTION_VOLUME_PERSISTENT";
const DISCOUNT: &str = "EXECUTION_VOLUME_DISCOUNT";

/// The price of running a program: compute units, twice when it runs on demand with internet access, and its volumes beyond
/// what comes with the compute units.
pub(crate) fn program_price(content: &ProgramContent, sizes: &dyn VolumeSizes, table: &PriceTable) -> Price {
    let (product, name) = match content.is_persistent() {
        true => (&table.program_persistent, "program_persistent"),
        false => (&table.program, "program"),
    };
    let units = Decimal::from(compute_units(content, product));
    let multiplier = if content.environment.internet && !content.is_persistent() { 2 } else { 1 };
    let mut parts = vec![Part {
        kind: "EXECUTION",
        name: name.to_owned(),
        cost: floor(units * Decimal::from(multiplier) * product.compute_unit),
        size_mib: None,
    }];
    parts.extend(volumes(content, sizes).into_iter().map(|(kind, name, size)| Part {
        kind,
        name,
        cost: floor(size * product.storage),
        size_mib: Some(size),
    }));
    let volumes: Decimal = parts[1..].iter().map(|part| part.cost).sum();
    let included = units * Decimal::from(product.disk_mib) * product.storage;
    parts.push(Part { kind: DISCOUNT, name: DISCOUNT.to_owned(), cost: floor(-volumes.min(included)), size_mib: None });
    price(&content.address, parts)
}

/// The price of keeping a file of this many bytes.
pub(crate) fn store_price(owner: &Address, bytes: u64, table: &PriceTable) -> Price {
    let cost = if bytes <= FREE_STORE_BYTES { Decimal::ZERO } else { floor(mib(bytes) * table.storage) };
    let part = Part { kind: "STORAGE", name: "STORAGE".to_owned(), cost, size_mib: Some(mib(bytes)) };
    price(owner, vec![part])
}

fn compute_units(content: &ProgramContent, product: &Product) -> u64 {
    u64::from(content.resources.vcpus).max(content.resources.memory.div_ceil(product.memory_mib))
}

/// Every volume with its kind, name and size in MiB.
fn volumes(content: &ProgramContent, sizes: &dyn VolumeSizes) -> Vec<(&'static str, String, Decimal)> {
    let file = |kind, name: String, slot, reference: &str, use_latest| {
        sizes.size(slot, reference, use_latest).map(|size| (kind, name, size))
    };
    let (code, runtime) = (&content.code, &content.runtime);
    let mut found = Vec::new();
    found.extend(file(CODE, CODE.to_owned(), Slot::Code, &code.reference, code.use_latest));
    found.extend(file(RUNTIME, RUNTIME.to_owned(), Slot::Runtime, &runtime.reference, runtime.use_latest));
    if let Some(data) = &content.data {
        found.extend(file(DATA, DATA.to_owned(), Slot::Data, &data.reference, data.use_latest));
    }
    for (i, volume) in content.volumes.iter().enumerate() {
        let label = |kind: &str| format!("#{i}:{}", volume.mount.as_deref().unwrap_or(kind));
        match &volume.kind {
            VolumeKind::Immutable { reference, use_latest } => {
                found.extend(file(IMMUTABLE, label(IMMUTABLE), Slot::Volume(i), reference, *use_latest));
            }
            VolumeKind::Ephemeral { size_mib } | VolumeKind::Persistent { size_mib, .. } => {
                found.push((PERSISTENT, label(PERSISTENT), Decimal::from(*size_mib)));
            }
        }
    }
    found
}

fn price(owner: &Address, parts: Vec<Part>) -> Price {
    let total: Decimal = parts.iter().map(|part| part.cost).sum();
    Price {
        required_tokens: total.to_f64().unwrap_or(f64::MAX),
        payment_type: "hold".to_owned(),
        cost: format(total),
        detail: parts
            .into_iter()
            .map(|part| PriceDetail {
                kind: part.kind.to_owned(),
                name: part.name,
                cost_hold: format(part.cost),
                cost_stream: format(Decimal::ZERO),
                cost_credit: format(Decimal::ZERO),
                size_mib: part.size_mib.and_then(|size| size.to_f64()),
            })
            .collect(),
        charged_address: owner.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::default_pricing;
    use super::*;
    use serde_json::{Value, json};

    struct Known(Vec<(&'static str, u64)>);

    impl VolumeSizes for Known {
        fn size(&self, _: Slot, reference: &str, _: bool) -> Option<Decimal> {
            self.0.iter().find(|(known, _)| *known == reference).map(|(_, bytes)| mib(*bytes))
        }
    }

    fn program(change: impl FnOnce(&mut Value)) -> ProgramContent {
        let mut content = json!({
            "address": "0x1", "time": 1.0, "allow_amend": true, "type": "vm-function",
            "environment": {}, "resources": {"vcpus": 1, "memory": 2048, "seconds": 30}, "volumes": [],
            "code": {"encoding": "zip", "entrypoint": "main:app", "ref": "code", "use_latest": true},
            "runtime": {"ref": "runtime", "use_latest": true, "comment": ""},
            "on": {"http": true, "persistent": false},
        });
        change(&mut content);
        ProgramContent::parse(&content.to_string()).unwrap()
    }

    fn cost(content: &ProgramContent, sizes: &Known) -> String {
        program_price(content, sizes, &PriceTable::from_aggregate(default_pricing())).cost
    }

    fn whole(tokens: u32) -> String {
        format(Decimal::from(tokens))
    }

    #[test]
    fn on_demand_200_with_internet_400_persistent_2000() {
        let none = Known(vec![]);
        assert_eq!(cost(&program(|_| ()), &none), whole(200));
        assert_eq!(cost(&program(|c| c["environment"]["internet"] = json!(true)), &none), whole(400));
        assert_eq!(cost(&program(|c| c["on"]["persistent"] = json!(true)), &none), whole(2000));
        let persistent = program(|c| {
            c["on"]["persistent"] = json!(true);
            c["environment"]["internet"] = json!(true);
        });
        assert_eq!(cost(&persistent, &none), whole(2000), "internet is free for persistent programs");
    }

    #[test]
    fn the_official_price_of_a_persistent_program_is_1000() {
        let mut pricing = default_pricing().clone();
        pricing["program_persistent"]["price"]["compute_unit"]["holding"] = json!("1000");
        let content = program(|c| c["on"]["persistent"] = json!(true));
        let price = program_price(&content, &Known(vec![]), &PriceTable::from_aggregate(&pricing));
        assert_eq!(price.cost, "1000.000000000000000000");
        assert_eq!(price.required_tokens, 1000.0);
    }

    #[test]
    fn compute_units_are_processors_or_started_2048_mib() {
        let none = Known(vec![]);
        assert_eq!(cost(&program(|c| c["resources"]["vcpus"] = json!(4)), &none), whole(800));
        assert_eq!(cost(&program(|c| c["resources"]["memory"] = json!(2049)), &none), whole(400));
        assert_eq!(cost(&program(|c| c["resources"]["memory"] = json!(128)), &none), whole(200));
    }

    #[test]
    fn volumes_cost_only_what_exceeds_the_included_disk() {
        let sizes = Known(vec![("code", 1024 * 1024), ("runtime", 1023 * 1024 * 1024)]);
        let content = program(|_| ());
        assert_eq!(cost(&content, &sizes), whole(200), "1024 MiB of 2048 included");
        let content = program(|c| c["volumes"] = json!([{"mount": "/data", "size_mib": 2048}]));
        // 3072 MiB - 2048 MiB at 0.05.
        assert_eq!(cost(&content, &sizes), "251.200000000000000000");
        let content = program(|c| {
            c["on"]["persistent"] = json!(true);
            c["volumes"] = json!([{"mount": "/data", "size_mib": 10240}, {"ephemeral": true, "size_mib": 100}]);
        });
        assert_eq!(cost(&content, &sizes), whole(2000), "20480 MiB are included");
    }

    #[test]
    fn details_name_every_part_and_add_up() {
        let sizes = Known(vec![("code", 512 * 1024), ("image", 3 * 1024 * 1024 * 1024)]);
        let content = program(|c| c["volumes"] = json!([{"ref": "image", "mount": "/lib"}]));
        let price = program_price(&content, &sizes, &PriceTable::from_aggregate(default_pricing()));
        let kinds: Vec<_> =
            price.detail.iter().map(|d| (d.kind.as_str(), d.name.as_str(), d.cost_hold.as_str())).collect();
        assert_eq!(
            kinds,
            [
                ("EXECUTION", "program", "200.000000000000000000"),
                (CODE, CODE, "0.025000000000000000"),
                (IMMUTABLE, "#0:/lib", "153.600000000000000000"),
                (DISCOUNT, DISCOUNT, "-102.400000000000000000"),
            ],
            "the runtime's file is unknown and not charged"
        );
        let sum: Decimal = price.detail.iter().map(|d| d.cost_hold.parse::<Decimal>().unwrap()).sum();
        assert_eq!(format(sum), price.cost);
        assert_eq!(price.detail[2].size_mib, Some(3072.0));
    }

    #[test]
    fn the_largest_of_everything_has_a_price() {
        let mut pricing = default_pricing().clone();
        for product in ["program", "storage"] {
            for what in ["compute_unit", "storage"] {
                if pricing[product]["price"].get(what).is_some() {
                    pricing[product]["price"][what]["holding"] = json!("1000000000");
                }
            }
        }
        pricing["program"]["compute_unit"]["memory_mib"] = json!(1);
        let table = PriceTable::from_aggregate(&pricing);
        let volume = json!({"size_mib": 2_097_152});
        let content = program(|c| {
            c["resources"] = json!({"vcpus": 256, "memory": 1_048_576});
            c["environment"]["internet"] = json!(true);
            c["volumes"] = json!(vec![volume; 256]);
        });
        let sizes = Known(vec![("code", u64::MAX), ("runtime", u64::MAX)]);
        assert!(program_price(&content, &sizes, &table).required_tokens > 1e15);
        assert!(store_price(&Address::new("0x1"), u64::MAX, &table).required_tokens > 1e15);
    }

    #[test]
    fn files_are_free_up_to_25_mib_and_charged_as_a_whole_beyond() {
        let table = PriceTable::from_aggregate(default_pricing());
        let owner = Address::new("0x1");
        assert_eq!(store_price(&owner, FREE_STORE_BYTES, &table).cost, whole(0));
        assert_eq!(store_price(&owner, 30 * 1024 * 1024, &table).cost, "9.999999990000000000");
        let odd = store_price(&owner, FREE_STORE_BYTES + 1, &table);
        assert_eq!(odd.cost, "8.333333642891438484", "cut, not rounded, at 18 decimals");
    }
}

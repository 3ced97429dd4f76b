//! Parameters as the description of the API names them. [`super::query`] reads those of queries.

use protocol::ProgramId;
use protocol::api::message_node::MessageStatus;
use protocol::data::SnapshotId;
use serde_json::{Value, json};
use utoipa::IntoParams;
use utoipa::PartialSchema;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn, ParameterStyle};
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Schema, Type};
use utoipa::openapi::{RefOr, Required};

/// What a parameter takes.
#[derive(Clone, Copy)]
enum Takes {
    Text(&'static str),
    /// Texts with commas between them, at most [`super::query::MAX_VALUES`].
    Texts(&'static [&'static str]),
    Types,
    Statuses,
    /// The least, and an example.
    Number(u64, u64),
    /// Seconds since 1970 or ISO 8601.
    Time(f64),
    Direction,
    Switch,
}

/// A parameter: its name, what it takes, what it is for.
type Named = (&'static str, Takes, &'static str);

macro_rules! parameters {
    ($($(#[$doc:meta])* $name:ident: [$($parameter:expr),* $(,)?];)*) => {$(
        $(#[$doc])*
        pub(super) struct $name;

        impl IntoParams for $name {
            fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
                [$($parameter),*].into_iter().map(parameter).collect()
            }
        }
    )*};
}

const HASHES: Named = ("hashes", Takes::Texts(&["5f"]), "Item hashes.");
const REFS: Named = ("refs", Takes::Texts(&["5f"]), "`ref` in the content.");
const TAGS: Named = (
    "tags",
    Takes::Texts(&["red"]),
    "Texts among the first 100 in the list `tags` of the document, of messages in force.",
);
const CHAINS: Named = ("chains", Takes::Texts(&["ETH"]), "Chains.");
const CHANNELS: Named = ("channels", Takes::Texts(&["TEST"]), "Channels.");
const START: Named =
    ("startDate", Takes::Time(1.5), "Not before this time; 0 is not set. `start_date` is read as well.");
const END: Named = ("endDate", Takes::Time(9e9), "Before this time; 0 is not set. `end_date` is read as well.");
const PAGE: Named = ("page", Takes::Number(1, 2), "The page, from 1.");
const PAGINATION: Named =
    ("pagination", Takes::Number(0, 7), "Entries in a page, 20 if it is not given; 0 for as many as the node allows.");

parameters! {
    /// Which messages are wanted: those that have one of the values of each parameter.
    MessageFilters: [
        ("msgTypes", Takes::Types, "Types. `message_types`, `msgType` and `message_type` are read as well."),
        ("msgStatuses", Takes::Statuses, "Processed and removing if it is not given. `message_statuses` is read as well."),
        ("addresses", Takes::Texts(&["0xAB"]), "Senders."),
        ("owners", Takes::Texts(&["0xAB"]), "`address` in the content."),
        HASHES,
        REFS,
        ("contentHashes", Takes::Texts(&["5f"]), "`item_hash` in the content. `content_hashes` is read as well."),
        ("contentKeys", Takes::Texts(&["k"]), "`key` in the content. `content_keys` is read as well."),
        ("contentTypes", Takes::Texts(&["note"]), "`type` in the content. `content_types` is read as well."),
        TAGS,
        CHAINS,
        CHANNELS,
        START,
        END,
    ];
    /// Which posts are wanted.
    PostFilters: [
        ("addresses", Takes::Texts(&["0xAB"]), "Owners."),
        HASHES,
        REFS,
        ("types", Takes::Texts(&["note"]), "`type` in the content. `post_types` is read as well."),
        TAGS,
        CHAINS,
        CHANNELS,
        START,
        END,
    ];
    /// The direction of a list.
    Direction: [(
        "sortOrder",
        Takes::Direction,
        "1: oldest first; -1, and if it is not given: newest first. `sort_order` is read as well. The order is that of the \
         times in the messages, whatever `sortBy` says: this node writes nothing to a chain."
    )];
    /// The page of a list.
    Pages: [PAGE, PAGINATION];
    /// The page of a list, or the place where it goes on.
    Places: [
        PAGE,
        PAGINATION,
        ("cursor", Takes::Text(""), "Empty: the first part of the list; otherwise `next_cursor` of the part before. `page` is ignored then."),
    ];
    /// The size of a page whose number is in the path.
    PageSize: [PAGINATION];
    /// What a stream begins with.
    History: [("history", Takes::Number(0, 3), "So many older messages first, 10 if it is not given, at most 200.")];
    /// Whom an archive is read for.
    ReadsFor: [("for", Takes::Text("5f"), "Another program of the same owner, which is to start with what is read.")];
    /// Which documents are wanted.
    Documents: [
        ("keys", Takes::Texts(&["security"]), "Keys; all if it is not given."),
        ("limit", Takes::Number(1, 5), "So many documents at most, 1000 if it is not given."),
        ("value_only", Takes::Switch, "With one key: the document alone."),
    ];
}

macro_rules! places {
    ($($(#[$doc:meta])* $name:ident: [$(($parameter:literal, $schema:expr, $what:literal)),* $(,)?];)*) => {$(
        $(#[$doc])*
        pub(super) struct $name;

        impl IntoParams for $name {
            fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
                vec![$(place($parameter, $schema, $what)),*]
            }
        }
    )*};
}

places! {
    /// A message in a path.
    MessageHash: [("hash", String::schema(), "The item hash of a message.")];
    /// A file in a path.
    NameOfFile: [("hash", String::schema(), "A SHA-256 or a CID.")];
    /// An account in a path.
    Account: [("address", String::schema(), "The account.")];
    /// The archive of a program.
    InProgram: [("program", ProgramId::schema(), "The program.")];
    /// A set in it.
    InSet: [("program", ProgramId::schema(), "The program."), ("id", SnapshotId::schema(), "The set.")];
    /// A stream of it.
    InVolume: [
        ("program", ProgramId::schema(), "The program."),
        ("id", SnapshotId::schema(), "The set."),
        ("volume", String::schema(), "The key of a volume, 32 hexadecimal digits."),
    ];
}

fn place(name: &str, schema: RefOr<Schema>, what: &str) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some(what))
        .schema(Some(schema))
        .build()
}

fn parameter((name, takes, what): Named) -> Parameter {
    let (schema, example) = takes.describe();
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Query)
        .required(Required::False)
        .description(Some(what))
        .style(Some(ParameterStyle::Form))
        .explode(Some(false))
        .schema(Some(schema))
        .example(Some(example))
        .build()
}

impl Takes {
    fn describe(self) -> (RefOr<Schema>, Value) {
        let of = |kind| ObjectBuilder::new().schema_type(kind);
        let list =
            |of: RefOr<Schema>| ArrayBuilder::new().items(of).max_items(Some(super::query::MAX_VALUES)).build().into();
        match self {
            Self::Text(example) => (of(Type::String).build().into(), json!(example)),
            Self::Texts(example) => (list(of(Type::String).build().into()), json!(example)),
            Self::Types => {
                let word = Schema::from(protocol::openapi::message_type());
                (list(word.into()), json!(["POST", "STORE"]))
            }
            Self::Statuses => (list(MessageStatus::schema()), json!(["processed", "removing", "removed"])),
            Self::Number(least, example) => (of(Type::Integer).minimum(Some(least)).build().into(), json!(example)),
            Self::Time(example) => (of(Type::Number).minimum(Some(0)).build().into(), json!(example)),
            Self::Direction => (of(Type::Integer).enum_values(Some([1, -1])).build().into(), json!(1)),
            Self::Switch => (of(Type::Boolean).build().into(), json!(true)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::query::Params;
    use super::*;
    use crate::config::Limits;
    use crate::filter::Filter;

    /// Each parameter alone, with its example.
    fn examples<P: IntoParams>() -> Vec<(String, Params)> {
        let of = |parameter: &Parameter| {
            let value = match &serde_json::to_value(parameter).unwrap()["example"] {
                Value::Array(values) => values.iter().map(|v| v.as_str().unwrap()).collect::<Vec<_>>().join(","),
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            (parameter.name.clone(), Params::from_pairs([(parameter.name.clone(), value)]))
        };
        P::into_params(|| None).iter().map(of).collect()
    }

    #[test]
    fn every_parameter_that_is_described_is_read() {
        for (name, params) in examples::<MessageFilters>() {
            assert_ne!(params.filter().unwrap(), Filter::default(), "{name}");
        }
        let none = || Params::from_pairs([]);
        for (name, params) in examples::<PostFilters>() {
            let filtered = super::super::posts::filter(&params).unwrap();
            assert_ne!(filtered, super::super::posts::filter(&none()).unwrap(), "{name}");
        }
        let limits = Limits::default();
        for (name, params) in examples::<Places>() {
            assert_ne!(params.paging(&limits).unwrap(), none().paging(&limits).unwrap(), "{name}");
        }
        assert_ne!(examples::<Direction>()[0].1.order().unwrap(), none().order().unwrap());
        assert_ne!(examples::<History>()[0].1.history().unwrap(), none().history().unwrap());
        let [keys, limit, value_only] = &examples::<Documents>()[..] else { panic!("there are three") };
        assert_eq!(keys.1.list(&["keys"]).unwrap(), ["security"]);
        assert_eq!(limit.1.limit(1000).unwrap(), 5);
        assert!(value_only.1.is_on("value_only"));
    }
}

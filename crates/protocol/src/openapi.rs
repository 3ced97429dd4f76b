//! Schemas of what is a text or a number on the wire, and of the words of other crates.

use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{Object, ObjectBuilder, OneOfBuilder, Schema, SchemaType, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::data::SnapshotId;
use crate::message::MessageTime;
use crate::{Address, Epoch, FileHash, ProgramId};

macro_rules! schemas {
    ($($name:ident: $schema:expr;)*) => {$(
        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                $schema.build().into()
            }
        }

        impl ToSchema for $name {}
    )*};
}

schemas! {
    Address: text("An account's address on its chain", "0x4D52380D3191274a04846c89c069E6C3F2Ed94e4");
    ProgramId: hash("A program: the item hash of its PROGRAM message");
    FileHash: hash("The SHA-256 of bytes");
    SnapshotId: text("A snapshot set: the epoch and the number in it", "3-17").pattern(Some("^[0-9]+-[0-9]+$"));
    Epoch: number("Counts the assignments of a program to nodes").schema_type(Type::Integer);
    MessageTime: number("Seconds since 1970 by the sender's clock; ISO 8601 text is read as well")
        .maximum(Some(MessageTime::MAX));
}

/// A signature in the forms that [`crate::message::Envelope`] reads.
pub(crate) fn signature() -> Schema {
    OneOfBuilder::new()
        .description(Some("By the sender; shown as a text. An account of Solana may send an object in its place."))
        .item(ObjectBuilder::new().schema_type(SchemaType::from_iter([Type::String, Type::Null])))
        .item(ObjectBuilder::new().schema_type(Type::Object))
        .build()
        .into()
}

fn text(what: &str, example: &str) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String).description(Some(what)).examples([example])
}

fn hash(what: &str) -> ObjectBuilder {
    text(what, &"5f".repeat(32)).pattern(Some("^[0-9a-fA-F]{64}$"))
}

fn number(what: &str) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::Number).description(Some(what)).minimum(Some(0))
}

/// The words of [`crate::message::MessageType`].
pub const MESSAGE_TYPES: [&str; 7] = ["AGGREGATE", "FORGET", "INSTANCE", "POST", "PROGRAM", "STORE", "V-PROGRAM"];

/// One of [`MESSAGE_TYPES`].
pub fn message_type() -> Object {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(MESSAGE_TYPES)).build()
}

/// The words of [`crate::message::Chain`].
pub(crate) fn chain() -> Object {
    text("The word of a chain", "ETH").build()
}

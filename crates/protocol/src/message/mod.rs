//! Aleph messages: the signed envelope and the contents of each type.
//!
//! The item content is kept byte for byte as its sender wrote it: its hash names the message and is what is signed, so it
//! is never serialised again after it was received.

mod content;
mod envelope;
mod error_code;
mod item_type;
mod layout;
pub mod program;
mod signature;
mod time;
mod volume;

pub use aleph_types::chain::Chain;
pub use aleph_types::message::MessageType;
pub use content::{
    AggregateContent, ContentError, ForgetContent, Payment, PaymentKind, PostContent, StoreContent, parse_content,
};
pub use envelope::{Envelope, EnvelopeError, MAX_INLINE_BYTES, MAX_ITEM_CONTENT_CHARS};
pub use error_code::ErrorCode;
pub use item_type::ItemType;
pub use layout::{LayoutError, PlacedVolume, place_volumes};
pub use program::ProgramContent;
pub use time::MessageTime;
pub use volume::{Persistence, Volume, VolumeKind};

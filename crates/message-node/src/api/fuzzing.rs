//! Any bytes as a form, as a query and as a message.

use axum::body::{Body, Bytes};
use axum::extract::{FromRequestParts, Request};
use axum::http::{Uri, header};
use futures_util::stream;
use protocol::api::message_node::{StoredMessage, SubmitRequest};
use protocol::message::{Envelope, ItemType, parse_content, place_volumes};
use rust_decimal::Decimal;

use super::error::Answer;
use super::query::{Params, write_cursor};
use super::receive::{Parts, Sink, read_form};
use super::{posts, receive};
use crate::config::Limits;
use crate::core::content::Content;
use crate::filter::Traits;
use crate::prices::{PriceTable, Slot, VolumeSizes, default_pricing, program_price};
use crate::store::list::{Place, Window};
use crate::view;

/// The body of `POST /messages`, and the part `metadata` of a form.
pub(crate) fn message(bytes: &[u8]) {
    // An error is an answer.
    let _ = receive::read_metadata(bytes);
    let Some(request) = std::str::from_utf8(bytes).ok().and_then(|text| parse_content::<SubmitRequest>(text).ok())
    else {
        return;
    };
    let message = request.message;
    // Contents of all types are read, whether or not the hash is theirs.
    let _ = message.verify_form();
    let text = message.item_content.as_deref();
    shown(&message, text);
    if let Some(Ok(content)) = text.map(|text| Content::parse(message.message_type, text)) {
        Traits::new(&message, Some(&content));
        if let Content::Program(program) = content {
            let _ = place_volumes(&program.volumes);
            program_price(&program, &Largest, &PriceTable::from_aggregate(default_pricing()));
        }
    }
}

/// What lists and streams show of a message is the message.
fn shown(message: &Envelope, text: Option<&str>) {
    let json = view::to_json(message, text);
    let shown: StoredMessage = serde_json::from_str(&json).expect("our own client reads it");
    let inline = message.item_content.clone().filter(|_| message.item_type == ItemType::Inline);
    assert_eq!(shown.envelope, Envelope { item_content: inline, ..message.clone() });
}

/// Files of the size that nothing exceeds.
struct Largest;

impl VolumeSizes for Largest {
    fn size(&self, _: Slot, _: &str, _: bool) -> Option<Decimal> {
        Some(Decimal::from(1_000_000_000_000_u64))
    }
}

/// The query of a list or a stream.
pub(crate) fn query(bytes: &[u8]) {
    let uri = std::str::from_utf8(bytes).ok().and_then(|text| Uri::try_from(format!("/?{text}")).ok());
    let Some(uri) = uri else { return };
    let (mut parts, ()) = Request::builder().uri(uri).body(()).expect("an address is enough").into_parts();
    let Ok(params) = at_once(Params::from_request_parts(&mut parts, &())) else { return };
    let limits = Limits::default();
    let _ = (params.filter(), posts::filter(&params), params.order(), params.history(), params.limit(1000));
    if let Ok(paging) = params.paging(&limits) {
        assert!((1..=limits.page).contains(&paging.per_page));
        if let Window::After(Some(place)) = paging.window {
            returns(place);
        }
    }
    let _ = params.with_page("3.json").paging(&limits);
}

/// A cursor that we write leads to its place.
fn returns(place: Place) {
    let params = Params::from_pairs([("cursor".to_owned(), write_cursor(place.clone()))]);
    let paging = params.paging(&Limits::default()).expect("it is ours");
    assert_eq!(paging.window, Window::After(Some(place)));
}

/// A form with the boundary `X`. It does not matter how it arrives.
pub(crate) fn form(bytes: &[u8]) {
    let whole = received(bytes, bytes.len().max(1));
    for piece in [1, 7, 1000] {
        assert_eq!(received(bytes, piece), whole, "in pieces of {piece}");
    }
    if let Some((file, ..)) = whole {
        assert!(file.len() <= bytes.len());
    }
}

/// The bytes of the file, what it is called, and the message that came with it.
type Received = Option<(Vec<u8>, Option<String>, Option<Envelope>)>;

fn received(bytes: &[u8], piece: usize) -> Received {
    let pieces: Vec<_> =
        bytes.chunks(piece).map(|piece| Ok::<_, std::io::Error>(Bytes::copy_from_slice(piece))).collect();
    let request = Request::builder()
        .header(header::CONTENT_TYPE, "multipart/form-data; boundary=X")
        .body(Body::from_stream(stream::iter(pieces)))
        .expect("it is a request");
    let Parts { file, metadata } = at_once(read_form(request, Collected::default(), |_| Ok(()))).ok()?;
    let (Collected(file), name) = file?;
    Some((file, name, metadata.map(|metadata| metadata.message)))
}

#[derive(Default)]
struct Collected(Vec<u8>);

impl Sink for Collected {
    async fn take(&mut self, bytes: Bytes) -> Answer<()> {
        self.0.extend_from_slice(&bytes);
        Ok(())
    }

    fn taken(&self) -> u64 {
        self.0.len() as u64
    }
}

/// The outcome of something that has everything it needs.
fn at_once<T>(work: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a thread can run tasks");
    }
    RUNTIME.with(|runtime| runtime.block_on(work))
}

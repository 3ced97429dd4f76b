//! The description of the API: an OpenAPI document, made of what stands above the handlers.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::header;
use axum::response::IntoResponse;
use protocol::api::archive::ArchiveCode;
use protocol::api::message_node::ErrorBody;
use protocol::signed_request::{OPERATION_HEADER, PUBKEY_HEADER};
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::schema::{AllOfBuilder, ObjectBuilder, Ref, Schema, Type};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, SecurityScheme};
use utoipa::openapi::{Info, OpenApi, RefOr};
use utoipa::{IntoResponses, PartialSchema, ToSchema};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};

use crate::node::Node;

/// Where the description is served.
pub(super) const PATH: &str = "/api/v0/openapi.json";

const JSON: &str = "application/json";

/// Routes with their descriptions: there is no way to add the one without the other.
#[derive(Default)]
pub(super) struct Routes(OpenApiRouter<Node>);

impl Routes {
    /// The handlers of one path.
    pub(super) fn add(self, route: UtoipaMethodRouter<Node>) -> Self {
        Self(self.0.routes(route))
    }

    /// The same under another path.
    pub(super) fn also(self, path: &str, (schemas, mut paths, handlers): UtoipaMethodRouter<Node>) -> Self {
        let items = std::mem::take(&mut paths.paths).into_values().map(|item| (path.to_owned(), unnamed(item)));
        paths.paths = items.collect();
        self.add((schemas, paths, handlers))
    }

    /// All of these as well.
    pub(super) fn merge(self, other: Self) -> Self {
        Self(self.0.merge(other.0))
    }

    /// For handlers that count the bytes of bodies themselves.
    pub(super) fn with_any_body(self) -> Self {
        Self(self.0.layer(DefaultBodyLimit::disable()))
    }

    /// The routes, and the description of all of them.
    pub(super) fn split(self) -> (Router<Node>, OpenApi) {
        let (router, mut document) = self.0.split_for_parts();
        document.paths.paths.values_mut().flat_map(operations).for_each(may_be_busy);
        document.info = Info::new("Aleph message node", env!("CARGO_PKG_VERSION"));
        document.info.description = Some(ABOUT.to_owned());
        let components = document.components.get_or_insert_default();
        components.schemas.insert(ErrorBody::name().into_owned(), ErrorBody::schema());
        for (name, header) in [("delegation", PUBKEY_HEADER), ("operation", OPERATION_HEADER)] {
            components.add_security_scheme(name, SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new(header))));
        }
        (router, document)
    }
}

const ABOUT: &str = "Accepts, checks, stores and streams Aleph messages; keeps files; answers aggregates, balances and \
    prices. Every answer that is no success has a `code` for programs and a `message` for people, which says what is wrong \
    and what to do.";

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.put, &mut item.post, &mut item.delete].into_iter().flatten()
}

/// Without the name of its operation, which another path has.
fn unnamed(mut item: PathItem) -> PathItem {
    operations(&mut item).for_each(|operation| operation.operation_id = None);
    item
}

/// Whatever is asked for, there may be no room for the answer ([`super::room`]).
fn may_be_busy(operation: &mut Operation) {
    for (status, response) in Busy::responses() {
        operation.responses.responses.entry(status).or_insert(response);
    }
}

static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
    let (_, document) = super::routes().split();
    // Links of Rust lead nowhere here.
    document.to_json().expect("a description is JSON").replace("[`", "`").replace("`]", "`")
});

/// This description.
#[utoipa::path(get, path = PATH, tag = "node",
    responses((status = 200, description = "An OpenAPI document", body = serde_json::Value)))]
pub(super) async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, JSON)], DOCUMENT.as_str())
}

/// Answers that are no success, each with its status and the codes that it can have.
macro_rules! refusals {
    ($($name:ident = $status:literal $codes:expr, $what:literal;)*) => {$(
        #[doc = $what]
        pub(super) struct $name;

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                BTreeMap::from([($status.to_owned(), refusal(&$codes, $what))])
            }
        }
    )*};
}

refusals! {
    BadRequest = "400" ["bad_request"], "The request cannot be read.";
    Unpaid = "402" ["payment_required"], "The owner's balance is below the price.";
    Forbidden = "403" ["invalid_signature", "sender_not_allowed"],
        "The message is not signed by its sender, or the node's operator does not name the sender.";
    NotAllowed = "403" ["sender_not_allowed"],
        "The node takes files only with messages of senders that its operator names.";
    NotFound = "404" ["not_found"], "It is not here.";
    TimedOut = "408" ["timed_out"], "The body did not arrive in time.";
    Gone = "410" ["gone"], "It was forgotten or removed.";
    TooLarge = "413" ["too_large"], "It has too many bytes.";
    OutOfRange = "416" ["bad_range"], "The file has no such part.";
    Invalid = "422" ["invalid"], "A parameter or a field is wrong.";
    Rejected = "422" ["invalid", "rejected"], "A field is wrong, or the message is against a rule.";
    TooMuch = "429" ["sender_limit"], "The sender has sent too much; `Retry-After` says when to come back.";
    NoUpgrade = "426" ["upgrade_required"], "The connection cannot become a WebSocket.";
    Failed = "500" ["internal"], "The node failed.";
    Busy = "503" ["busy"],
        "Too much at the same time, or the node's database, a balance, or the process that leads cannot be reached now; \
         `Retry-After` says when to come back.";
}

fn refusal(codes: &[&str], what: &str) -> RefOr<Response> {
    let code = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(codes.iter().copied()));
    let schema = AllOfBuilder::new()
        .item(Ref::from_schema_name(ErrorBody::name()))
        .item(ObjectBuilder::new().property("code", code));
    let content = ContentBuilder::new().schema(Some(Schema::from(schema))).build();
    ResponseBuilder::new().description(what).content(JSON, content).build().into()
}

/// Everything that the archive of snapshots refuses with.
pub(super) struct ArchiveRefusals;

impl IntoResponses for ArchiveRefusals {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let others = [(400, "bad_request"), (500, "internal")];
        let mut by_status: BTreeMap<u16, Vec<&str>> = BTreeMap::new();
        for (status, code) in archive_codes().iter().map(|code| (code.status(), code.as_str())).chain(others) {
            by_status.entry(status).or_default().push(code);
        }
        let refused = |(status, codes): (u16, Vec<&str>)| (status.to_string(), refusal(&codes, "Refused; see `code`."));
        by_status.into_iter().map(refused).collect()
    }
}

/// All of them: their schema lists them.
fn archive_codes() -> Vec<ArchiveCode> {
    let RefOr::T(Schema::Object(schema)) = ArchiveCode::schema() else { unreachable!("words are an object") };
    let words = schema.enum_values.unwrap_or_default();
    words.into_iter().map(|word| serde_json::from_value(word).expect("it is the word of a code")).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn what_is_routed_is_described_and_what_is_described_is_routed() {
        let (router, document) = super::super::routes().split();
        // The router lists its paths in this form only, and has one of its own for all others.
        let router = format!("{router:?}");
        let is_path = |text: &&str| text.starts_with('/') && !text.contains("__private__");
        let routed: BTreeSet<&str> = router.split('"').filter(is_path).collect();
        assert_eq!(routed, document.paths.paths.keys().map(String::as_str).collect());
        assert!(routed.contains("/") && routed.len() > 40, "{routed:?}");
    }

    #[test]
    fn any_operation_may_find_the_node_busy() {
        let (_, mut document) = super::super::routes().split();
        let operations: Vec<_> = document.paths.paths.values_mut().flat_map(operations).collect();
        assert!(operations.len() > 40 && operations.iter().all(|o| o.responses.responses.contains_key("503")));
    }

    #[test]
    fn the_archive_has_all_its_codes() {
        let codes = archive_codes();
        assert!(codes.contains(&ArchiveCode::BadId) && codes.contains(&ArchiveCode::Busy));
        let refusals = ArchiveRefusals::responses();
        assert!(codes.iter().all(|code| refusals.contains_key(&code.status().to_string())));
    }
}

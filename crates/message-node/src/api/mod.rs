//! The HTTP and WebSocket API, in the shapes that existing Aleph clients read.

mod accounts;
mod aggregates;
mod archive;
mod described;
mod download;
mod error;
mod estimate;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod ipfs;
mod list;
mod messages;
mod meta;
mod openapi;
mod parameters;
mod pass_on;
mod path;
mod posts;
mod prices;
mod query;
mod receive;
mod room;
mod stream;
mod submit;
mod upload;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::Response;
use tower_http::cors::{Any, CorsLayer};
use utoipa_axum::routes;

use crate::node::Node;
use error::ApiError;
use openapi::Routes;
pub(crate) use pass_on::Passage;
pub(crate) use room::Room;

/// The largest JSON body: a message with the longest content, every character of it escaped, fits.
const MAX_JSON_BYTES: usize = 4 * 1024 * 1024;

/// All routes.
pub(crate) fn router(node: Node) -> Router {
    let (router, _) = routes().split();
    router
        .layer(DefaultBodyLimit::max(MAX_JSON_BYTES))
        .layer(from_fn_with_state(node.clone(), room::for_answers))
        .layer(from_fn_with_state(node.clone(), pass_on::unless_leader))
        .layer(map_response(close_after_failed_post))
        .fallback(ApiError::no_such_route)
        .method_not_allowed_fallback(ApiError::no_such_method)
        .layer(cors())
        .with_state(node)
}

/// All routes with their descriptions; the paths stand above the handlers.
fn routes() -> Routes {
    Routes::default()
        .add(routes!(openapi::openapi))
        .add(routes!(meta::health))
        .add(routes!(meta::status_page))
        .also("/", routes!(meta::status_page))
        .add(routes!(meta::metrics))
        .add(routes!(meta::version))
        .also("/version", routes!(meta::version))
        .add(routes!(meta::public_info))
        .add(routes!(meta::channels))
        .also("/api/v0/channels/list.json", routes!(meta::channels))
        .add(routes!(meta::programs_on_message))
        .add(routes!(submit::submit))
        .add(routes!(list::list))
        .add(routes!(list::list_page))
        .add(routes!(messages::message))
        .add(routes!(messages::content))
        .add(routes!(messages::status))
        .add(routes!(stream::subscribe))
        .add(routes!(posts::list_v0))
        .add(routes!(posts::list_v1))
        .add(routes!(aggregates::of_address))
        .add(routes!(accounts::balance))
        .add(routes!(accounts::files))
        .add(routes!(accounts::balances))
        .add(routes!(prices::of_message))
        .add(routes!(estimate::estimate))
        .merge(storage())
        .merge(snapshots())
}

fn storage() -> Routes {
    // Uploads count their bytes themselves, because the limit depends on what comes with the file.
    let uploads = Routes::default()
        .add(routes!(upload::add_file))
        .add(routes!(upload::add_json))
        .add(routes!(ipfs::add_file))
        .add(routes!(ipfs::add_json))
        .add(routes!(ipfs::add_car))
        .with_any_body();
    Routes::default()
        .add(routes!(download::limits))
        .add(routes!(download::as_json))
        .add(routes!(download::raw))
        .add(routes!(download::metadata))
        .add(routes!(download::count))
        .add(routes!(download::by_message_hash))
        .add(routes!(download::by_ref))
        .add(routes!(download::by_owner_and_ref))
        .merge(uploads)
}

fn snapshots() -> Routes {
    // Streams count their bytes themselves: the limit depends on the volume.
    let streams = Routes::default().add(routes!(archive::fetch, archive::send)).with_any_body();
    Routes::default()
        .add(routes!(archive::list, archive::begin))
        .add(routes!(archive::get, archive::delete))
        .add(routes!(archive::complete))
        .merge(streams)
}

/// Who refuses a body may not have read all of it, and then the connection cannot be used again. Clients are told, so that
/// they do not find out by a failure of their next request.
async fn close_after_failed_post(method: Method, mut response: Response) -> Response {
    if matches!(method, Method::POST | Method::PUT) && !response.status().is_success() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Web pages of any origin may use the API: nothing in it depends on cookies.
fn cors() -> CorsLayer {
    let exposed: [HeaderName; 3] = [header::CONTENT_LENGTH, header::CONTENT_RANGE, header::ETAG];
    CorsLayer::new().allow_origin(Any).allow_methods(Any).allow_headers(Any).expose_headers(exposed)
}

//! The HTTP and WebSocket API, in the shapes that existing Aleph clients read.

mod accounts;
mod aggregates;
mod archive;
mod download;
mod error;
mod estimate;
mod ipfs;
mod list;
mod messages;
mod meta;
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
use axum::routing::{get, post};
use tower_http::cors::{Any, CorsLayer};

use crate::node::Node;
use error::ApiError;
pub(crate) use room::Room;

/// The largest JSON body: a message with the longest content, every character of it escaped, fits.
const MAX_JSON_BYTES: usize = 4 * 1024 * 1024;

/// All routes.
pub(crate) fn router(node: Node) -> Router {
    Router::new()
        .route("/", get(meta::status_page))
        .route("/status", get(meta::status_page))
        .route("/metrics", get(meta::metrics))
        .route("/version", get(meta::version))
        .route("/api/v0/version", get(meta::version))
        .route("/api/v0/info/public.json", get(meta::public_info))
        .route("/api/v0/channels.json", get(meta::channels))
        .route("/api/v0/channels/list.json", get(meta::channels))
        .route("/api/v0/programs/on/message", get(meta::programs_on_message))
        .route("/api/v0/messages", post(submit::submit))
        .route("/api/v0/messages.json", get(list::list))
        .route("/api/v0/messages/page/{page}", get(list::list_page))
        .route("/api/v0/messages/{hash}", get(messages::message))
        .route("/api/v0/messages/{hash}/content", get(messages::content))
        .route("/api/v0/messages/{hash}/status", get(messages::status))
        .route("/api/ws0/messages", get(stream::subscribe))
        .route("/api/v0/posts.json", get(posts::list_v0))
        .route("/api/v1/posts.json", get(posts::list_v1))
        .route("/api/v0/aggregates/{address}", get(aggregates::of_address))
        .route("/api/v0/addresses/{address}/balance", get(accounts::balance))
        .route("/api/v0/addresses/{address}/files", get(accounts::files))
        .route("/api/v0/balances", get(accounts::balances))
        .route("/api/v0/price/{hash}", get(prices::of_message))
        .route("/api/v0/price/estimate", post(estimate::estimate))
        .merge(storage())
        .merge(snapshots())
        .layer(DefaultBodyLimit::max(MAX_JSON_BYTES))
        .layer(from_fn_with_state(node.clone(), room::for_answers))
        .layer(map_response(close_after_failed_post))
        .fallback(ApiError::no_such_route)
        .method_not_allowed_fallback(ApiError::no_such_method)
        .layer(cors())
        .with_state(node)
}

fn storage() -> Router<Node> {
    // Uploads count their bytes themselves, because the limit depends on what comes with the file.
    let uploads = Router::new()
        .route("/api/v0/storage/add_file", post(upload::add_file))
        .route("/api/v0/storage/add_json", post(upload::add_json))
        .route("/api/v0/ipfs/add_file", post(ipfs::add_file))
        .route("/api/v0/ipfs/add_json", post(ipfs::add_json))
        .route("/api/v0/ipfs/add_car", post(ipfs::add_car))
        .layer(DefaultBodyLimit::disable());
    Router::new()
        .route("/api/v0/storage/limits.json", get(download::limits))
        .route("/api/v0/storage/{hash}", get(download::as_json))
        .route("/api/v0/storage/raw/{hash}", get(download::raw))
        .route("/api/v0/storage/metadata/{hash}", get(download::metadata))
        .route("/api/v0/storage/count/{hash}", get(download::count))
        .route("/api/v0/storage/by-message-hash/{hash}", get(download::by_message_hash))
        .route("/api/v0/storage/by-ref/{reference}", get(download::by_ref))
        .route("/api/v0/storage/by-ref/{address}/{reference}", get(download::by_owner_and_ref))
        .merge(uploads)
}

fn snapshots() -> Router<Node> {
    const ALL: &str = "/api/v1/programs/{program}/snapshots";
    let one = |rest: &str| format!("{ALL}/{{id}}{rest}");
    // Streams count their bytes themselves: the limit depends on the volume.
    let streams = Router::new()
        .route(&one("/volumes/{volume}"), get(archive::fetch).put(archive::send))
        .layer(DefaultBodyLimit::disable());
    Router::new()
        .route(ALL, get(archive::list).post(archive::begin))
        .route(&one(""), get(archive::get).delete(archive::delete))
        .route(&one("/complete"), post(archive::complete))
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

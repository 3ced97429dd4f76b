//! The fake network's HTTP and WebSocket side.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::ws::{Message as Frame, WebSocket, WebSocketUpgrade};
use axum::extract::{DefaultBodyLimit, Multipart, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use protocol::message::{Envelope, MessageType, ProgramContent};
use protocol::network::{SETTINGS_ADDRESS, SETTINGS_KEY, VM_IMAGES_KEY};
use protocol::operation::SignedOrder;
use protocol::signed_request::{OPERATION_HEADER, PUBKEY_HEADER, ReceivedRequest, verify};
use protocol::{FileNames, ProgramId};
use serde_json::{Value, json};

use crate::network::{MINIMAL, RUNTIME, Stored, Verdict, World};
use crate::volume::FakeArchive;

type Shared = State<Arc<Mutex<World>>>;

pub(crate) fn router(world: Arc<Mutex<World>>) -> Router {
    Router::new()
        .route("/api/v0/messages/{hash}", get(message))
        .route("/api/v0/messages.json", get(messages))
        .route("/api/v0/messages", post(submit))
        .route("/api/v0/storage/add_file", post(add_file))
        .route("/api/v0/ipfs/add_file", post(add_file))
        .route("/api/v0/storage/limits.json", get(limits))
        .route("/api/v0/price/estimate", post(estimate))
        .route("/api/v0/price/{hash}", get(price))
        .route("/api/v0/addresses/{address}/balance", get(balance))
        .route("/api/v0/aggregates/{address}", get(aggregates))
        .route("/api/v1/vms/{hash}", get(one_vm))
        .route("/api/v1/vms", get(vms))
        .route("/api/v1/nodes", get(nodes))
        .route("/api/v1/orders", post(order))
        .route("/api/v1/programs/{hash}/snapshots", get(archive))
        .route("/api/v1/programs/{hash}/snapshots/{id}/volumes/{key}", get(archived_stream))
        .route("/health", get(health))
        .route("/vm/{hash}", get(by_path))
        .route("/", get(by_host))
        .route("/control/machine/{hash}/logs", get(logs))
        .route("/control/machine/{hash}/stream_logs", get(stream_logs))
        .layer(DefaultBodyLimit::disable())
        .with_state(world)
}

async fn archive(State(world): Shared) -> Response {
    let world = world.lock().unwrap();
    match &world.archive.refusal {
        Some((status, refusal)) => (*status, Json(refusal.clone())).into_response(),
        None => Json(world.archive.list.clone()).into_response(),
    }
}

async fn archived_stream(State(world): Shared, Path((_, id, key)): Path<(String, String, String)>) -> Response {
    match world.lock().unwrap().archive.stream(&id, &key) {
        Some((digest, bytes)) => ([(FakeArchive::digest_header(), digest)], bytes).into_response(),
        None => or_404(None),
    }
}

fn or_404(value: Option<Value>) -> Response {
    match value {
        Some(value) => Json(value).into_response(),
        None => (StatusCode::NOT_FOUND, Json(json!({"code": "not_found", "message": "not found"}))).into_response(),
    }
}

async fn message(State(world): Shared, Path(hash): Path<String>) -> Response {
    let mut world = world.lock().unwrap();
    world.events.push(format!("GET message {}", &hash[..8.min(hash.len())]));
    or_404(world.message(&hash))
}

async fn messages(State(world): Shared, Query(query): Query<HashMap<String, String>>) -> Response {
    let mut world = world.lock().unwrap();
    let fits = |stored: &Stored| {
        let content = stored.content();
        let one_of = |name: &str, value: &str| {
            query.get(name).is_none_or(|list| list.split(',').any(|item| item.eq_ignore_ascii_case(value)))
        };
        let wanted = query.get("msgStatuses").map_or("processed,removing", String::as_str);
        let in_force = match stored.verdict {
            Verdict::Processed => wanted.contains("processed"),
            Verdict::Removing(_) => wanted.contains("removing"),
            _ => false,
        };
        stored.forgotten_by.is_none()
            && (in_force || query.get("msgStatuses").is_some_and(|statuses| statuses.contains("rejected")))
            && one_of("msgTypes", &stored.envelope.message_type.to_string())
            && one_of("owners", content["address"].as_str().unwrap_or_default())
            && one_of("refs", content["ref"].as_str().unwrap_or_default())
    };
    let hashes: BTreeMap<i64, String> = world
        .messages
        .values()
        .filter(|stored| fits(stored))
        .map(|stored| (-stored.envelope.time.as_micros(), stored.envelope.item_hash.clone()))
        .collect();
    let list: Vec<Value> =
        hashes.into_values().filter_map(|hash| Some(world.message(&hash)?["message"].clone())).collect();
    Json(json!({"messages": list, "pagination_per_page": 200, "next_cursor": null})).into_response()
}

async fn submit(State(world): Shared, Json(body): Json<Value>) -> Response {
    let envelope: Envelope = serde_json::from_value(body["message"].clone()).unwrap();
    assert_eq!(body["sync"], true, "the client waits for the decision");
    let mut world = world.lock().unwrap();
    let (hash, kind) = (envelope.item_hash.clone(), envelope.message_type);
    world.events.push(format!("POST {kind}"));
    if let Some(busy) = world.busy() {
        return busy;
    }
    let (status, word) = match world.submit(envelope) {
        Verdict::Processed | Verdict::Removing(_) => {
            world.process(&hash);
            (StatusCode::OK, "processed")
        }
        Verdict::Pending(..) => (StatusCode::ACCEPTED, "pending"),
        Verdict::Rejected(..) => (StatusCode::UNPROCESSABLE_ENTITY, "rejected"),
    };
    if world.lost > 0 {
        world.lost -= 1;
        return (StatusCode::BAD_GATEWAY, "lost").into_response();
    }
    let publication = json!({"status": "success", "failed": []});
    (status, Json(json!({"publication_status": publication, "message_status": word}))).into_response()
}

async fn add_file(State(world): Shared, uri: Uri, mut form: Multipart) -> Response {
    let (mut metadata, mut file) = (None, None);
    while let Some(field) = form.next_field().await.unwrap() {
        match field.name().unwrap() {
            "metadata" => metadata = Some(serde_json::from_str::<Value>(&field.text().await.unwrap()).unwrap()),
            "file" => file = Some(field.bytes().await.unwrap()),
            other => panic!("unknown part {other}"),
        }
    }
    let (metadata, file): (Value, Bytes) = (metadata.unwrap(), file.unwrap());
    let mut world = world.lock().unwrap();
    let by_cid = uri.path().contains("ipfs");
    world.events.push(if by_cid { "POST ipfs file" } else { "POST file" }.to_owned());
    if let Some(busy) = world.busy() {
        return busy;
    }
    if file.len() > world.largest_file {
        let error = json!({"code": "too_large", "message": "the file is too large"});
        return (StatusCode::PAYLOAD_TOO_LARGE, Json(error)).into_response();
    }
    if let Some(errors) = &world.file_price {
        let error = json!({"code": "payment_required", "message": "too expensive", "details": {"errors": errors}});
        return (StatusCode::PAYMENT_REQUIRED, Json(error)).into_response();
    }
    let names = FileNames::of(&file);
    let (item_type, hash) = if by_cid { ("ipfs", names.v0) } else { ("storage", names.sha256.into()) };
    let hash = hash.to_string();
    let envelope: Envelope = serde_json::from_value(metadata["message"].clone()).unwrap();
    let content: Value = serde_json::from_str(envelope.item_content.as_deref().unwrap()).unwrap();
    assert_eq!(content["item_hash"], hash.as_str(), "the message names the file's own hash");
    assert_eq!(content["item_type"], item_type);
    world.files.insert(hash.clone(), file.to_vec());
    let message = envelope.item_hash.clone();
    match world.submit(envelope) {
        Verdict::Processed | Verdict::Removing(_) => world.process(&message),
        Verdict::Pending(..) => {}
        Verdict::Rejected(..) => {
            let error = json!({"code": "rejected", "message": "the message was rejected"});
            return (StatusCode::UNPROCESSABLE_ENTITY, Json(error)).into_response();
        }
    }
    Json(json!({"status": "success", "hash": hash})).into_response()
}

async fn limits(State(world): Shared) -> Response {
    let world = world.lock().unwrap();
    let limits = |most| json!({"storage": {"max_file_size": most}, "ipfs": {"max_upload_file_size": world.ipfs_limit}});
    or_404(world.announced_limit.map(limits))
}

fn price_of(cost: f64) -> Value {
    json!({"required_tokens": cost, "payment_type": "hold", "cost": format!("{cost:.18}"), "detail": [], "charged_address": "0xa"})
}

async fn estimate(State(world): Shared, Json(body): Json<Value>) -> Response {
    let mut world = world.lock().unwrap();
    world.events.push("POST estimate".to_owned());
    let envelope: Envelope = serde_json::from_value(body["message"].clone()).unwrap();
    let content = envelope.item_content.as_deref().unwrap();
    ProgramContent::parse(content).unwrap();
    assert!(envelope.signature.is_none(), "a question is no message");
    let is_new = !content.contains("replaces");
    assert_eq!(is_new, content.contains(r#""estimated_size_mib":1"#), "the size of new code is told: {content}");
    Json(price_of(world.cost)).into_response()
}

async fn price(State(world): Shared, Path(_): Path<String>) -> Response {
    Json(price_of(world.lock().unwrap().cost)).into_response()
}

async fn balance(State(world): Shared, Path(address): Path<String>) -> Response {
    let world = world.lock().unwrap();
    let details = json!({"ETH": world.balance});
    Json(json!({"address": address, "balance": world.balance, "details": details, "locked_amount": world.locked}))
        .into_response()
}

async fn aggregates(
    State(world): Shared,
    Path(file): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let world = world.lock().unwrap();
    let images = json!({
        "runtimes": {"python3": {"hash": RUNTIME, "display_name": "Python 3.11"}, "minimal": {"hash": MINIMAL}},
        "defaults": {"runtime": "python3"},
    });
    let document = match query["keys"].as_str() {
        SETTINGS_KEY => world.settings.clone(),
        VM_IMAGES_KEY => Some(images),
        other => panic!("unknown key {other}"),
    };
    assert_eq!(file, format!("{SETTINGS_ADDRESS}.json"));
    or_404(document.map(|document| json!({"address": SETTINGS_ADDRESS, "data": {&query["keys"]: document}})))
}

async fn one_vm(State(world): Shared, Path(hash): Path<String>) -> Response {
    let mut world = world.lock().unwrap();
    world.events.push("GET vm".to_owned());
    let Some(stored) = world.messages.get(&hash) else { return or_404(None) };
    if stored.forgotten_by.is_some() {
        if world.stopping == 0 {
            return or_404(None);
        }
        world.stopping -= 1;
    }
    let answer = if world.vms.len() > 1 { world.vms.remove(0) } else { world.vms[0].clone() };
    or_404(answer.map(|record| named(record, &hash)))
}

fn named(mut record: Value, hash: &str) -> Value {
    record["vm_hash"] = hash.into();
    record["owner"] = "0xa".into();
    record
}

fn page(items: Vec<Value>) -> Response {
    let pagination = json!({"page": 1, "page_size": 200, "total_items": items.len(), "total_pages": 1});
    Json(json!({"items": items, "pagination": pagination})).into_response()
}

async fn vms(State(world): Shared) -> Response {
    let world = world.lock().unwrap();
    let programs = world.messages.values().filter(|stored| stored.envelope.message_type == MessageType::Program);
    let hashes = programs.map(|stored| stored.envelope.item_hash.clone());
    page(hashes.filter_map(|hash| Some(named(world.vms[0].clone()?, &hash))).collect())
}

async fn nodes(State(world): Shared) -> Response {
    page(world.lock().unwrap().nodes.clone())
}

async fn health(State(world): Shared) -> Response {
    let address = world.lock().unwrap().scheduler.clone();
    let health = json!({"status": "ok", "address": address, "message_node": "ok", "nodes_healthy": 1, "programs": 1});
    Json(health).into_response()
}

async fn order(State(world): Shared, Json(signed): Json<SignedOrder>) -> Response {
    let mut world = world.lock().unwrap();
    let (order, by) =
        signed.read(&world.scheduler, chrono::Utc::now()).expect("the client signs orders for this scheduler");
    world.orders.push((order.operation, by));
    match world.refusal.clone() {
        Some(why) => (StatusCode::CONFLICT, Json(json!({"code": "conflict", "message": why}))).into_response(),
        None => Json(json!({"status": "done"})).into_response(),
    }
}

async fn by_path(State(world): Shared, Path(_): Path<String>) -> Response {
    gateway(&mut world.lock().unwrap())
}

async fn by_host(State(world): Shared, headers: HeaderMap) -> Response {
    let label = headers["host"].to_str().unwrap().split('.').next().unwrap();
    ProgramId::from_host_label(label).expect("the program's host");
    gateway(&mut world.lock().unwrap())
}

fn gateway(world: &mut World) -> Response {
    world.events.push("GET program".to_owned());
    let status = if world.gateway.len() > 1 { world.gateway.remove(0) } else { world.gateway[0] };
    (StatusCode::from_u16(status).unwrap(), "hello").into_response()
}

/// Checks a signed request as a compute node does.
fn admit(world: &World, pubkey: Option<&str>, operation: Option<&str>, path: &str) -> Result<(), (StatusCode, String)> {
    let request = ReceivedRequest { pubkey, operation, method: "GET", path, domain: "127.0.0.1" };
    let sender = verify(&request, chrono::Utc::now()).map_err(|e| (StatusCode::UNAUTHORIZED, e.to_string()))?;
    match &world.log_reader {
        Some(reader) if *reader != sender => Err((StatusCode::FORBIDDEN, "Unauthorized sender".to_owned())),
        _ => Ok(()),
    }
}

async fn logs(
    State(world): Shared,
    uri: Uri,
    headers: HeaderMap,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let mut world = world.lock().unwrap();
    world.events.push(format!("GET logs {}", uri.query().unwrap_or_default()));
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if let Err((status, text)) = admit(&world, header(PUBKEY_HEADER), header(OPERATION_HEADER), uri.path()) {
        return (status, text).into_response();
    }
    let tail = query.get("tail").map_or(usize::MAX, |tail| tail.parse().unwrap());
    let start = world.log.len().saturating_sub(tail);
    Json(&world.log[start..]).into_response()
}

async fn stream_logs(State(world): Shared, uri: Uri, upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(move |socket| stream(world, uri.path().to_owned(), socket))
}

async fn stream(world: Arc<Mutex<World>>, path: String, mut socket: WebSocket) {
    let Some(Ok(Frame::Text(first))) = socket.recv().await else { panic!("the client speaks first") };
    let first: Value = serde_json::from_str(&first).unwrap();
    let header = |name: &str| first["auth"][name].to_string();
    let (admitted, frames) = {
        let mut world = world.lock().unwrap();
        world.events.push("stream opened".to_owned());
        let admitted = admit(&world, Some(&header(PUBKEY_HEADER)), Some(&header(OPERATION_HEADER)), &path);
        let frames = if world.streams.is_empty() { Vec::new() } else { world.streams.remove(0) };
        (admitted, frames)
    };
    let status = match admitted {
        Ok(()) => json!({"status": "connected"}),
        Err((_, reason)) => json!({"status": "failed", "reason": reason}),
    };
    for frame in std::iter::once(status).chain(frames) {
        socket.send(Frame::Text(frame.to_string().into())).await.unwrap();
    }
}

//! An S3-compatible service instead of a folder: a small one, with what the archive uses of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use aleph_message_node::{Bucket, StoragePlace};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Query, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use protocol::api::archive::ArchiveCode;

use super::world::{World, bytes_of, code};

#[derive(Default)]
struct Contents {
    objects: BTreeMap<String, Bytes>,
    parts: BTreeMap<(String, u32), Bytes>,
    most_parts: usize,
}

#[derive(Clone, Default)]
struct FakeS3(Arc<Mutex<Contents>>);

impl FakeS3 {
    async fn start(self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(answer).with_state(self);
        tokio::spawn(async move { axum::serve(listener, router).await });
        url
    }
}

async fn answer(State(s3): State<FakeS3>, Query(query): Query<HashMap<String, String>>, request: Request) -> Response {
    let (method, key) = (request.method().clone(), request.uri().path().to_owned());
    assert!(request.headers()[header::AUTHORIZATION].to_str().unwrap().contains("AWS4-HMAC-SHA256 Credential=id/"));
    let body = axum::body::to_bytes(request.into_body(), 64 << 20).await.unwrap();
    let mut contents = s3.0.lock().unwrap();
    let etag = [(header::ETAG, "\"e\"")];
    match (method, query.get("uploadId"), query.get("list-type")) {
        (Method::GET, None, Some(_)) => list(&contents, &query["prefix"]).into_response(),
        (Method::POST, None, None) if query.contains_key("uploads") => {
            "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>".into_response()
        }
        (Method::PUT, Some(_), None) => {
            contents.parts.insert((key, query["partNumber"].parse().unwrap()), body);
            etag.into_response()
        }
        (Method::POST, Some(_), None) => {
            let parts = contents.parts.extract_if(.., |(of, _), _| *of == key).map(|(_, part)| part);
            let parts: Vec<_> = parts.collect();
            contents.most_parts = contents.most_parts.max(parts.len());
            contents.objects.insert(key, parts.concat().into());
            "<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>".into_response()
        }
        (Method::DELETE, Some(_), None) => {
            contents.parts.retain(|(of, _), _| *of != key);
            StatusCode::NO_CONTENT.into_response()
        }
        (Method::PUT, None, None) => {
            contents.objects.insert(key, body);
            etag.into_response()
        }
        (Method::GET, None, None) => match contents.objects.get(&key) {
            Some(object) => {
                let modified = [(header::LAST_MODIFIED, "Sun, 22 Nov 2026 10:00:00 GMT")];
                (etag, modified, object.clone()).into_response()
            }
            None => StatusCode::NOT_FOUND.into_response(),
        },
        (Method::DELETE, None, None) => {
            contents.objects.remove(&key);
            StatusCode::NO_CONTENT.into_response()
        }
        other => panic!("{other:?} {key} {query:?}"),
    }
}

fn list(contents: &Contents, prefix: &str) -> String {
    let entry = |(key, object): (&String, &Bytes)| {
        let key = key.strip_prefix("/bucket/").filter(|key| key.starts_with(prefix))?;
        let size = object.len();
        Some(format!(
            "<Contents><Key>{key}</Key><Size>{size}</Size><LastModified>2026-11-22T10:00:00.000Z</LastModified>\
             <ETag>e</ETag></Contents>"
        ))
    };
    let entries: String = contents.objects.iter().filter_map(entry).collect();
    format!("<ListBucketResult>{entries}</ListBucketResult>")
}

#[tokio::test]
async fn sets_are_kept_in_a_bucket_below_a_prefix() {
    let s3 = FakeS3::default();
    let settings = [
        ("AWS_ENDPOINT", s3.clone().start().await),
        ("AWS_ALLOW_HTTP", "true".to_owned()),
        ("AWS_REGION", "somewhere".to_owned()),
        ("AWS_ACCESS_KEY_ID", "id".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "secret".to_owned()),
        ("AWS_DISABLE_BULK_DELETE", "true".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value));
    let bucket = Bucket::new("s3://bucket/below/here", settings).unwrap();
    let world = World::with(|config| config.archive.place = Some(StoragePlace::S3(bucket))).await;
    let content = bytes_of(1, 9_000_000);
    world.archive(1, None, &content).await;
    world.archive(2, Some(1), b"difference").await;
    assert_eq!(world.get(&world.node, 1, "data").await.unwrap(), content);
    {
        let mut contents = s3.0.lock().unwrap();
        // Where several processes use it, it has a name.
        contents.objects.remove("/bucket/below/here/place");
        assert_eq!((contents.objects.len(), contents.most_parts), (6, 2));
        assert!(contents.objects.keys().all(|key| key.starts_with(&format!("/bucket/below/here/{}/", world.program))));
        assert!(contents.objects.values().all(|object| !object.windows(64).any(|window| window == &content[..64])));
        let key = protocol::api::archive::volume_key("data");
        let stream = contents.objects.iter_mut().find(|(name, _)| name.contains(&format!("3-2/{key}"))).unwrap().1;
        let mut changed = stream.to_vec();
        changed[20] ^= 1;
        *stream = changed.into();
    }
    assert_eq!(code(world.get(&world.node, 2, "data").await), ArchiveCode::Damaged);
    for sequence in [2, 1] {
        world.node.delete(&world.program, world.epoch, world.id(sequence)).await.unwrap();
    }
    assert!(s3.0.lock().unwrap().objects.is_empty());
    assert!(world.objects().is_empty(), "nothing is in the data directory");
}

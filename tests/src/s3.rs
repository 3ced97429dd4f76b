//! A server of the S3 protocol: `s3s`, which checks signatures, with the objects in a folder.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::net::TcpListener;

/// The one bucket that there is.
const BUCKET: &str = "bucket";
const ACCESS_KEY: &str = "id";
const SECRET_KEY: &str = "a secret of tests";

/// A server that runs as long as the runtime of the test.
pub struct S3 {
    url: String,
    folder: TempDir,
}

impl S3 {
    /// Starts a server with one empty bucket.
    ///
    /// # Panics
    /// When it cannot be started.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory can be made");
        std::fs::create_dir(folder.path().join(BUCKET)).expect("a folder can be made");
        let objects = FileSystem::new(folder.path()).expect("it is a folder");
        let mut service = S3ServiceBuilder::new(objects);
        service.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = service.build();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
        let url = format!("http://{}", listener.local_addr().expect("it listens"));
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let service = service.clone();
                tokio::spawn(async move {
                    // Errors are those of clients that break off.
                    let _ =
                        Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(connection), service).await;
                });
            }
        });
        Self { url, folder }
    }

    /// The URL of a place in the bucket.
    pub fn place(prefix: &str) -> String {
        format!("s3://{BUCKET}/{prefix}")
    }

    /// The environment in which the bucket can be used.
    pub fn environment(&self) -> Vec<(String, String)> {
        let variables = [
            ("AWS_ENDPOINT", self.url.as_str()),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_REGION", "somewhere"),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
        ];
        variables.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
    }

    /// An object that was put there two days ago.
    ///
    /// # Panics
    /// When the disk refuses.
    pub fn put_two_days_ago(&self, key: &str, bytes: &[u8]) {
        let path = self.folder.path().join(BUCKET).join(key);
        std::fs::create_dir_all(path.parent().expect("it is in the bucket")).expect("a folder can be made");
        std::fs::write(&path, bytes).expect("a file can be written");
        let file = std::fs::File::options().append(true).open(path).expect("it was written");
        let then = SystemTime::now() - Duration::from_secs(48 * 3600);
        file.set_modified(then).expect("a file can be made older");
    }

    /// The files that hold what is below a prefix.
    pub fn objects(&self, prefix: &str) -> Vec<PathBuf> {
        let mut folders = vec![self.folder.path().join(BUCKET).join(prefix)];
        let mut objects = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() { folders.push(path) } else { objects.push(path) }
            }
        }
        objects
    }
}

//! A reverse proxy that is nothing but this crate behind hyper, to be measured beside others:
//! `proxy 127.0.0.1:8000 /path/to/socket`.

use std::time::Duration;

use aleph_forward::{Limits, Pool, UnixSocket, Upload, forward};
use http::uri::PathAndQuery;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

const LIMITS: Limits = Limits { head: Duration::from_secs(30), whole: None, client: Duration::from_secs(60) };

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(address), Some(socket)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: proxy ADDRESS SOCKET");
        std::process::exit(2);
    };
    let listener = TcpListener::bind(address).await?;
    let pool = Pool::new(UnixSocket(socket.into()));
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let pool = pool.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let pool = pool.clone();
                async move {
                    let path = request.uri().path_and_query().cloned();
                    let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
                    // Without an answer the connection ends.
                    forward(&pool, request.map(Upload::new), path, LIMITS, ()).await
                }
            });
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(LIMITS.head).max_buf_size(128 << 10);
            let _: Result<(), hyper::Error> = http.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

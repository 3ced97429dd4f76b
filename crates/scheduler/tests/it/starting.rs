//! Starts that fail, and how they say so.

use std::net::TcpListener;
use std::time::Duration;

use aleph_scheduler::{Config, RunError, run};
use lease::LeaseConfig;
use protocol::Account;
use tokio_util::sync::CancellationToken;

use crate::network::{LEASE, Network, Running};

async fn error(config: Config) -> RunError {
    run(config, |_| panic!("it must not start"), CancellationToken::new()).await.unwrap_err()
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let network = Network::new().await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let error = error(Config { listen: taken.local_addr().unwrap(), ..network.config() }).await;
    assert!(matches!(error, RunError::Bind { .. }));
    assert!(error.to_string().contains(&taken.local_addr().unwrap().to_string()), "{error}");
}

#[tokio::test]
async fn a_data_directory_has_one_scheduler() {
    let network = Network::new().await;
    let running = network.start().await;
    let refused = error(network.config()).await;
    assert!(matches!(refused, RunError::Locked(_)), "{refused}");
    running.stop().await;
    network.start().await.stop().await;
}

#[tokio::test]
async fn a_data_directory_that_cannot_be_used_is_named() {
    let network = Network::new().await;
    let file = network.folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = error(Config { data_dir: file.join("data"), ..network.config() }).await;
    assert!(matches!(&error, RunError::DataDir { path, .. } if path.starts_with(&file)), "{error}");
}

#[tokio::test]
async fn a_broken_database_or_key_is_named() {
    let network = Network::new().await;
    std::fs::write(network.folder.path().join("scheduler.key"), "no key").unwrap();
    let refused = error(network.config()).await;
    assert!(matches!(refused, RunError::Key(_)), "{refused}");
    std::fs::remove_file(network.folder.path().join("scheduler.key")).unwrap();
    std::fs::write(network.folder.path().join("scheduler.sqlite"), "no database at all".repeat(50)).unwrap();
    let refused = error(network.config()).await;
    assert!(matches!(refused, RunError::Database { .. }), "{refused}");
}

#[tokio::test]
async fn lease_constants_that_do_not_fit_are_refused() {
    let network = Network::new().await;
    let lease = LeaseConfig { heartbeat: Duration::from_secs(9), ..LEASE };
    let error = error(Config { lease, ..network.config() }).await;
    assert!(matches!(error, RunError::Lease(_)), "{error}");
}

#[tokio::test]
async fn urls_are_checked_at_the_start() {
    let network = Network::new().await;
    for bad in ["127.0.0.1:4024", "ftp://x", "", "http://"] {
        let refused = error(Config { message_node: bad.into(), ..network.config() }).await;
        assert!(refused.to_string().contains("message node's URL"), "{refused}");
        let refused = error(Config { gateway_url: Some(bad.into()), ..network.config() }).await;
        assert!(refused.to_string().contains("gateway's URL"), "{refused}");
    }
}

#[tokio::test]
async fn the_key_stays_the_same() {
    let network = Network::new().await;
    let first = network.start().await;
    let address = first.client.health().await.unwrap().address;
    first.stop().await;
    assert_eq!(*Account::from_file(&network.folder.path().join("scheduler.key")).unwrap().address(), address);
    let second = Running::start(network.config()).await;
    assert_eq!(second.client.health().await.unwrap().address, address);
}

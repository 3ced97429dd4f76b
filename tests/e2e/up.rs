//! `aleph-node up` itself.

use aleph_tests::{Network, UpOptions, free_ports};

async fn complaint(root: &std::path::Path, port: u16, options: &UpOptions) -> String {
    let mut command = Network::command(root, port, options);
    let output = command.stderr(std::process::Stdio::piped()).output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test]
async fn two_networks_in_one_folder_or_on_one_port_are_refused() {
    let options = UpOptions::new(1, &[]);
    let network = Network::up(options.clone()).await;
    let text = complaint(network.root(), free_ports(4), &options).await;
    assert!(text.contains("another `aleph-node up`") && text.contains("--data-dir"), "{text}");
    let folder = tempfile::tempdir().unwrap();
    let text = complaint(folder.path(), network.port(), &options).await;
    assert!(text.contains(&network.port().to_string()) && text.contains("--port"), "{text}");
}

#[tokio::test]
async fn nonsense_is_refused_before_anything_is_started() {
    let folder = tempfile::tempdir().unwrap();
    let options = UpOptions::new(1, &["--lease", "1s"]);
    let text = complaint(folder.path(), free_ports(4), &options).await;
    assert!(text.contains("two heartbeats"), "{text}");
    let options = UpOptions::new(3, &[]);
    let text = complaint(folder.path(), 65_534, &options).await;
    assert!(text.contains("65535"), "{text}");
}

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use message_node::fuzzing::StreamingNode;
use tempfile::TempDir;

static NODE: LazyLock<(StreamingNode, TempDir)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a temporary directory can be made");
    (StreamingNode::start(folder.path()), folder)
});

fuzz_target!(|bytes: &[u8]| NODE.0.receives(bytes));

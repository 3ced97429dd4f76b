//! The client: `aleph`.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    aleph_cli::run(std::env::args_os().collect()).await
}

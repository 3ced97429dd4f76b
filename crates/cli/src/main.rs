//! The client: `aleph`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("error: cannot start: {e}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(aleph_cli::run(std::env::args_os().collect()));
    // After Ctrl-C something may still be packed on another thread: nobody waits for it.
    runtime.shutdown_background();
    code
}

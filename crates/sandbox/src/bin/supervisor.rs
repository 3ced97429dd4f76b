//! `aleph-supervisor DIRECTORY`: owns one sandbox. Started by a compute node's agent, never by hand.

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(directory) = std::env::args_os().nth(1) else {
        eprintln!(
            "usage: aleph-supervisor DIRECTORY (started by aleph-node, which passes a listening socket as standard input)"
        );
        return ExitCode::from(2);
    };
    match aleph_sandbox::supervisor::run(&PathBuf::from(directory)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("aleph-supervisor: {error}");
            ExitCode::FAILURE
        }
    }
}

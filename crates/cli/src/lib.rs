//! The client: `aleph`. The binary is thin; everything is here, so that it can be tested.

pub mod args;
pub mod commands;
pub mod context;
pub mod failure;
pub mod ids;
pub mod keys;
pub mod network;
pub mod output;
pub mod pack;
pub mod price;
pub mod publish;
pub mod runtimes;
pub mod settings;
pub mod signing;
pub mod units;
pub mod waiting;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

use crate::args::Cli;
use crate::context::{Context, Meaning};
use crate::failure::{Code, Report, is_broken_pipe};
use crate::output::Output;
use crate::settings::{Environment, Settings};

/// Runs a command line to its end and gives the process's exit code.
pub async fn run(arguments: Vec<OsString>) -> ExitCode {
    // A wrong command line has no flags yet; programs want their JSON all the same.
    let wants_json = arguments.iter().any(|argument| argument == "--json");
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) if wants_json && error.use_stderr() => {
            let message = error.render().to_string();
            let message = message.trim().trim_start_matches("error: ").to_owned();
            let report = Report { code: Code::Usage, message, hint: None, details: None };
            Output::new(true).error(&report);
            return ExitCode::from(Code::Usage.exit_code());
        }
        Err(error) => {
            // There is nobody left to tell when this cannot be printed.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Code::Usage.exit_code()));
        }
    };
    let out = Output::new(cli.global.json);
    let settings = match Settings::load(&cli.global.flags(), &Environment::of_process()) {
        Ok(settings) => settings,
        Err(failure) => return fail(&out, &Report::of(&failure.into(), |_| None)),
    };
    let context = Context::new(settings, out.clone());
    let result = tokio::select! {
        result = commands::run(&context, cli) => result,
        _ = tokio::signal::ctrl_c() => return interrupted(&context),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => fail(&out, &Report::of(&error, |client| context.hint_for(client))),
    }
}

fn fail(out: &Output, report: &Report) -> ExitCode {
    out.error(report);
    ExitCode::from(report.code.exit_code())
}

fn interrupted(context: &Context) -> ExitCode {
    let hint = match context.interruption.meaning() {
        Meaning::Nothing => None,
        Meaning::Leaves(text) => Some(text),
        Meaning::End => return ExitCode::from(Code::Interrupted.exit_code()),
    };
    fail(&context.out, &Report { code: Code::Interrupted, message: "interrupted".to_owned(), hint, details: None })
}

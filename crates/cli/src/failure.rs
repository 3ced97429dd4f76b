//! Failures as people and programs see them: a code, a sentence, and what to do.

use protocol::client::ClientError;
use serde::Serialize;
use serde_json::Value;

/// What kind of failure; the word that `--json` prints and that decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The command line is wrong.
    Usage,
    /// The client's own files are wrong.
    Config,
    /// There is no key to sign with, or it cannot be used.
    NoKey,
    /// A key would be overwritten.
    KeyExists,
    /// The code cannot be packed.
    BadPath,
    /// The entrypoint is not in the code.
    BadEntrypoint,
    /// The code is larger than the message node takes.
    TooLarge,
    /// Nobody answers.
    Unreachable,
    /// Somebody answered that it will not do it.
    Refused,
    /// Somebody answered something that cannot be read.
    Malformed,
    /// The message, program, runtime or file is not known.
    NotFound,
    /// An abbreviated id that fits several programs.
    Ambiguous,
    /// It belongs to somebody else.
    NotYours,
    /// The program was made to stay as it is.
    NotUpdatable,
    /// The owner's balance is below the price.
    InsufficientBalance,
    /// The message node rejected a message.
    Rejected,
    /// The message was taken back.
    Forgotten,
    /// The network names no scheduler or gateway, and the command needs one.
    NoScheduler,
    /// It did not happen in the time that was given to it. It may still happen.
    TimedOut,
    /// The program does not come up.
    ProgramFailing,
    /// The program does not run on another node, but goes on where it was.
    MoveFailed,
    /// The program does not run with the snapshot, but goes on with what it had.
    RestoreFailed,
    /// A history does not hold.
    BadHistory,
    /// A prompt was answered with no, or Ctrl-C was pressed.
    Interrupted,
    /// Anything else.
    Failed,
}

/// A failure with its code, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What kind.
    pub code: Code,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// Facts for programs.
    pub details: Option<Value>,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None, details: None }
    }

    /// A wrong command line.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Code::Usage, message)
    }

    /// Says what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds facts for programs.
    #[must_use]
    pub fn details(mut self, details: Value) -> Self {
        self.details = Some(details);
        self
    }
}

impl Code {
    /// The process's exit code: 2 for wrong usage, 130 when interrupted, otherwise 1.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Usage => 2,
            Self::Interrupted => 130,
            _ => 1,
        }
    }
}

/// A failure ready to be printed.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What kind.
    pub code: Code,
    /// What is wrong, with its causes.
    pub message: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Facts for programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<Value>,
}

impl Report {
    /// What to tell about an error. `hint_for` knows what to do when some address does not answer.
    pub fn of(error: &anyhow::Error, hint_for: impl FnOnce(&ClientError) -> Option<String>) -> Self {
        let message = format!("{error:#}");
        if let Some(failure) = error.downcast_ref::<Failure>() {
            return Self { code: failure.code, message, hint: failure.hint.clone(), details: failure.details.clone() };
        }
        let Some(client) = error.downcast_ref::<ClientError>() else {
            return Self { code: Code::Failed, message, hint: None, details: None };
        };
        let code = match client {
            ClientError::Unreachable { .. } => Code::Unreachable,
            ClientError::Status { .. } => Code::Refused,
            ClientError::Malformed { .. } => Code::Malformed,
        };
        Self { code, message, hint: hint_for(client), details: None }
    }
}

/// Whether the reader of our standard output went away, as `head` does: no failure, but a reason to stop.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn codes_and_hints_survive_added_context() {
        let failure = Failure::new(Code::NotFound, "no such thing").hint("look elsewhere");
        let error = Err::<(), _>(failure).context("while looking").unwrap_err();
        let report = Report::of(&error, |_| None);
        assert_eq!(report.code, Code::NotFound);
        assert_eq!(report.message, "while looking: no such thing");
        assert_eq!(report.hint.as_deref(), Some("look elsewhere"));
    }

    #[test]
    fn answers_of_servers_have_codes() {
        let error = anyhow::Error::from(ClientError::Unreachable { url: "http://x".into(), cause: "refused".into() });
        let report = Report::of(&error, |_| Some("start it".into()));
        assert_eq!((report.code, report.hint.as_deref()), (Code::Unreachable, Some("start it")));
        assert_eq!(report.code.exit_code(), 1);
        assert_eq!(Code::Usage.exit_code(), 2);
        assert_eq!(serde_json::to_value(Code::InsufficientBalance).unwrap(), "insufficient_balance");
    }
}

//! How a command ends: a closed list of exit codes, so that scripts can tell a wrong file from an
//! absent coordinator from a run that failed.

use std::{fmt, process::ExitCode};

/// The list, as `starling --help` prints it.
pub(crate) const HELP: &str = "\
Exit codes:
    0  what was asked happened
    1  it did not: the run failed or was cancelled, or its state does not allow the command
    3  the run stopped because its privacy budget is spent; its model is saved
   64  wrong arguments, configuration or run file
   65  damaged data: a transferred model does not have its announced digest
   66  no such file, run or worker
   69  the coordinator cannot be reached, or an address cannot be listened on
   70  an internal error, or a process that did not stop cleanly
   73  an output file exists already or cannot be written
   75  the time limit came first: what was done is kept, and the same command goes on
   77  the coordinator does not allow it: no certificate, an ended or revoked one, or another role
  130  interrupted";

/// Why a command failed, as its exit code; after sysexits.h where that has a name for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// What was asked did not happen.
    Failed = 1,
    /// The run's privacy budget is spent.
    Exhausted = 3,
    /// Arguments, configuration or run file (`EX_USAGE`).
    Usage = 64,
    /// Damaged data (`EX_DATAERR`).
    Data = 65,
    /// No such file, run or worker (`EX_NOINPUT`).
    NotFound = 66,
    /// The coordinator or an address (`EX_UNAVAILABLE`).
    Unavailable = 69,
    /// A mistake of ours, or an unclean end (`EX_SOFTWARE`).
    Internal = 70,
    /// An output file (`EX_CANTCREAT`).
    Create = 73,
    /// Time was too short; the same command goes on (`EX_TEMPFAIL`).
    Unfinished = 75,
    /// Not allowed (`EX_NOPERM`).
    Denied = 77,
    /// SIGINT, as shells count it.
    Interrupted = 130,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

/// What a command prints and returns when it fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    /// Empty: nobody is listening any more.
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(code: Code, message: impl fmt::Display) -> Self {
        Self { code, message: message.to_string() }
    }

    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self::new(Code::Usage, message)
    }

    pub(crate) fn internal(message: impl fmt::Display) -> Self {
        Self::new(Code::Internal, message)
    }

    /// Prints the message and gives the exit code.
    pub(crate) fn report(self) -> ExitCode {
        if !self.message.is_empty() {
            use std::io::Write;
            // A closed stderr must not turn a clear exit code into a panic.
            let _ = writeln!(std::io::stderr().lock(), "error: {}", self.message);
        }
        self.code.into()
    }
}

impl From<page::plot::PlotError> for Failure {
    fn from(error: page::plot::PlotError) -> Self {
        match error {
            page::plot::PlotError::Nothing(_) => Self::new(Code::Failed, error),
            page::plot::PlotError::Library(_) => Self::internal(error),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// An error and all that caused it, outermost first: tonic and hyper hide the cause in the source.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}

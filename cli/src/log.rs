//! Logging of the long-lived processes: text for people, JSON lines for collectors.

use crate::exit::Failure;
use clap::ValueEnum;
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Flags of every long-lived process.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct LogArgs {
    /// How log lines look
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// What is logged: a level (error, warn, info, debug, trace) or directives such as
    /// `info,coordinator=debug`
    #[arg(long, value_name = "FILTER", default_value = "info", env = "STARLING_LOG")]
    log: String,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// One line for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging to stderr: stdout belongs to results.
pub(crate) fn init(args: &LogArgs) -> Result<(), Failure> {
    let filter = EnvFilter::builder()
        .parse(&args.log)
        .map_err(|error| Failure::usage(format!("--log `{}`: {error}", args.log)))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match args.log_format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| Failure::internal(format!("cannot start logging: {error}")))
}

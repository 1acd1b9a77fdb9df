//! `starling run …`: submitting, watching and controlling runs, and taking their results away.

pub(crate) mod export;
mod follow;
mod watch;

pub(crate) use export::{Wanted, export};
pub(crate) use follow::{Logged, Seen, follow, verdict};

use crate::{
    client::{Operator, Remote},
    describe,
    exit::Failure,
    life, output, plot,
};
use clap::Subcommand;
use proto::{spec::RunSpec, v1::RunCommand};
use std::path::{Path, PathBuf};

/// Submits, watches and controls runs.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

/// Common arguments of commands about one run.
#[derive(Debug, clap::Args)]
struct One {
    /// The run's id, or its name when only one run has it
    #[arg(value_name = "ID")]
    run: String,
    #[command(flatten)]
    remote: Remote,
}

/// Common arguments of commands that write a file.
#[derive(Debug, clap::Args)]
struct Output {
    /// The file to write
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Replaces the file if it exists
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Checks a run file and hands it to the coordinator; JSON: the run as in `list`, then, with --watch,
    /// its events as in `watch`
    Submit {
        /// The run file (TOML); deploy/samples/run.toml explains every key
        file: PathBuf,
        /// Stays and shows the run until it ends
        #[arg(long)]
        watch: bool,
        #[command(flatten)]
        remote: Remote,
    },
    /// All runs; JSON: one object a line, with id, name, state, committed, rounds, algorithm, model, data,
    /// reason, model_digest
    List {
        #[command(flatten)]
        remote: Remote,
    },
    /// Everything about a run; JSON: an object as in `list`, and spec, metrics, cohort, rejections
    Show(One),
    /// Shows a run's events from the first on, until it ends; JSON: one event a line, with sequence,
    /// time_ms, event and the event's own keys
    Watch {
        #[command(flatten)]
        one: One,
        /// Starts at this event
        #[arg(long, value_name = "SEQUENCE", default_value_t = 0)]
        from: u64,
    },
    /// Holds a run after the present state is safe; JSON: the run as in `list`
    Pause(One),
    /// Lets a paused run go on; JSON: the run as in `list`
    Resume(One),
    /// Ends a run for good; JSON: the run as in `list`
    Cancel(One),
    /// Writes the newest committed model as safetensors, with PyTorch's names; JSON: an object with run,
    /// round, digest, parameters, average, file
    Export {
        #[command(flatten)]
        one: One,
        /// An average of the model that the run keeps ([average] in its file) instead: ema or swa
        #[arg(long, value_name = "NAME")]
        average: Option<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Draws accuracy and loss over the rounds as SVG; JSON: an object with run, rounds, file
    Plot {
        #[command(flatten)]
        one: One,
        #[command(flatten)]
        output: Output,
    },
}

/// Does what was asked about runs.
pub(crate) fn main(args: Args) -> Result<(), Failure> {
    life::runtime()?.block_on(answer(args.what))
}

async fn answer(what: What) -> Result<(), Failure> {
    match what {
        What::Submit { file, watch, remote } => submit(&file, watch, &remote).await,
        What::List { remote } => list(&remote).await,
        What::Show(one) => show(&one).await,
        What::Watch { one, from } => watch::watch(&one.run, from, &one.remote).await,
        What::Pause(one) => control(&one, RunCommand::Pause).await,
        What::Resume(one) => control(&one, RunCommand::Resume).await,
        What::Cancel(one) => control(&one, RunCommand::Cancel).await,
        What::Export { one, average, output } => save(&one, average.as_deref(), &output).await,
        What::Plot { one, output } => draw(&one, &output).await,
    }
}

/// Reads and checks a run file; what is wrong is found here rather than far away.
pub(crate) fn read_spec(file: &Path) -> Result<(String, RunSpec), Failure> {
    let text = output::read_text(file)?;
    let spec = RunSpec::from_toml(&text);
    spec.map(|spec| (text, spec)).map_err(|error| Failure::usage(format!("{}: {error}", file.display())))
}

async fn submit(file: &Path, watch: bool, remote: &Remote) -> Result<(), Failure> {
    let (text, _) = read_spec(file)?;
    let run = Operator::connect(&remote.target).await?.submit(text).await?;
    if remote.json {
        output::line(describe::run_json(&run))?;
    } else {
        output::line(format!("submitted {}: {} rounds of {}", run.id, run.rounds, run.algorithm))?;
    }
    if watch { watch::watch(&run.id, 0, remote).await } else { Ok(()) }
}

async fn list(remote: &Remote) -> Result<(), Failure> {
    let runs = Operator::connect(&remote.target).await?.runs().await?;
    if remote.json {
        return runs.iter().try_for_each(|run| output::line(describe::run_json(run)));
    }
    output::line(if runs.is_empty() { "no runs yet".to_owned() } else { describe::run_table(&runs) })
}

async fn show(one: &One) -> Result<(), Failure> {
    let detail = Operator::connect(&one.remote.target).await?.show(&one.run).await?;
    if one.remote.json {
        return output::line(describe::detail_json(&detail));
    }
    output::line(describe::detail_text(&detail))
}

async fn control(one: &One, command: RunCommand) -> Result<(), Failure> {
    let run = Operator::connect(&one.remote.target).await?.control(&one.run, command).await?;
    if one.remote.json {
        return output::line(describe::run_json(&run));
    }
    output::line(format!("{}: {}", run.id, describe::state(run.state)))
}

async fn save(one: &One, average: Option<&str>, to: &Output) -> Result<(), Failure> {
    output::refuse_existing(&to.to, to.force)?;
    let mut operator = Operator::connect(&one.remote.target).await?;
    let exported = export(&mut operator, Wanted { run: &one.run, average }, &to.to, to.force).await?;
    if one.remote.json {
        return output::line(exported.json(&to.to));
    }
    output::line(exported.text(&to.to))
}

async fn draw(one: &One, to: &Output) -> Result<(), Failure> {
    output::refuse_existing(&to.to, to.force)?;
    let detail = Operator::connect(&one.remote.target).await?.show(&one.run).await?;
    let metrics = describe::parse_metrics(&detail.metrics);
    let id = detail.summary.unwrap_or_default().id;
    output::write_file(&to.to, to.force, &[plot::svg(&id, &metrics)?.as_bytes()])?;
    if one.remote.json {
        return output::line(serde_json::json!({"run": id, "rounds": metrics.len(), "file": to.to}));
    }
    output::line(format!("{}: {} rounds of {id}", to.to.display(), metrics.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Code;

    #[test]
    fn a_run_file_is_checked_before_it_travels() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("run.toml");
        std::fs::write(&file, "name = \"a\"\nrouns = 3\n[model]\nkind = \"linear\"\n[data]\nname = \"d\"\n")
            .unwrap();
        let failure = read_spec(&file).unwrap_err();
        assert_eq!(failure.code, Code::Usage);
        assert!(failure.message.contains("run.toml") && failure.message.contains("`rounds`"), "{failure}");
        assert_eq!(read_spec(&folder.path().join("none.toml")).unwrap_err().code, Code::NotFound);
    }
}

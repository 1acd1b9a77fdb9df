//! Live progress of a run: a bar for its rounds on a terminal, plain lines anywhere else.

use crate::{events, exit::Failure, output, run::Logged};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use proto::event::RunEvent;
use std::{io::IsTerminal, time::Duration};

/// What is shown of a run while it goes on.
#[derive(Debug)]
pub(crate) struct Board {
    /// Hidden unless stderr is a terminal.
    bar: ProgressBar,
    cohort: usize,
    counted: usize,
    result: String,
}

impl Board {
    /// For a run of so many rounds, of which `committed` are done.
    pub(crate) fn new(rounds: u64, committed: u64, show: bool) -> Self {
        let visible = show && std::io::stderr().is_terminal();
        let target = if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(rounds), target);
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} rounds  {elapsed}  {wide_msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_position(committed);
        if visible {
            bar.enable_steady_tick(Duration::from_millis(250));
        }
        Self { bar, cohort: 0, counted: 0, result: String::new() }
    }

    /// So many rounds were done before.
    pub(crate) fn resume(&self, committed: u64) {
        self.bar.set_position(committed);
    }

    /// A line above the bar.
    pub(crate) fn line(&self, text: &str) -> Result<(), Failure> {
        self.bar.suspend(|| output::line(text))
    }

    /// A remark above the bar that is no part of the result.
    pub(crate) fn note(&self, text: &str) {
        self.bar.suspend(|| output::note(text));
    }

    /// Moves the bar.
    pub(crate) fn event(&mut self, event: &RunEvent) {
        match event {
            RunEvent::RoundOpened { cohort, .. } => (self.cohort, self.counted) = (cohort.len(), 0),
            RunEvent::UpdateApplied { .. } => self.counted += 1,
            RunEvent::UpdateBuffered { buffered, buffer_size, .. } => {
                (self.counted, self.cohort) = (*buffered, *buffer_size);
            }
            RunEvent::RoundShort { substitutes, .. } => self.cohort += substitutes.len(),
            RunEvent::RoundCommitted { round, .. } => self.bar.set_position(round + 1),
            RunEvent::RoundMetrics { metrics } => {
                self.result = match (metrics.eval_accuracy, metrics.train_loss) {
                    (Some(accuracy), _) => format!("accuracy {}", crate::table::percent(accuracy)),
                    (None, Some(loss)) => format!("train loss {loss:.4}"),
                    (None, None) => String::new(),
                };
            }
            RunEvent::Waiting { .. } => return self.bar.set_message("waiting for workers"),
            RunEvent::Paused {} => return self.bar.set_message("paused"),
            _ => {}
        }
        self.bar.set_message(format!("updates {}/{}  {}", self.counted, self.cohort, self.result));
    }

    /// A line and the bar.
    pub(crate) fn show(&mut self, logged: &Logged) -> Result<(), Failure> {
        if let Some(event) = &logged.event {
            self.event(event);
        }
        self.line(&logged.line())
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Logged {
    /// The event in words; as it came where this version does not know its kind.
    pub(crate) fn line(&self) -> String {
        self.event.as_ref().map_or_else(|| self.body.to_string(), events::line)
    }
}

//! `starling privacy curve`: the two pictures of a run's privacy.

use super::{given::Run, picture};
use crate::{exit::Failure, output};
use indicatif::ProgressBar;
use privacy::{
    Ledger,
    accountants::{gaussian, report},
    trade_off,
};
use serde_json::json;
use std::{num::NonZeroU64, path::PathBuf};

/// ε at which the trade-off curve has tangents, up to the first whose δ is below 1e-9.
const TANGENTS: u32 = 48;
/// Points of ε over the rounds.
const ROUNDS: u64 = 24;

/// Draws the trade-off curve of a run and its ε over the rounds, as SVG.
///
/// The trade-off curve is the least share of errors of the second kind for each share of the first kind,
/// when someone tells a data set from a neighbouring one. For sampled noise it is the best that the
/// tangents at 48 values of ε prove.
///
/// JSON: one object with file, trade_off (list of [type_1, type_2]) and epsilon (list of [rounds, epsilon]).
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    run: Run,
    /// The SVG file
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Replaces the file
    #[arg(long)]
    force: bool,
    /// Prints JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Computes, draws and says where.
pub(crate) fn main(args: &Args) -> Result<(), Failure> {
    output::refuse_existing(&args.to, args.force)?;
    let (run, ledger) = (&args.run, args.run.ledger()?);
    // Draws itself on a terminal only.
    let bar = ProgressBar::new(u64::from(TANGENTS) + ROUNDS);
    let trade_off = trade_off(&ledger, &bar);
    let epsilon = over_rounds(run, &bar)?;
    bar.finish_and_clear();
    let text = picture::svg(&run.text(), &trade_off, &epsilon, run.delta)?;
    output::write_file(&args.to, args.force, &[text.as_bytes()])?;
    if args.json {
        return output::line(json!({"file": args.to, "trade_off": trade_off, "epsilon": epsilon}));
    }
    output::line(format!("{}: the trade-off curve, and epsilon over the rounds", args.to.display()))
}

/// Errors of the second kind over those of the first.
fn trade_off(ledger: &Ledger, bar: &ProgressBar) -> Vec<(f64, f64)> {
    let errors = (0..=200).map(|i| f64::from(i) / 200.0);
    if let Some(mu) = gaussian::mu(ledger, 1) {
        return errors.map(|a| (a, trade_off::gaussian(mu, a))).collect();
    }
    let most = report::epsilon(ledger, 1e-9, 1).epsilon.min(50.0);
    let mut profile = Vec::new();
    for i in 0..TANGENTS {
        // Dense near 0, where most of the curve is.
        let epsilon = most * (f64::from(i) / f64::from(TANGENTS - 1)).powi(2);
        profile.push((epsilon, report::delta(ledger, epsilon, 1).0));
        bar.inc(1);
    }
    errors.map(|a| (a, trade_off::from_profile(&profile, a))).collect()
}

fn over_rounds(run: &Run, bar: &ProgressBar) -> Result<Vec<(u64, f64)>, Failure> {
    let mut points: Vec<(u64, f64)> = Vec::new();
    let most = run.rounds.get();
    for i in 1..=ROUNDS {
        bar.inc(1);
        let rounds = (u128::from(most) * u128::from(i) / u128::from(ROUNDS)) as u64;
        let Some(count) = NonZeroU64::new(rounds) else { continue };
        if points.last().is_none_or(|last| last.0 < rounds) {
            let ledger = run.setting.ledger(run.noise_multiplier, count)?;
            points.push((rounds, report::epsilon(&ledger, run.delta, 1).epsilon));
        }
    }
    Ok(points)
}

//! Without rounds, too: no wait without an end, and no more models on the disk than somebody needs.

use crate::Millis;
use coordinator::machine::{Ongoing, Phase, Token};
use std::collections::{BTreeMap, BTreeSet};

/// The machine of a run without rounds stands in `phase` of version `round`; `timers` are those that will go
/// off, `said` whether it was published that somebody is missing.
///
/// # Errors
/// If nothing will end a task, or nobody trains and nothing will change that.
pub fn tasks(
    (phase, round): (&Phase, u64),
    ongoing: &Ongoing,
    (timers, said): (&BTreeSet<(Millis, Token)>, bool),
) -> Result<(), String> {
    if *phase != Phase::Training {
        return Ok(());
    }
    let any = |which: &dyn Fn(&Token) -> bool| timers.iter().any(|(_, token)| which(token));
    let ends = |task: &str, of: u64| {
        any(&|token| matches!(token, Token::Task { worker, version } if worker == task && *version == of))
    };
    if let Some((worker, version)) = ongoing.tasks.iter().find(|(worker, version)| !ends(worker, **version)) {
        return Err(format!("{worker} trains version {version}, and nothing gives that up"));
    }
    let asks = any(&|token| matches!(token, Token::Deadline { round: of, .. } if *of == round));
    let comes = any(&|token| matches!(token, Token::Rejoin { .. }));
    if ongoing.tasks.is_empty() && !(said || asks || comes) {
        return Err(format!("nobody trains version {round}, and nothing says so or ends it"));
    }
    Ok(())
}

/// The older models that the disk keeps are those of tasks and buffered updates, and all of them are there:
/// `versions` by number, `here` whether a model can be fetched.
///
/// # Errors
/// If a model is kept that nobody needs, or one is missing.
pub fn versions<D: Copy>(
    versions: &BTreeMap<u64, D>,
    ongoing: &Ongoing,
    here: impl Fn(D) -> bool,
) -> Result<(), String> {
    let buffered = ongoing.buffer.iter().map(|one| one.version);
    let needed: BTreeSet<u64> = ongoing.tasks.values().copied().chain(buffered).collect();
    let kept: BTreeSet<u64> = versions.keys().copied().collect();
    if kept != needed {
        return Err(format!("the models of versions {kept:?} are kept, needed are {needed:?}"));
    }
    match versions.iter().find(|(_, digest)| !here(**digest)) {
        Some((version, _)) => Err(format!("the model of version {version} is needed and gone")),
        None => Ok(()),
    }
}

//! No wait without an end: whatever and whomever the round machine waits for, a timer will end it, or
//! it was said what is missing.

use crate::Millis;
use coordinator::machine::{Phase, Token};
use std::collections::BTreeSet;

/// What the machine's surroundings know.
#[derive(Debug, Clone)]
pub struct Outside<'a> {
    /// A commit is on its way to the disk.
    pub committing: bool,
    /// It was published which workers are missing, since the last round opened.
    pub said_waiting: bool,
    /// Those that the round waits for and that are not connected.
    pub lost: Vec<&'a str>,
}

/// The machine stands in `phase` of `round`; `timers` are those that will go off.
///
/// # Errors
/// If nothing will end the phase.
pub fn armed(
    (phase, round): (&Phase, u64),
    timers: &BTreeSet<(Millis, Token)>,
    outside: &Outside<'_>,
) -> Result<(), String> {
    let any = |which: &dyn Fn(&Token) -> bool| timers.iter().any(|(_, token)| which(token));
    let ends = match phase {
        Phase::Training => any(&|token| matches!(token, Token::Deadline { round: of, .. } if *of == round)),
        Phase::Evaluating => {
            any(&|token| matches!(token, Token::Evaluation { round: of } if of + 1 == round))
        }
        Phase::Committing => outside.committing,
        Phase::Waiting => outside.said_waiting,
        // An operator ends it.
        Phase::Paused | Phase::Ended(_) => true,
    };
    let given_up = |lost: &str| any(&|token| matches!(token, Token::Rejoin { worker, .. } if worker == lost));
    if let Some(lost) = outside.lost.iter().find(|lost| !given_up(lost)) {
        return Err(format!("{lost} is lost and waited for, and nothing gives it up"));
    }
    if ends { Ok(()) } else { Err(format!("nothing ends `{}` of round {round}", phase.label())) }
}

//! `starling run watch`: a run's events as they happen, with an exit code that tells how it ended.

use super::follow::{Seen, follow, verdict};
use crate::{
    client::{Operator, Remote},
    exit::{Code, Failure},
    output,
    progress::Board,
};

/// Shows a run until it ends, or until Ctrl-C, which leaves the run alone.
pub(super) async fn watch(run: &str, from: u64, remote: &Remote) -> Result<(), Failure> {
    let summary = Operator::connect(&remote.target).await?.show(run).await?.summary.unwrap_or_default();
    // A name may be given to a second run while this one is watched; the id stays.
    let id = if summary.id.is_empty() { run.to_owned() } else { summary.id };
    let mut board = Board::new(summary.rounds, 0, !remote.json);
    let show = |seen: Seen<'_>| match seen {
        Seen::Event(logged) if remote.json => output::line(logged.json()),
        Seen::Event(logged) => board.show(logged),
        Seen::Lost(why) => {
            board.note(&format!("connection lost ({why}); trying again"));
            Ok(())
        }
        Seen::Back => {
            board.note("connected again");
            Ok(())
        }
    };
    let ended = tokio::select! {
        biased;
        ended = follow(&remote.target, &id, from, show) => ended,
        _ = tokio::signal::ctrl_c() => {
            let text = format!("no longer watching; run {id} goes on (`starling run watch {id}`)");
            Err(Failure::new(Code::Interrupted, text))
        }
    };
    board.finish();
    verdict(&id, &ended?)
}

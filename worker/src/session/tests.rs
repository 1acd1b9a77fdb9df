//! The session machine in virtual time: table tests of what goes in and what comes out.

use super::*;
use crate::message::{Assignment, Evaluation, Wanted};
use proto::{
    PROTOCOL_VERSION,
    digest::Digest,
    names::RunId,
    spec::RunSpec,
    v1::{AbandonReason, ErrorCode},
};
use std::{collections::BTreeSet, sync::Arc};

const HEARTBEAT: Duration = Duration::from_secs(1);
const SILENCE: Duration = Duration::from_secs(4);

/// The machine with a clock that jumps from timer to timer.
struct Bed {
    session: Session,
    now: Time,
    timers: BTreeSet<(Time, Token)>,
    seen: Vec<(Time, Action)>,
}

impl Bed {
    fn new() -> Self {
        let session = Session::new(&"w1".parse().unwrap());
        Self { session, now: Time::ZERO, timers: BTreeSet::new(), seen: Vec::new() }
    }

    fn event(&mut self, event: Event) -> Vec<Action> {
        let actions = self.session.handle(event, self.now);
        for action in &actions {
            if let Action::Arm { token, at } = action {
                assert!(*at >= self.now, "a timer in the past");
                self.timers.insert((*at, *token));
            }
            self.seen.push((self.now, action.clone()));
        }
        actions
    }

    fn command(&mut self, command: Command) -> Vec<Action> {
        self.event(Event::Received(command))
    }

    /// Fires timers until `until`.
    fn pass(&mut self, until: Time) -> Vec<Action> {
        let mut all = Vec::new();
        while let Some((at, token)) = self.timers.first().copied().filter(|(at, _)| *at <= until) {
            self.timers.remove(&(at, token));
            self.now = at;
            all.extend(self.event(Event::Fired(token)));
        }
        self.now = until;
        all
    }

    fn connected() -> Self {
        let mut bed = Self::new();
        bed.event(Event::Start);
        bed.event(Event::Opened);
        bed.command(welcome(PROTOCOL_VERSION));
        assert!(bed.session.is_connected());
        bed
    }

    /// Time until the machine connects again.
    fn wait(&mut self) -> Duration {
        let from = self.now;
        for _ in 0..100 {
            let (at, token) = self.timers.pop_first().expect("nothing will ever happen again");
            self.now = at;
            if self.event(Event::Fired(token)).contains(&Action::Connect) {
                return self.now.saturating_sub(from);
            }
        }
        panic!("never connects again")
    }
}

fn welcome(version: u32) -> Command {
    Command::Welcome { version, heartbeat: HEARTBEAT, silence: SILENCE }
}

fn refusal(code: ErrorCode) -> Command {
    Command::Refusal { code, detail: "words".into() }
}

fn beats(actions: &[Action]) -> Vec<u64> {
    let sequence = |action: &Action| match action {
        Action::Send(Say::Heartbeat { sequence }) => Some(*sequence),
        _ => None,
    };
    actions.iter().filter_map(sequence).collect()
}

#[test]
fn the_greeting_comes_first_and_work_after_the_welcome() {
    let mut bed = Bed::new();
    assert_eq!(bed.event(Event::Start)[0], Action::Connect);
    assert_eq!(bed.event(Event::Opened)[0], Action::Send(Say::Hello));
    let actions = bed.command(welcome(PROTOCOL_VERSION));
    assert_eq!(actions[0], Action::Up);
}

#[test]
fn heartbeats_count_up_at_their_period() {
    let mut bed = Bed::connected();
    for second in 1..=30 {
        bed.pass(Duration::from_secs(second));
        bed.command(Command::Heartbeat);
    }
    let actions: Vec<Action> = bed.seen.iter().map(|(_, action)| action.clone()).collect();
    assert_eq!(beats(&actions), (0..30).collect::<Vec<u64>>());
    assert!(bed.session.is_connected());
}

#[test]
fn silence_ends_the_session_and_any_message_breaks_it() {
    let mut bed = Bed::connected();
    bed.pass(Duration::from_millis(3_900));
    bed.command(Command::Notice("still here".into()));
    let actions = bed.pass(Duration::from_millis(7_899));
    assert!(!actions.contains(&Action::Disconnect));
    let actions = bed.pass(Duration::from_millis(7_900));
    assert!(actions.contains(&Action::Disconnect));
    assert!(!bed.session.is_connected());
    assert!(bed.wait() <= Duration::from_millis(200));
}

#[test]
fn a_coordinator_that_does_not_answer_is_given_up() {
    for opened in [false, true] {
        let mut bed = Bed::new();
        bed.event(Event::Start);
        if opened {
            bed.event(Event::Opened);
        }
        let actions = bed.pass(Duration::from_secs(if opened { 10 } else { 5 }));
        assert!(actions.contains(&Action::Disconnect), "opened: {opened}");
    }
}

#[test]
fn failures_back_off_to_ten_seconds_and_a_good_session_starts_over() {
    let mut bed = Bed::new();
    bed.event(Event::Start);
    let mut waits = Vec::new();
    for attempt in 0..12_u32 {
        bed.event(Event::Lost("refused".into()));
        let wait = bed.wait();
        assert!(
            wait <= backoff::CAP.min(Duration::from_millis(200) * 2_u32.pow(attempt)),
            "{attempt}: {wait:?}"
        );
        waits.push(wait);
    }
    assert!(waits.iter().any(|wait| *wait > Duration::from_secs(2)), "{waits:?}");
    for (lived, fresh) in [(9, false), (10, true)] {
        let mut bed = Bed { session: Session::new(&"w1".parse().unwrap()), ..Bed::new() };
        bed.event(Event::Start);
        for _ in 0..12 {
            bed.event(Event::Lost("refused".into()));
            bed.wait();
        }
        bed.event(Event::Opened);
        bed.command(welcome(PROTOCOL_VERSION));
        let connected = bed.now;
        for second in 1..=lived {
            bed.pass(connected + Duration::from_secs(second));
            bed.command(Command::Heartbeat);
        }
        // Ten losses in a row: without a good session some wait is long.
        let mut longest = Duration::ZERO;
        for _ in 0..if fresh { 1 } else { 10 } {
            bed.event(Event::Lost("gone".into()));
            longest = longest.max(bed.wait());
        }
        assert_eq!(longest <= Duration::from_millis(200), fresh, "lived {lived} s: {longest:?}");
    }
}

#[test]
fn refusals_are_final_only_if_trying_again_is_useless() {
    for code in [ErrorCode::Name, ErrorCode::Draining, ErrorCode::Limit, ErrorCode::Store] {
        let mut bed = Bed::new();
        bed.event(Event::Start);
        bed.event(Event::Opened);
        let actions = bed.command(refusal(code));
        assert!(actions.contains(&Action::Disconnect), "{code:?}");
        assert!(!actions.iter().any(|action| matches!(action, Action::Exit(_))), "{code:?}");
        bed.wait();
    }
    let mut bed = Bed::new();
    bed.event(Event::Start);
    bed.event(Event::Opened);
    let actions = bed.command(refusal(ErrorCode::Incompatible));
    assert!(matches!(actions.last(), Some(Action::Exit(Err(why))) if why.contains("words")), "{actions:?}");
}

#[test]
fn an_unknown_version_is_final() {
    for version in [0, PROTOCOL_VERSION + 1] {
        let mut bed = Bed::new();
        bed.event(Event::Start);
        bed.event(Event::Opened);
        let actions = bed.command(welcome(version));
        assert!(matches!(actions.last(), Some(Action::Exit(Err(_)))), "{actions:?}");
        assert!(bed.command(welcome(PROTOCOL_VERSION)).is_empty());
    }
}

#[test]
fn outdated_timers_and_messages_out_of_place_do_nothing() {
    let mut bed = Bed::connected();
    let old: Vec<Token> = bed.timers.iter().map(|(_, token)| *token).collect();
    bed.event(Event::Lost("gone".into()));
    for token in old {
        assert_eq!(bed.event(Event::Fired(token)), []);
    }
    assert_eq!(bed.event(Event::Opened), []);
    assert_eq!(bed.event(Event::Lost("again".into())), []);
    assert_eq!(bed.command(Command::Heartbeat), []);
    assert_eq!(bed.event(Event::Start), []);
    bed.wait();
    bed.event(Event::Opened);
    let actions = bed.command(Command::Heartbeat);
    assert!(actions.contains(&Action::Disconnect), "an order before the welcome");
}

#[test]
fn periods_of_the_coordinator_are_kept_within_sense() {
    let mut bed = Bed::new();
    bed.event(Event::Start);
    bed.event(Event::Opened);
    let silly = Duration::from_nanos(1);
    bed.command(Command::Welcome { version: PROTOCOL_VERSION, heartbeat: silly, silence: Duration::ZERO });
    assert!(beats(&bed.pass(Duration::from_secs(1))).len() <= 100);
    assert!(bed.session.is_connected());
}

#[test]
fn stop_cancels_disconnects_and_ends() {
    let mut bed = Bed::connected();
    bed.command(assign("a", 0));
    let actions = bed.event(Event::Stop);
    assert_eq!(actions, [Action::Cancel(JobId(1)), Action::Disconnect, Action::Exit(Ok(()))]);
    assert_eq!(bed.event(Event::Stop), []);
}

// === what the worker works on ===

fn run(name: &str) -> RunId {
    name.parse().unwrap()
}

fn spec() -> Arc<RunSpec> {
    let text = "name='r'\nrounds=9\n[model]\nkind='flat'\nparameters=3\n[data]\nname='d'";
    Arc::new(RunSpec::from_toml(text).unwrap())
}

fn assignment(name: &str, round: u64) -> Assignment {
    let w = Wanted { name: "w".into(), digest: Digest::of(&round.to_le_bytes()), length: 3 };
    Assignment {
        run: run(name),
        round,
        spec: spec(),
        lr: 0.1,
        committed: None,
        vectors: vec![w],
        remaining: Duration::from_mins(1),
        clip_norm: None,
    }
}

fn assign(name: &str, round: u64) -> Command {
    Command::Assign(Box::new(assignment(name, round)))
}

fn trains(name: &str, round: u64) -> Work {
    Work::Train(assignment(name, round))
}

fn closed(name: &str, round: u64, included: bool) -> Command {
    Command::Closed { run: run(name), round, included }
}

fn abandon(name: &str, round: u64, reason: AbandonReason) -> Command {
    Command::Abandon { run: run(name), round, reason }
}

fn begins(id: u64, work: Work) -> Action {
    Action::Begin(JobId(id), work)
}

/// Without the log.
fn acts(actions: Vec<Action>) -> Vec<Action> {
    actions.into_iter().filter(|action| !matches!(action, Action::Log(..))).collect()
}

#[test]
fn one_job_at_a_time_in_order() {
    let mut bed = Bed::connected();
    assert_eq!(bed.command(assign("a", 0)), [begins(1, trains("a", 0))]);
    assert_eq!(bed.command(assign("b", 0)), []);
    assert_eq!(bed.event(Event::Ended(JobId(1))), [begins(2, trains("b", 0))]);
    assert_eq!(bed.event(Event::Ended(JobId(1))), [], "ended already");
    assert_eq!(bed.event(Event::Ended(JobId(2))), []);
}

#[test]
fn the_same_assignment_again_changes_nothing_even_after_a_reconnect() {
    let mut bed = Bed::connected();
    bed.command(assign("a", 3));
    assert_eq!(bed.command(assign("a", 3)), []);
    bed.event(Event::Lost("gone".into()));
    bed.wait();
    bed.event(Event::Opened);
    bed.command(welcome(PROTOCOL_VERSION));
    let again = Assignment { remaining: Duration::ZERO, committed: Some(2), ..assignment("a", 3) };
    assert_eq!(bed.command(Command::Assign(Box::new(again))), []);
    // Once the job has ended, the same round is a new job: its upload may have been lost.
    bed.event(Event::Ended(JobId(1)));
    assert_eq!(bed.command(assign("a", 3)), [begins(2, trains("a", 3))]);
}

#[test]
fn a_newer_round_replaces_an_older_one_of_the_same_run() {
    let mut bed = Bed::connected();
    bed.command(assign("a", 0));
    bed.command(assign("b", 0));
    assert_eq!(bed.command(assign("b", 1)), [], "b was only queued");
    assert_eq!(bed.command(assign("a", 1)), [Action::Cancel(JobId(1))]);
    assert_eq!(bed.event(Event::Ended(JobId(1))), [begins(2, trains("b", 1))]);
    assert_eq!(bed.event(Event::Ended(JobId(2))), [begins(3, trains("a", 1))]);
}

#[test]
fn a_closed_round_stops_its_training_and_settles() {
    let mut bed = Bed::connected();
    bed.command(assign("a", 4));
    assert_eq!(bed.command(closed("a", 3, true)), [], "an older round: settled in turn");
    assert_eq!(bed.command(closed("a", 4, false)), [Action::Cancel(JobId(1))]);
    bed.command(assign("a", 5));
    let settle = |round, included| Work::Settle { run: run("a"), round, included };
    assert_eq!(bed.event(Event::Ended(JobId(1))), [begins(2, settle(3, true))]);
    assert_eq!(bed.event(Event::Ended(JobId(2))), [begins(3, settle(4, false))]);
    assert_eq!(
        bed.event(Event::Ended(JobId(3))),
        [begins(4, trains("a", 5))],
        "settled before the next round"
    );
}

#[test]
fn abandoned_work_stops_and_a_finished_run_is_forgotten() {
    let mut bed = Bed::connected();
    bed.command(assign("a", 4));
    assert_eq!(acts(bed.command(abandon("b", 9, AbandonReason::Paused))), []);
    assert_eq!(acts(bed.command(abandon("a", 4, AbandonReason::Paused))), [Action::Cancel(JobId(1))]);
    // Resumed before the job has noticed.
    assert_eq!(bed.command(assign("a", 4)), []);
    assert_eq!(bed.event(Event::Ended(JobId(1))), [begins(2, trains("a", 4))]);
    assert_eq!(acts(bed.command(abandon("a", 0, AbandonReason::Cancelled))), [Action::Cancel(JobId(2))]);
    let forget = Work::Forget { run: run("a") };
    assert_eq!(bed.event(Event::Ended(JobId(2))), [begins(3, forget)]);
}

#[test]
fn a_finished_run_may_still_be_evaluated() {
    let mut bed = Bed::connected();
    let model = assignment("a", 8).vectors.remove(0);
    let evaluation = Evaluation { run: run("a"), round: 8, spec: spec(), model, packed: None };
    let command = Command::Evaluate(Box::new(evaluation.clone()));
    assert_eq!(bed.command(command.clone()), [begins(1, Work::Evaluate(evaluation))]);
    assert_eq!(bed.command(command), [], "already on it");
    assert_eq!(acts(bed.command(abandon("a", 8, AbandonReason::Finished))), []);
    assert_eq!(bed.event(Event::Ended(JobId(1))), [begins(2, Work::Forget { run: run("a") })]);
}

#[test]
fn an_order_that_is_not_understood_is_declined() {
    let mut bed = Bed::connected();
    let actions = bed.command(Command::Unusable { run: run("a"), round: 2, detail: "new model".into() });
    let decline =
        Say::Decline { run: run("a"), round: 2, reason: DeclineReason::Spec, detail: "new model".into() };
    assert_eq!(acts(actions), [Action::Send(decline)]);
}

//! The machine in virtual time: each test is a story of events and what must follow.

use super::*;
use proto::v1::{DeclineReason, RejectReason};

pub(super) const DIGEST: proto::digest::Digest = proto::digest::Digest([7; 32]);

pub(super) fn rules() -> Rules {
    Rules {
        seed: 1,
        rounds: 2,
        fraction: None,
        size: None,
        min_updates: 2,
        min_workers: 3,
        deadline_ms: 10_000,
        stuck_ms: 4_000,
        rejoin_ms: 3_000,
        quarantine_after: 2,
        federated_every: 0,
        evaluation_ms: 1_000,
        noised: false,
        rate: None,
        sampler: None,
        cap: None,
        flow: None,
    }
}

fn facts() -> Facts {
    Facts { examples: 5, train_loss: Some(1.0), seconds: 0.1 }
}

struct Story {
    machine: Machine,
    log: Vec<Action>,
    secrets: u8,
}

impl Story {
    fn new(rules: Rules) -> Self {
        let mut story =
            Self { machine: Machine::new(rules, Restored::default()), log: Vec::new(), secrets: 0 };
        story.at(0, Event::Start);
        story
    }

    fn at(&mut self, now: Millis, event: Event) -> Vec<Action> {
        if self.machine.needs_secret() {
            self.secrets += 1;
            self.machine.lend(Secret::new([self.secrets; 32]));
        }
        let actions = self.machine.handle(event, now);
        self.log.extend(actions.clone());
        actions
    }

    fn join(&mut self, now: Millis, workers: &[&str]) -> Vec<Action> {
        workers.iter().flat_map(|w| self.at(now, Event::Joined { worker: (*w).to_owned() })).collect()
    }

    fn update(&mut self, now: Millis, worker: &str, round: u64) -> Decision {
        let actions = self.at(now, Event::Update { worker: worker.to_owned(), round, facts: facts() });
        actions
            .into_iter()
            .find_map(|action| match action {
                Action::Verdict { decision, .. } => Some(decision),
                _ => None,
            })
            .expect("every update gets a verdict")
    }

    fn commits(&self) -> Vec<(u64, Vec<String>)> {
        self.log
            .iter()
            .filter_map(|action| match action {
                Action::Commit { round, counted, .. } => {
                    Some((*round, counted.iter().map(|c| c.worker.clone()).collect()))
                }
                _ => None,
            })
            .collect()
    }
}

pub(super) fn assigned(actions: &[Action]) -> Vec<&str> {
    actions
        .iter()
        .filter_map(|action| match action {
            Action::Assign { worker, .. } => Some(worker.as_str()),
            _ => None,
        })
        .collect()
}

fn is_stale(decision: &Decision) -> bool {
    matches!(decision, Decision::Reject { reason: RejectReason::StaleRound, .. })
}

#[test]
fn a_round_from_first_worker_to_last_commit() {
    let mut story = Story::new(rules());
    assert!(assigned(&story.join(1, &["a", "b"])).is_empty(), "two of three workers");
    let opened = story.join(2, &["c"]);
    assert_eq!(assigned(&opened), ["a", "b", "c"]);
    let persist = opened.iter().position(|action| *action == Action::Persist).unwrap();
    let assign = opened.iter().position(|action| matches!(action, Action::Assign { .. })).unwrap();
    assert!(persist < assign, "the opening is durable before anybody hears of it");
    for worker in ["c", "a", "b"] {
        assert_eq!(story.update(3, worker, 0), Decision::Accept);
    }
    assert_eq!(story.commits(), [(0, vec!["a".to_owned(), "b".to_owned(), "c".to_owned()])]);
    assert!(is_stale(&story.update(4, "x", 1)), "nothing is open while the disk is awaited");
    let closed = story.at(5, Event::Committed { round: 0, digest: DIGEST });
    assert_eq!(closed.iter().filter(|a| matches!(a, Action::Closed { included: true, .. })).count(), 3);
    assert_eq!(assigned(&closed), ["a", "b", "c"]);
    for worker in ["a", "b", "c"] {
        story.update(6, worker, 1);
    }
    let end = story.at(7, Event::Committed { round: 1, digest: DIGEST });
    assert_eq!(end.last(), Some(&Action::End(End::Finished)));
}

#[test]
fn an_update_counts_once_and_only_in_its_round() {
    let mut story = Story::new(rules());
    story.join(1, &["a", "b", "c"]);
    assert_eq!(story.update(2, "a", 0), Decision::Accept);
    assert_eq!(story.update(2, "a", 0), Decision::Duplicate);
    assert!(is_stale(&story.update(2, "b", 1)));
    assert!(matches!(
        story.update(2, "stranger", 0),
        Decision::Reject { reason: RejectReason::NotAssigned, .. }
    ));
    story.update(2, "b", 0);
    story.update(2, "c", 0);
    story.at(3, Event::Committed { round: 0, digest: DIGEST });
    assert_eq!(story.update(4, "a", 0), Decision::Duplicate, "also after the commit");
}

#[test]
fn the_deadline_closes_with_enough_and_names_the_late() {
    let mut story = Story::new(rules());
    story.join(0, &["a", "b", "c"]);
    story.update(1, "a", 0);
    story.update(1, "b", 0);
    assert!(story.commits().is_empty());
    let closed = story.at(10_000, Event::Timer(Token::Deadline { round: 0, attempt: 0 }));
    assert!(closed.contains(&Action::Publish(RunEvent::Late {
        round: 0,
        workers: vec!["c".into()],
        stuck: vec!["c".into()]
    })));
    assert!(closed.iter().any(|action| matches!(action, Action::Abandon { worker, .. } if worker == "c")));
    assert_eq!(story.commits()[0].1, ["a", "b"]);
    assert!(is_stale(&story.update(10_001, "c", 0)));
}

#[test]
fn a_short_round_asks_substitutes_and_goes_on() {
    let mut story = Story::new(Rules { size: Some(2), ..rules() });
    story.join(0, &["a", "b", "c", "d"]);
    let cohort: Vec<String> = story.machine.cohort().keys().cloned().collect();
    assert_eq!(cohort.len(), 2);
    story.update(1, &cohort[0], 0);
    let again = story.at(10_000, Event::Timer(Token::Deadline { round: 0, attempt: 0 }));
    assert!(again.iter().any(|a| matches!(a, Action::Publish(RunEvent::RoundShort { .. }))));
    let asked = assigned(&again);
    assert_eq!(asked.len(), 2, "the late one again, and a substitute: {asked:?}");
    let substitute = asked.iter().find(|w| !cohort.contains(&(**w).to_owned())).unwrap().to_owned();
    assert_eq!(story.update(11_000, substitute, 0), Decision::Accept);
}

#[test]
fn an_old_timer_is_ignored() {
    let mut story = Story::new(rules());
    story.join(0, &["a", "b", "c"]);
    assert!(story.at(1, Event::Timer(Token::Deadline { round: 7, attempt: 0 })).is_empty());
    story.at(2, Event::Left { worker: "a".into() });
    story.at(3, Event::Joined { worker: "a".into() });
    let late = story.at(5_000, Event::Timer(Token::Rejoin { worker: "a".into(), since: 2 }));
    assert!(late.is_empty());
}

#[test]
fn a_lost_worker_is_waited_for_and_then_given_up() {
    let mut story = Story::new(rules());
    story.join(0, &["a", "b", "c"]);
    story.update(1, "a", 0);
    story.update(1, "b", 0);
    let lost = story.at(2, Event::Left { worker: "c".into() });
    assert!(lost.contains(&Action::Publish(RunEvent::WorkerLost { round: 0, worker: "c".into() })));
    assert!(story.commits().is_empty(), "it may come back");
    story.at(3_002, Event::Timer(Token::Rejoin { worker: "c".into(), since: 2 }));
    assert_eq!(story.commits()[0].1, ["a", "b"]);
}

#[test]
fn a_returning_worker_gets_the_same_round() {
    let mut story = Story::new(rules());
    story.join(0, &["a", "b", "c"]);
    story.at(1, Event::Left { worker: "a".into() });
    let back = story.join(2, &["a"]);
    assert_eq!(assigned(&back), ["a"]);
    assert!(back.contains(&Action::Publish(RunEvent::WorkerReturned { round: 0, worker: "a".into() })));
    story.update(3, "b", 0);
    story.at(3, Event::Left { worker: "b".into() });
    assert!(assigned(&story.join(4, &["b"])).is_empty(), "its update is folded: it must not train another");
    assert_eq!(story.update(5, "b", 0), Decision::Duplicate, "its verdict may have been lost");
}

#[test]
fn a_blink_at_the_opening_does_not_change_the_cohort() {
    let mut story = Story::new(rules());
    story.join(0, &["a", "b", "c"]);
    for worker in ["a", "b", "c"] {
        story.update(1, worker, 0);
    }
    story.at(2, Event::Left { worker: "b".into() });
    story.at(3, Event::Committed { round: 0, digest: DIGEST });
    assert_eq!(story.machine.cohort().len(), 3);
    assert_eq!(assigned(&story.join(4, &["b"])), ["b"]);
}

#[test]
fn a_worker_that_is_drawn_twice_counts_twice_also_after_a_restart() {
    let sampler = Some(algorithms::cohort::draw::Sampler::WithReplacement {});
    let of = |seed| Rules { seed, sampler, size: Some(2), min_updates: 1, min_workers: 2, ..rules() };
    let mut twice = 0;
    for seed in 0..20 {
        let mut story = Story::new(of(seed));
        story.join(1, &["a", "b"]);
        let opening = story.machine.opening();
        let cohort = opening.as_ref().unwrap().cohort.clone();
        assert_eq!(cohort.len(), 2, "both draws are kept");
        let again = Machine::new(of(seed), Restored { opening, ..Restored::default() });
        for worker in &cohort {
            let times = cohort.iter().filter(|other| *other == worker).count();
            assert_eq!((story.machine.draws(worker), again.draws(worker)), (times, times));
            twice += usize::from(times == 2);
        }
    }
    assert!((4..36).contains(&twice), "{twice} of 40");
}

#[test]
fn restart_goes_on_in_the_same_round() {
    let restored = Restored {
        participations: BTreeMap::new(),
        profiles: BTreeMap::new(),
        round: 1,
        opening: Some(Opening { round: 1, cohort: vec!["a".into(), "b".into()], secret: None }),
        members: ["a", "b", "c"].map(String::from).into(),
        population_before: 3,
        committed: BTreeMap::from([("a".into(), 0)]),
        paused: false,
        ongoing: Ongoing::default(),
    };
    let mut story = Story { machine: Machine::new(rules(), restored), log: Vec::new(), secrets: 0 };
    let start = story.at(100, Event::Start);
    assert!(start.contains(&Action::Publish(RunEvent::Resumed { round: 1 })));
    let back = story.join(101, &["a", "b", "c"]);
    assert_eq!(assigned(&back), ["a", "b"]);
    assert!(
        back.iter().any(|a| matches!(a, Action::Assign { worker, committed: Some(0), .. } if worker == "a"))
    );
    assert_eq!(story.update(102, "a", 0), Decision::Duplicate);
    assert_eq!(story.update(102, "a", 1), Decision::Accept);
}

#[test]
fn faults_lead_to_quarantine_and_lateness_does_not() {
    let mut story = Story::new(Rules { rounds: 9, min_updates: 1, ..rules() });
    story.join(0, &["a", "b", "c"]);
    for _ in 0..5 {
        story.update(1, "a", 3);
    }
    let reject = |round| Event::Rejected {
        worker: "a".into(),
        round,
        reason: RejectReason::NotFinite,
        detail: "element 3 is NaN".into(),
    };
    assert!(!story.at(2, reject(0)).iter().any(|a| matches!(a, Action::Quarantine { .. })));
    for worker in ["b", "c"] {
        story.update(3, worker, 0);
    }
    assert_eq!(story.commits()[0].1, ["b", "c"], "the run goes on without it");
    story.at(4, Event::Committed { round: 0, digest: DIGEST });
    assert!(story.at(5, reject(1)).contains(&Action::Quarantine { worker: "a".into() }));
    assert!(matches!(
        story.machine.offer("a", 1),
        Decision::Reject { reason: RejectReason::Quarantined, .. }
    ));
    story.at(6, Event::Quarantine { worker: "a".into(), on: false });
    for worker in ["b", "c"] {
        story.update(7, worker, 1);
    }
    let next = story.at(8, Event::Committed { round: 1, digest: DIGEST });
    assert!(assigned(&next).contains(&"a"));
}

#[test]
fn a_round_that_everybody_refuses_fails_with_the_reason() {
    let mut story = Story::new(rules());
    story.join(0, &["a", "b", "c"]);
    for attempt in 0..3 {
        for worker in ["a", "b", "c"] {
            story.at(
                1,
                Event::Declined {
                    worker: worker.into(),
                    round: 0,
                    reason: DeclineReason::Data,
                    detail: "no such data set".into(),
                },
            );
        }
        story.at(10_000 * (u64::from(attempt) + 1), Event::Timer(Token::Deadline { round: 0, attempt }));
    }
    assert!(matches!(story.machine.phase(), Phase::Ended(End::Failed(reason)) if reason.contains("0 of 2")));
}

#[test]
fn pause_gives_up_the_open_round_and_resume_opens_it_again() {
    let mut story = Story::new(rules());
    story.join(0, &["a", "b", "c"]);
    story.update(1, "a", 0);
    let paused = story.at(2, Event::Command(Command::Pause));
    assert!(paused.contains(&Action::DropUploads));
    assert_eq!(paused.iter().filter(|a| matches!(a, Action::Abandon { .. })).count(), 3);
    assert!(is_stale(&story.update(3, "b", 0)));
    let resumed = story.at(4, Event::Command(Command::Resume));
    assert_eq!(assigned(&resumed), ["a", "b", "c"]);
    assert_eq!(story.update(5, "a", 0), Decision::Accept, "what was folded was dropped");
}

#[test]
fn a_pause_while_the_disk_works_is_persisted_after_the_commit() {
    let mut story = Story::new(rules());
    story.join(0, &["a", "b", "c"]);
    for worker in ["a", "b", "c"] {
        story.update(1, worker, 0);
    }
    // The driver still holds the record before the commit, the disk may have the one after it.
    assert!(!story.at(2, Event::Command(Command::Pause)).contains(&Action::Persist));
    let closed = story.at(3, Event::Committed { round: 0, digest: DIGEST });
    assert!(closed.contains(&Action::Persist));
}

#[test]
fn pause_during_a_commit_waits_for_the_disk() {
    let mut story = Story::new(rules());
    story.join(0, &["a", "b", "c"]);
    for worker in ["a", "b", "c"] {
        story.update(1, worker, 0);
    }
    story.at(2, Event::Command(Command::Pause));
    let closed = story.at(3, Event::Committed { round: 0, digest: DIGEST });
    assert!(closed.iter().any(|action| matches!(action, Action::Closed { included: true, .. })));
    assert!(assigned(&closed).is_empty());
    assert_eq!(story.machine.phase(), &Phase::Paused);
}

#[test]
fn cancel_ends_and_later_updates_are_stale() {
    let mut story = Story::new(rules());
    story.join(0, &["a", "b", "c"]);
    story.at(1, Event::Command(Command::Cancel));
    assert_eq!(story.machine.phase(), &Phase::Ended(End::Cancelled));
    assert!(is_stale(&story.update(2, "a", 0)));
}

fn sums_of(actions: &[Action]) -> Option<Federated> {
    actions.iter().find_map(|action| match action {
        Action::FederatedDone { round: 0, sums, .. } => Some(*sums),
        _ => None,
    })
}

#[test]
fn federated_evaluation_sums_reports_and_does_not_wait_for_ever() {
    let mut story = Story::new(Rules { federated_every: 1, ..rules() });
    story.join(0, &["a", "b", "c"]);
    for worker in ["a", "b", "c"] {
        story.update(1, worker, 0);
    }
    let asked = story.at(2, Event::Committed { round: 0, digest: DIGEST });
    assert_eq!(asked.iter().filter(|a| matches!(a, Action::Evaluate { .. })).count(), 3);
    let report = |worker: &str, correct| Event::Evaluated {
        worker: worker.into(),
        round: 0,
        report: Federated { predictions: 10, correct, loss_sum: 2.0 }.into(),
    };
    story.at(3, report("a", 5));
    story.at(3, report("a", 5));
    story.at(3, report("b", 11));
    let done = story.at(4, Event::Left { worker: "c".into() });
    let sums = Federated { predictions: 10, correct: 5, loss_sum: 2.0 };
    assert_eq!(sums_of(&done), Some(sums), "an impossible report does not count");
    assert_eq!(assigned(&done), ["a", "b"]);
}

#[test]
fn slow_is_not_stuck() {
    let mut story = Story::new(rules());
    story.join(0, &["a", "b", "c"]);
    let progress = |done| Event::Progress { worker: "a".into(), round: 0, mark: (2, done) };
    story.at(3_000, progress(1));
    story.at(3_500, Event::Progress { worker: "b".into(), round: 0, mark: (2, 1) });
    story.at(3_600, Event::Left { worker: "c".into() });
    let motion = Event::Timer(Token::Motion { round: 0 });
    assert!(!story.at(4_000, motion.clone()).iter().any(|a| matches!(a, Action::Publish(_))));
    story.at(6_500, progress(2));
    // The same again is no progress.
    story.at(7_000, Event::Progress { worker: "b".into(), round: 0, mark: (2, 1) });
    story.at(7_000, motion.clone());
    let looked = story.at(7_500, motion);
    let stuck = RunEvent::WorkerStuck { round: 0, worker: "b".into(), seconds: 4 };
    assert!(looked.contains(&Action::Publish(stuck)), "{looked:?}");
    assert!(story.machine.is_stuck("b") && !story.machine.is_stuck("a"));
    story.at(9_000, progress(3));
    let late = story.at(10_000, Event::Timer(Token::Deadline { round: 0, attempt: 0 }));
    let (workers, stuck) = (vec!["a".into(), "b".into(), "c".into()], vec!["b".into()]);
    assert!(late.contains(&Action::Publish(RunEvent::Late { round: 0, workers, stuck })), "{late:?}");
    // One that hangs is told to stop before it is asked again; one that is slow goes on.
    let abandoned = |w: &str| late.iter().any(|a| matches!(a, Action::Abandon { worker, .. } if worker == w));
    assert!(abandoned("b") && !abandoned("a"));
    assert_eq!(assigned(&late), ["a", "b"]);
}

#[test]
fn a_deadline_from_before_a_pause_does_not_close_the_round_that_is_opened_again() {
    let mut story = Story::new(rules());
    story.join(0, &["a", "b", "c"]);
    story.at(1, Event::Command(Command::Pause));
    story.at(6_000, Event::Command(Command::Resume));
    story.update(6_001, "a", 0);
    story.update(6_001, "b", 0);
    let early = story.at(10_000, Event::Timer(Token::Deadline { round: 0, attempt: 0 }));
    assert!(early.is_empty(), "{early:?}");
    story.at(16_000, Event::Timer(Token::Deadline { round: 0, attempt: 0 }));
    assert_eq!(story.commits()[0].1, ["a", "b"]);
}

#[test]
fn substitutes_are_durable_before_they_are_asked() {
    let mut story = Story::new(Rules { size: Some(2), ..rules() });
    story.join(0, &["a", "b", "c", "d"]);
    let cohort: Vec<String> = story.machine.cohort().keys().cloned().collect();
    let declined = |worker: &str| Event::Declined {
        worker: worker.into(),
        round: 0,
        reason: DeclineReason::Data,
        detail: String::new(),
    };
    story.at(1, declined(&cohort[0]));
    let early = story.at(1, declined(&cohort[1]));
    let late = story.at(10_000, Event::Timer(Token::Deadline { round: 0, attempt: 1 }));
    for actions in [early, late] {
        let persist = actions.iter().position(|action| *action == Action::Persist).unwrap();
        let assign = actions.iter().position(|action| matches!(action, Action::Assign { .. })).unwrap();
        assert!(persist < assign, "{actions:?}");
    }
}

#[test]
fn refusals_do_not_end_a_run_while_somebody_can_be_asked() {
    let mut story = Story::new(Rules { size: Some(2), quarantine_after: 1, ..rules() });
    story.join(0, &["a", "b", "c", "d"]);
    // One good update; everybody else is rejected, one substitute after the other, before the deadline.
    let good = story.machine.cohort().keys().next().unwrap().clone();
    story.update(1, &good, 0);
    for now in 2..5 {
        let waiting = |(_, member): &(&String, &Member)| **member == Member::Training;
        let Some(worker) = story.machine.cohort().iter().find(waiting).map(|(w, _)| w.clone()) else { break };
        let (reason, detail) = (RejectReason::NotFinite, "NaN".to_owned());
        story.at(now, Event::Rejected { worker, round: 0, reason, detail });
    }
    story.at(10_000, Event::Timer(Token::Deadline { round: 0, attempt: 2 }));
    assert_eq!(story.machine.phase(), &Phase::Training);
    // Whoever comes now is asked at once.
    assert_eq!(assigned(&story.join(10_001, &["e"])), ["e"]);
    assert_eq!(story.update(10_002, "e", 0), Decision::Accept);
    assert_eq!(story.commits()[0].1.len(), 2);
}

#[test]
fn a_worker_that_another_run_put_into_quarantine_is_not_waited_for() {
    let mut story = Story::new(rules());
    story.join(0, &["a", "b", "c"]);
    story.update(1, "a", 0);
    story.update(1, "b", 0);
    story.at(2, Event::Quarantine { worker: "c".into(), on: true });
    assert_eq!(story.commits()[0].1, ["a", "b"]);
}

#[test]
fn impossible_evaluations_do_not_overflow() {
    let mut story = Story::new(Rules { federated_every: 1, ..rules() });
    story.join(0, &["a", "b", "c"]);
    for worker in ["a", "b", "c"] {
        story.update(1, worker, 0);
    }
    story.at(2, Event::Committed { round: 0, digest: DIGEST });
    let mut last = Vec::new();
    for (worker, predictions, loss_sum) in [("a", u64::MAX, 1.0), ("b", 4, f64::MAX), ("c", 4, 2.0)] {
        let report = Federated { predictions, correct: 1, loss_sum }.into();
        last = story.at(3, Event::Evaluated { worker: worker.into(), round: 0, report });
    }
    let sums = Federated { predictions: 4, correct: 1, loss_sum: 2.0 };
    assert_eq!(sums_of(&last), Some(sums), "{last:?}");
}

#[test]
fn equal_events_give_equal_actions() {
    let run = || {
        let mut story = Story::new(Rules { fraction: Some(0.5), min_updates: 1, ..rules() });
        story.join(0, &["d", "b", "a", "c", "e", "f"]);
        for worker in ["a", "b", "c", "d", "e", "f"] {
            story.update(1, worker, 0);
        }
        story.log
    };
    assert_eq!(run(), run());
}

fn drawn(rate: f64) -> Rules {
    Rules { noised: true, rate: Some(rate), min_updates: 1, ..rules() }
}

const FLEET: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

#[test]
fn a_secret_draw_has_no_substitutes_and_closes_with_whatever_comes() {
    let mut story = Story::new(Rules { min_workers: 8, ..drawn(0.5) });
    story.join(0, &FLEET);
    let cohort: Vec<String> = story.machine.cohort().keys().cloned().collect();
    assert!(!cohort.is_empty() && cohort.len() < FLEET.len(), "{cohort:?}");
    let opening = story.machine.opening().unwrap();
    assert_eq!((opening.round, &opening.cohort), (0, &cohort));
    assert!(opening.secret.is_some());
    // One answers, the others never do, nobody stands in for them.
    let last = cohort.last().unwrap();
    assert_eq!(story.update(5, last, 0), Decision::Accept);
    let actions = story.at(10_000, Event::Timer(Token::Deadline { round: 0, attempt: 0 }));
    assert!(assigned(&actions).is_empty());
    assert_eq!(story.commits(), [(0, vec![last.clone()])]);
    // The seed of training has no part in it: the coins of the next round are others.
    story.at(10_001, Event::Committed { round: 0, digest: DIGEST });
    assert_ne!(story.machine.opening().unwrap().secret, opening.secret);
}

#[test]
fn a_round_in_which_nobody_is_drawn_is_committed() {
    let mut story = Story::new(Rules { min_workers: 8, ..drawn(1e-12) });
    story.join(0, &FLEET);
    assert_eq!(story.commits(), [(0, vec![])]);
    story.at(1, Event::Committed { round: 0, digest: DIGEST });
    story.at(2, Event::Committed { round: 1, digest: DIGEST });
    assert!(matches!(story.log.last(), Some(Action::End(End::Finished))), "{:?}", story.log);
}

#[test]
fn a_secret_draw_is_not_repeated_by_a_pause_or_a_restart() {
    let mut story = Story::new(Rules { min_workers: 8, ..drawn(0.5) });
    story.join(0, &FLEET);
    let first = story.machine.opening().unwrap();
    story.at(1, Event::Command(Command::Pause));
    let held = story.machine.opening().unwrap();
    assert_eq!((held.cohort.len(), &held.secret), (0, &first.secret));
    story.at(2, Event::Command(Command::Resume));
    assert_eq!(story.machine.opening(), Some(first.clone()));
    let members = story.machine.members().clone();
    let restored = Restored { opening: Some(first.clone()), members, ..Restored::default() };
    let mut again = Story { machine: Machine::new(drawn(0.5), restored), log: Vec::new(), secrets: 100 };
    again.at(0, Event::Start);
    assert_eq!(again.machine.opening(), Some(first));
}

#[test]
fn nobody_takes_part_more_often_than_was_paid_for() {
    let capped =
        Rules { rounds: 9, noised: true, cap: Some((2, 2)), min_updates: 1, min_workers: 2, ..rules() };
    let mut story = Story::new(capped);
    story.join(0, &["a", "b"]);
    for round in 0..9 {
        let members: Vec<String> = story.machine.cohort().keys().cloned().collect();
        if members.is_empty() {
            break;
        }
        // "b" declines the first round.
        for member in members {
            if round == 0 && member == "b" {
                let (worker, detail) = (member, String::new());
                story.at(1, Event::Declined { worker, round, reason: DeclineReason::Data, detail });
            } else {
                assert_eq!(story.update(1, &member, round), Decision::Accept);
            }
        }
        story.at(2, Event::Committed { round, digest: DIGEST });
    }
    let taken: Vec<(u64, Vec<String>)> = story.commits();
    let rounds = |worker: &str| -> Vec<u64> {
        taken
            .iter()
            .filter(|(_, who)| who.iter().any(|name| name == worker))
            .map(|(round, _)| *round)
            .collect()
    };
    assert_eq!(rounds("a"), [0, 2]);
    assert_eq!(rounds("b"), [1, 3]);
    assert_eq!(story.machine.phase(), &Phase::Waiting);
}

#[test]
fn a_spent_budget_ends_the_run_with_its_model() {
    let mut story = Story::new(drawn(1.0));
    story.join(0, &["a", "b", "c"]);
    for worker in ["a", "b", "c"] {
        story.update(1, worker, 0);
    }
    // The disk has the round, and there is no room for the next.
    story.at(2, Event::Spent { round: 1, reason: "ε".into() });
    story.at(2, Event::Committed { round: 0, digest: DIGEST });
    assert!(
        matches!(story.log.last(), Some(Action::End(End::Exhausted(why))) if why == "ε"),
        "{:?}",
        story.log
    );
    // Refused at the commit itself: nothing of the round is released.
    let mut story = Story::new(drawn(1.0));
    story.join(0, &["a", "b", "c"]);
    for worker in ["a", "b", "c"] {
        story.update(1, worker, 0);
    }
    let actions = story.at(2, Event::Spent { round: 0, reason: "ε".into() });
    assert!(
        actions.contains(&Action::DropUploads) && actions.contains(&Action::End(End::Exhausted("ε".into())))
    );
}

//! Runs without rounds, in virtual time.

use super::{
    tests::{DIGEST, assigned, rules},
    *,
};
use algorithms::staleness::Staleness;
use proto::{
    digest::Digest,
    spec::AsyncSpec,
    v1::{DeclineReason, RejectReason},
};

const STALE: u64 = 3;

fn fedbuff(buffer_size: usize, concurrency: Option<usize>) -> Rules {
    let staleness = Staleness::default();
    let flow = Some(AsyncSpec::FedBuff { buffer_size, concurrency, staleness, max_staleness: STALE });
    Rules { rounds: 9, min_updates: 1, min_workers: 2, flow, ..rules() }
}

/// A machine, and a disk that has what was persisted or committed.
struct Story {
    machine: Machine,
    rules: Rules,
    disk: Restored,
    log: Vec<Action>,
}

impl Story {
    fn new(rules: Rules) -> Self {
        let machine = Machine::new(rules.clone(), Restored::default());
        let mut story = Self { machine, rules, disk: Restored::default(), log: Vec::new() };
        story.at(0, Event::Start);
        story
    }

    fn at(&mut self, now: Millis, event: Event) -> Vec<Action> {
        let actions = self.machine.handle(event, now);
        for action in &actions {
            if *action == Action::Persist {
                self.disk = Restored {
                    round: self.machine.round(),
                    members: self.machine.members().clone(),
                    committed: self.machine.committed().clone(),
                    paused: self.machine.is_paused(),
                    ongoing: self.machine.ongoing().unwrap().clone(),
                    ..Restored::default()
                };
            }
        }
        self.log.extend(actions.clone());
        actions
    }

    fn join(&mut self, now: Millis, workers: &[&str]) -> Vec<Action> {
        workers.iter().flat_map(|w| self.at(now, Event::Joined { worker: (*w).to_owned() })).collect()
    }

    fn stored(&mut self, now: Millis, worker: &str, round: u64) -> Vec<Action> {
        let facts = Facts { examples: 5, train_loss: Some(1.0), seconds: 0.1 };
        let kept = Kept { digest: Digest([round as u8; 32]), steps: 3, lr: 0.1 };
        self.at(now, Event::Stored { worker: worker.to_owned(), round, facts, kept })
    }

    fn update(&mut self, now: Millis, worker: &str, round: u64) -> Decision {
        let actions = self.stored(now, worker, round);
        let verdict = |action| match action {
            Action::Verdict { decision, .. } => Some(decision),
            _ => None,
        };
        actions.into_iter().find_map(verdict).expect("every update gets a verdict")
    }

    fn confirm(&mut self, now: Millis) -> Vec<Action> {
        let round = self.machine.round();
        let ongoing = self.machine.ongoing().unwrap().clone();
        self.disk.ongoing = Ongoing { buffer: Vec::new(), ..ongoing };
        self.disk.committed = self.machine.committed().clone();
        self.disk.round = round + 1;
        self.at(now, Event::Committed { round, digest: DIGEST })
    }

    /// The process dies and comes back with what the disk has.
    fn crash(&mut self, now: Millis) -> Vec<Action> {
        self.machine = Machine::new(self.rules.clone(), self.disk.clone());
        self.at(now, Event::Start)
    }

    fn tasks(&self) -> Vec<(&str, u64)> {
        let tasks = &self.machine.ongoing().unwrap().tasks;
        tasks.iter().map(|(worker, version)| (worker.as_str(), *version)).collect()
    }

    fn buffer(&self) -> Vec<(&str, u64, u64)> {
        let buffer = &self.machine.ongoing().unwrap().buffer;
        buffer.iter().map(|one| (one.worker.as_str(), one.version, one.staleness)).collect()
    }

    fn is_committing(&self) -> bool {
        *self.machine.phase() == Phase::Committing
    }
}

fn reason(decision: &Decision) -> Option<RejectReason> {
    match decision {
        Decision::Reject { reason, .. } => Some(*reason),
        _ => None,
    }
}

#[test]
fn a_full_buffer_makes_a_version_and_nobody_waits_for_the_slow() {
    let mut story = Story::new(fedbuff(2, None));
    assert!(assigned(&story.join(1, &["a"])).is_empty(), "one of two workers");
    let opened = story.join(2, &["b", "c"]);
    assert_eq!(assigned(&opened), ["a", "b", "c"]);
    let persist = opened.iter().position(|action| *action == Action::Persist).unwrap();
    let assign = opened.iter().position(|action| matches!(action, Action::Assign { .. })).unwrap();
    assert!(persist < assign, "a task is durable before its worker hears of it");
    assert_eq!(story.update(3, "a", 0), Decision::Accept);
    assert_eq!(story.buffer(), [("a", 0, 0)]);
    assert_eq!(story.tasks(), [("b", 0), ("c", 0)], "nobody trains a version twice");
    assert_eq!(story.update(4, "b", 0), Decision::Accept);
    assert!(story.is_committing());
    let next = story.confirm(5);
    assert_eq!(assigned(&next), ["a", "b"]);
    assert_eq!(story.tasks(), [("a", 1), ("b", 1), ("c", 0)]);
    // The slow one is a version behind, and counts less.
    assert_eq!(story.update(6, "c", 0), Decision::Accept);
    assert_eq!(story.buffer(), [("c", 0, 1)]);
    let weight = story.log.iter().find_map(|action| match action {
        Action::Publish(RunEvent::UpdateBuffered { staleness: 1, weight, .. }) => Some(*weight),
        _ => None,
    });
    assert!((weight.unwrap() - 0.5_f64.sqrt()).abs() < 1e-12);
    assert_eq!(story.tasks(), [("a", 1), ("b", 1), ("c", 1)], "and is asked again at once");
}

#[test]
fn as_many_train_as_may_and_free_places_are_taken() {
    let mut story = Story::new(fedbuff(3, Some(2)));
    story.join(1, &["a", "b", "c", "d"]);
    assert_eq!(story.tasks(), [("a", 0), ("b", 0)]);
    story.update(2, "a", 0);
    assert_eq!(story.tasks().len(), 2);
    assert!(!story.tasks().contains(&("a", 0)));
    // A lost worker gives its place to another when it was waited for long enough.
    let lost = story.tasks()[0].0.to_owned();
    story.at(3, Event::Left { worker: lost.clone() });
    assert_eq!(story.tasks().len(), 2);
    story.at(3_003, Event::Timer(Token::Rejoin { worker: lost.clone(), since: 3 }));
    assert_eq!(story.tasks().len(), 3, "its own task stays open until its deadline");
    assert_eq!(story.update(3_004, &lost, 0), Decision::Accept);
}

#[test]
fn an_update_counts_once_and_only_if_it_was_asked_for() {
    let mut story = Story::new(fedbuff(3, None));
    story.join(1, &["a", "b", "c"]);
    assert_eq!(story.update(2, "a", 0), Decision::Accept);
    assert_eq!(story.update(2, "a", 0), Decision::Duplicate);
    assert_eq!(reason(&story.update(2, "stranger", 0)), Some(RejectReason::StaleRound));
    assert_eq!(reason(&story.update(2, "b", 1)), Some(RejectReason::StaleRound));
    story.update(2, "b", 0);
    story.update(2, "c", 0);
    assert_eq!(story.update(2, "a", 0), Decision::Duplicate, "also while it is committed");
    story.confirm(3);
    assert_eq!(story.update(4, "a", 0), Decision::Duplicate, "and after that");
    assert_eq!(story.update(5, "a", 1), Decision::Accept);
    assert_eq!(reason(&story.update(6, "a", 0)), Some(RejectReason::StaleRound), "an old one never again");
    assert_eq!(story.buffer(), [("a", 1, 0)]);
}

#[test]
fn a_crash_loses_and_doubles_nothing() {
    let mut story = Story::new(fedbuff(3, None));
    story.join(1, &["a", "b", "c", "d"]);
    story.update(2, "a", 0);
    story.update(3, "c", 0);
    story.crash(10);
    assert_eq!(story.buffer(), [("a", 0, 0), ("c", 0, 0)]);
    assert!(!story.is_committing(), "those that were connected may come back");
    let back = story.join(11, &["a", "b", "c"]);
    assert_eq!(assigned(&back), ["b"], "a and c are in the buffer");
    assert_eq!(story.update(12, "a", 0), Decision::Duplicate);
    assert_eq!(story.update(12, "b", 0), Decision::Accept);
    // The last update was not persisted: the commit makes it durable, or it comes again.
    story.crash(20);
    assert_eq!(story.buffer().len(), 2);
    assert_eq!(story.update(21, "b", 0), Decision::Accept, "the same bytes, offered again");
    assert!(story.is_committing());
    story.confirm(22);
    story.crash(30);
    assert_eq!((story.machine.round(), story.buffer().len()), (1, 0));
    assert_eq!(story.update(31, "b", 0), Decision::Duplicate);
    assert_eq!(story.update(31, "d", 0), Decision::Accept, "d has trained the version before all the time");
    assert_eq!(story.buffer(), [("d", 0, 1)]);
}

#[test]
fn what_is_too_old_is_given_up_by_name() {
    let mut story = Story::new(fedbuff(1, None));
    story.join(1, &["a", "b"]);
    for version in 0..=STALE {
        assert_eq!(story.update(2 + version, "a", version), Decision::Accept);
        assert!(story.tasks().contains(&("b", 0)));
        story.confirm(2 + version);
    }
    let last = &story.log[story.log.len() - 12..];
    assert!(
        last.iter()
            .any(|action| matches!(action, Action::Publish(RunEvent::UpdateRejected { worker, reason, .. })
        if worker == "b" && reason == "too stale")),
        "{last:?}"
    );
    assert!(
        last.iter().any(|action| matches!(action, Action::Abandon { worker, round: 0, .. } if worker == "b"))
    );
    assert_eq!(story.tasks(), [("a", STALE + 1), ("b", STALE + 1)]);
    assert_eq!(reason(&story.update(9, "b", 0)), Some(RejectReason::TooStale));
    assert_eq!(story.update(9, "b", STALE + 1), Decision::Accept);
    let rejected = story.log.iter().rev().find_map(|action| match action {
        Action::Commit { rejected, .. } => Some(*rejected),
        _ => None,
    });
    assert_eq!(rejected, Some(2), "counted with the version in which it was given up");
}

#[test]
fn a_task_ends_at_its_deadline_and_is_not_waited_for_again() {
    let mut story = Story::new(fedbuff(3, None));
    story.join(1, &["a", "b"]);
    story.update(2, "a", 0);
    assert!(!story.is_committing());
    let actions = story.at(10_001, Event::Timer(Token::Task { worker: "b".into(), version: 0 }));
    assert!(
        actions
            .iter()
            .any(|a| matches!(a, Action::Publish(RunEvent::Late { workers, .. }) if workers == &["b"]))
    );
    // Two workers cannot fill a buffer of three: what there is makes the version.
    assert!(story.is_committing());
    story.confirm(10_002);
    assert_eq!(story.tasks(), [("a", 1), ("b", 1)], "late is asked again, since a place is free");
    story.update(10_003, "a", 1);
    assert!(story.is_committing(), "but not waited for");
    story.confirm(10_004);
    assert_eq!(story.update(10_005, "b", 1), Decision::Accept, "and counts when it comes");
    assert_eq!(story.buffer(), [("b", 1, 1)]);
}

#[test]
fn fewer_workers_than_places_in_the_buffer_do_not_hang() {
    let mut story = Story::new(Rules { min_updates: 2, ..fedbuff(10, None) });
    story.join(1, &["a", "b"]);
    story.update(2, "a", 0);
    assert!(!story.is_committing());
    story.update(3, "b", 0);
    assert!(story.is_committing());
    story.confirm(4);
    story.update(5, "a", 1);
    story.at(6, Event::Left { worker: "b".into() });
    story.at(3_006, Event::Timer(Token::Rejoin { worker: "b".into(), since: 6 }));
    // One of two updates, and nobody trains: said, until somebody comes.
    assert_eq!(story.log.last(), Some(&Action::Publish(RunEvent::Waiting { eligible: 1, needed: 2 })));
    assert_eq!(assigned(&story.join(4_000, &["c"])), ["c"]);
    story.update(4_001, "c", 1);
    assert!(story.is_committing());
}

#[test]
fn pause_keeps_the_buffer_and_resume_goes_on() {
    let mut story = Story::new(fedbuff(2, None));
    story.join(1, &["a", "b", "c"]);
    story.update(2, "a", 0);
    let paused = story.at(3, Event::Command(Command::Pause));
    assert_eq!(paused.iter().filter(|action| matches!(action, Action::Abandon { .. })).count(), 2);
    assert_eq!(reason(&story.update(4, "b", 0)), Some(RejectReason::StaleRound));
    story.crash(5);
    assert_eq!((story.machine.phase(), story.buffer().len()), (&Phase::Paused, 1));
    story.join(6, &["a", "b", "c"]);
    let resumed = story.at(7, Event::Command(Command::Resume));
    assert_eq!(assigned(&resumed), ["b", "c"]);
    story.update(8, "b", 0);
    assert!(story.is_committing());
    story.at(9, Event::Command(Command::Pause));
    let after = story.confirm(10);
    assert!(
        after
            .iter()
            .any(|action| matches!(action, Action::Abandon { worker, round: 0, .. } if worker == "c"))
    );
    assert_eq!((story.machine.phase(), story.tasks().len()), (&Phase::Paused, 0));
    story.at(11, Event::Command(Command::Cancel));
    assert_eq!(story.log.last(), Some(&Action::End(End::Cancelled)));
    assert_eq!(story.machine.ongoing(), Some(&Ongoing::default()));
}

#[test]
fn refusals_are_asked_again_and_end_a_run_that_nobody_serves() {
    let mut story = Story::new(fedbuff(2, None));
    story.join(0, &["a", "b"]);
    let decline = |worker: &str| Event::Declined {
        worker: worker.into(),
        round: 0,
        reason: DeclineReason::Data,
        detail: String::new(),
    };
    let mut now = 1;
    for attempt in 1..=3 {
        story.at(now, decline("a"));
        story.at(now, decline("b"));
        assert!(story.tasks().is_empty());
        now += 10_000;
        story.at(now, Event::Timer(Token::Deadline { round: 0, attempt }));
    }
    assert!(matches!(story.log.last(), Some(Action::End(End::Failed(why))) if why.contains("version 0")));
}

#[test]
fn a_quarantined_worker_loses_its_task_and_not_what_it_gave() {
    let mut story = Story::new(Rules { quarantine_after: 1, ..fedbuff(3, None) });
    story.join(1, &["a", "b", "c"]);
    story.update(2, "a", 0);
    let (worker, detail) = ("b".to_owned(), "NaN".to_owned());
    story.at(3, Event::Rejected { worker, round: 0, reason: RejectReason::NotFinite, detail });
    assert_eq!((story.tasks(), story.buffer().len()), (vec![("c", 0)], 1));
    story.at(4, Event::Quarantine { worker: "c".into(), on: true });
    assert!(story.is_committing(), "nobody else is left");
}

#[test]
fn the_last_version_ends_the_run() {
    let mut story = Story::new(Rules { rounds: 2, ..fedbuff(1, None) });
    story.join(1, &["a", "b"]);
    story.update(2, "a", 0);
    story.confirm(3);
    story.update(4, "b", 0);
    let end = story.confirm(5);
    assert_eq!(end.last(), Some(&Action::End(End::Finished)));
    assert_eq!(reason(&story.update(6, "a", 1)), Some(RejectReason::StaleRound));
    assert_eq!(story.update(6, "b", 0), Decision::Duplicate);
}

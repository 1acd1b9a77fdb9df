//! The virtual coordinator's part in private runs: the functions of `coordinator::private`, driven as
//! `coordinator::run::private` drives them.

use super::{Federation, receiving::Call, serving::Server, storing::Disk};
use crate::{Mutation, Schedule, invariants};
use algorithms::{Algorithm, Vectors, seed};
use coordinator::private::{Guard, Secret, Standing, Sum};
use privacy::{Event, Journal};
use proto::{spec::RunSpec, v1::RejectReason};

const GRID: &str = "a grid suits the norm";

impl Server {
    /// The disk of a private run that was submitted: its standing, and a ledger with what is paid for before
    /// the first round.
    pub(super) fn promise(&mut self, spec: &RunSpec, schedule: &Schedule) {
        let Some(guard) = &self.guard else { return };
        let mut standing = guard.start().expect("the operating system gives randomness");
        // From the seed: a simulation must be the same again.
        standing.stream = standing.stream.map(|_| secret(schedule.seed, 0));
        let (unit, adjacency) = (guard.spec().unit(), guard.spec().adjacency());
        let mut ledger = Journal::open(&spec.data.name, unit, adjacency);
        let before = guard.cost(0).filter(|_| schedule.mutation != Mutation::ReleaseBeforeLedger);
        pay(&mut ledger, self.run.as_str(), 0, before);
        (self.disk.standing, self.disk.ledger) = (Some(standing), Some(ledger));
        self.record = self.disk.clone();
    }
}

/// As `Store::release`: what was paid for is not paid for again.
fn pay(ledger: &mut Journal, run: &str, round: u64, event: Option<&Event>) {
    if let Some(event) = event.filter(|_| !ledger.paid(run, round)) {
        ledger.release(run, round, event.clone()).expect("the event is one of the ledger's unit");
    }
}

impl Federation {
    /// Secrets come from the schedule's seed: a simulation must be the same again.
    pub(super) fn lend_secret(&mut self) {
        let seed = self.schedule.seed;
        let Some(machine) = self.server.machine.as_mut().filter(|machine| machine.needs_secret()) else {
            return;
        };
        self.server.secrets += 1;
        machine.lend(secret(seed, self.server.secrets));
    }

    /// A commit pays for its round.
    pub(super) fn pay_for(&self, disk: &mut Disk, round: u64) {
        if let (Some(guard), Some(ledger)) = (&self.server.guard, &mut disk.ledger) {
            pay(ledger, self.server.run.as_str(), round + 1, guard.cost(round + 1));
        }
    }

    /// Where the coordinator adds up.
    fn summing(&self) -> Option<(&Guard, &Standing)> {
        let guard = self.server.guard.as_ref().filter(|guard| guard.adds_noise())?;
        Some((guard, self.server.record.standing.as_ref()?))
    }

    /// `None`: updates of this run are folded.
    pub(super) fn add_to_sum(&mut self, call: &Call) -> Option<Result<(), (RejectReason, String)>> {
        let (guard, standing) = self.summing()?;
        let guard = guard.clone();
        let fresh = guard.sum(standing).expect(GRID);
        let sum = self.server.sum.get_or_insert(fresh);
        Some(add(&guard, sum, call))
    }

    /// The sum of the accepted updates, added up anew in order of names.
    fn sum_again(&self, guard: &Guard, standing: &Standing) -> Sum {
        let mut again = guard.sum(standing).expect(GRID);
        for call in self.server.observed.accepted.values() {
            // One that does not fit was not accepted either.
            let _ = add(guard, &mut again, call);
        }
        again
    }

    /// The mean that a round releases, as the coordinator's commit makes it; `None`: updates of this run are
    /// folded.
    pub(super) fn released_mean(
        &mut self,
        disk: &mut Disk,
        round: u64,
        participants: &[String],
    ) -> Option<Vectors> {
        let (guard, standing) = self.summing()?;
        let (guard, again) = (guard.clone(), self.sum_again(guard, standing));
        let none = guard.sum(standing).expect(GRID);
        let sum = self.server.sum.take().unwrap_or(none);
        let once = invariants::once(participants, &[sum.count()]);
        self.report.require("once", self.now, once);
        let same = if sum == again { Ok(()) } else { Err(format!("{sum:?} is {again:?} by names")) };
        self.report.require("aggregate", self.now, same);
        if guard.has_shares() {
            return Some(self.mean_of_shares(&guard, sum, (round, participants.len())));
        }
        Some(self.noised_mean(&guard, sum, disk, round))
    }

    fn mean_of_shares(&mut self, guard: &Guard, mut sum: Sum, (round, count): (u64, usize)) -> Vectors {
        let least = guard.plan().shares.map_or(0, |shares| shares.least().get());
        let checked = invariants::enough(count, least);
        self.report.require("enough", self.now, checked);
        // As a defect, too few are filled up with what has no noise.
        while self.schedule.mutation == Mutation::FewShares && (sum.count() as u64) < least {
            let zeros = vec![0.0; sum.quanta().len()];
            sum.add(&zeros).expect("zero is in the ring");
        }
        let made = guard.release_shares(&sum, self.spec.lr(round), self.spec.rotation(round));
        made.expect("rounds with too few shares are not committed")
    }

    fn noised_mean(&mut self, guard: &Guard, sum: Sum, disk: &mut Disk, round: u64) -> Vectors {
        let mutation = self.schedule.mutation;
        let kept = self.server.machine.as_ref().and_then(|machine| machine.secret().cloned());
        let kept = kept.expect("a round with noise was opened with its secret");
        let life = u64::from(self.server.life);
        let fresh = |mutant: Mutation, kept: &Secret| {
            if mutation == mutant { secret(self.schedule.seed, 1_000 + life) } else { kept.clone() }
        };
        let standing = disk.standing.as_mut().expect("a private run has a standing");
        let mut noised = sum.clone();
        let mut moved = standing.clone();
        if mutation == Mutation::FreshNoise {
            moved.stream = moved.stream.map(|stream| fresh(mutation, &stream));
        }
        let at = if mutation == Mutation::StreamFromStart { round - self.server.began } else { round };
        let noise = |standing: &mut Standing, sum: &mut Sum, round: u64, secret: &Secret| {
            guard.add_noise(standing, sum, round, secret).expect("the noise is in bounds");
        };
        noise(&mut moved, &mut noised, at, &fresh(Mutation::FreshNoise, &kept));
        let mut added = difference(&noised, &sum);
        if mutation == Mutation::NoiseOfTheRound {
            let mut none = guard.sum(standing).expect(GRID);
            noise(&mut standing.clone(), &mut none, round, &kept);
            added = none.quanta().to_vec();
        }
        if mutation == Mutation::FreshCount {
            moved = standing.clone();
            noise(&mut moved, &mut sum.clone(), round, &fresh(mutation, &kept));
        }
        let mean = guard.means(&noised, self.spec.lr(round));
        let told = guard.tell(&sum, round, &fresh(Mutation::FreshMetrics, &kept)).expect("within bounds");
        let norm = moved.norm.get();
        let straight = guard.plan().strategy.as_ref().map(|_| {
            let mut none = guard.sum(standing).expect(GRID);
            noise(&mut standing.clone(), &mut none, round, &kept);
            none.quanta().to_vec()
        });
        let next = invariants::Noised { round, sum: sum.quanta().to_vec(), noise: added, norm, told };
        let checked = match &straight {
            None => invariants::noise(&self.noised, &next),
            Some(straight) => invariants::correlated(&self.noised, &next, straight),
        };
        standing.norm = moved.norm;
        standing.adaptive = moved.adaptive;
        if mutation == Mutation::NormBeforeLedger {
            self.server.disk.standing = Some(standing.clone());
        }
        self.noised.push(next);
        self.report.require("noise", self.now, checked);
        mean
    }

    /// The disk has a round: its ledger must have it, too, and nobody is in it who had no rounds left.
    pub(super) fn check_paid(&mut self, round: u64) {
        let Some(guard) = &self.server.guard else { return };
        let disk = &self.server.disk;
        let (Some(ledger), Some(standing)) = (&disk.ledger, &disk.standing) else { return };
        let (run, before) = (self.server.run.as_str(), guard.cost(0).is_some());
        let paid = invariants::paid(&self.report.rounds, ledger.entries(), run, before);
        self.norms.insert(round + 1, standing.norm.get());
        let cap = guard.spec().participation();
        let capped = cap.map_or(Ok(()), |cap| {
            invariants::capped(&self.report.rounds, (cap.most.get(), cap.separation.get()))
        });
        self.report.require("paid", self.now, paid);
        self.report.require("capped", self.now, capped);
    }

    /// The norm that a worker hears, where the coordinator adds the noise.
    pub(super) fn norm_for(&mut self, round: u64) -> Option<privacy::ClipNorm> {
        let standing = self.server.record.standing.as_ref().filter(|_| self.spec.has_central_noise())?;
        let norm = standing.norm;
        let checked = invariants::norm(round, norm.get(), &self.norms);
        self.report.require("norm", self.now, checked);
        Some(norm)
    }
}

fn add(guard: &Guard, sum: &mut Sum, call: &Call) -> Result<(), (RejectReason, String)> {
    sum.add(&call.upload.values)?;
    guard.count(sum, Some(call.upload.header.train_loss));
    Ok(())
}

fn difference(noised: &Sum, sum: &Sum) -> Vec<i64> {
    noised.quanta().iter().zip(sum.quanta()).map(|(noised, sum)| noised - sum).collect()
}

fn secret(from: u64, number: u64) -> Secret {
    let mut bits = [0; 32];
    for (part, chunk) in (0_u64..).zip(bits.chunks_mut(8)) {
        chunk.copy_from_slice(&seed::derive(from, "secret", &[number, part]).to_le_bytes());
    }
    Secret::new(bits)
}

/// The guard of a run, if it promises anything.
pub(super) fn guard(spec: &RunSpec, algorithm: &dyn Algorithm, dimension: usize) -> Option<Guard> {
    Guard::of(spec, algorithm, dimension).expect("the schedule's promise can be kept")
}

//! The virtual coordinator's part in private runs: the functions of `coordinator::private`, driven as
//! `coordinator::run::private` drives them.

use super::{Federation, receiving::Call, storing::Disk};
use crate::{Mutation, invariants};
use algorithms::{Vectors, seed};
use coordinator::private::{Guard, Secret, Sum};
use proto::v1::RejectReason;

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

    /// `None`: the run promises nothing.
    pub(super) fn add_to_sum(&mut self, call: &Call) -> Option<Result<(), (RejectReason, String)>> {
        let guard = self.server.guard.as_ref()?;
        let standing = self.server.record.standing.as_ref()?;
        let fresh = || guard.sum(standing).expect("a grid suits the norm");
        let sum = self.server.sum.get_or_insert_with(fresh);
        Some(sum.add(&call.upload.values))
    }

    /// The mean with noise, as the coordinator's commit makes it; `None`: the run promises nothing.
    pub(super) fn noised_mean(
        &mut self,
        disk: &mut Disk,
        round: u64,
        participants: &[String],
    ) -> Option<Vectors> {
        let guard: &Guard = self.server.guard.as_ref()?;
        let standing = disk.standing.as_mut()?;
        let sum: Sum =
            self.server.sum.take().unwrap_or_else(|| guard.sum(standing).expect("a grid suits the norm"));
        let once = invariants::once(participants, &[sum.count()]);
        let kept = self.server.machine.as_ref().and_then(|machine| machine.secret().cloned());
        let secret = match self.schedule.mutation {
            Mutation::FreshNoise => secret(self.schedule.seed, 1_000 + u64::from(self.server.life)),
            _ => kept.expect("a round with noise was opened with its secret"),
        };
        let mut noised = sum.clone();
        guard.add_noise(&mut standing.clone(), &mut noised, round, &secret).expect("the noise is in bounds");
        let mean = guard.means(&noised, self.spec.lr(round));
        let mut noise: Vec<i64> =
            noised.quanta().iter().zip(sum.quanta()).map(|(noised, sum)| noised - sum).collect();
        if self.schedule.mutation == Mutation::NoiseOfTheRound {
            let mut none = guard.sum(standing).expect("a grid suits the norm");
            guard.add_noise(standing, &mut none, round, &secret).expect("the noise is in bounds");
            noise = none.quanta().to_vec();
        }
        let next = invariants::Noised { round, sum: sum.quanta().to_vec(), noise };
        let checked = invariants::noise(&self.noised, &next);
        self.noised.push(next);
        self.report.require("once", self.now, once);
        self.report.require("noise", self.now, checked);
        Some(mean)
    }

    /// The disk has a round: its ledger must have it, too.
    pub(super) fn check_paid(&mut self) {
        if self.server.guard.is_some() {
            let checked = invariants::paid(&self.report.rounds, &self.server.disk.paid);
            self.report.require("paid", self.now, checked);
        }
    }
}

fn secret(from: u64, number: u64) -> Secret {
    let mut bits = [0; 32];
    for (part, chunk) in (0_u64..).zip(bits.chunks_mut(8)) {
        chunk.copy_from_slice(&seed::derive(from, "secret", &[number, part]).to_le_bytes());
    }
    Secret::new(bits)
}

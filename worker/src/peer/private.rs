//! A peer's own promise: in a private run its change of the model is shortened, gets exact noise and is paid
//! for in the peer's own ledger before the mixing machine hears of it. All that others ever see (models,
//! shares, sketches, digests) is made of that.
//!
//! Against whom: everybody who sees all messages, since nobody has to be trusted. What single peers learn of
//! each other is less; `starling privacy pairwise` says how much.
//!
//! Each change that may have left is paid for, also where a round is done twice (after an eviction, or when a
//! peer joins anew). When the budget has no room for another, the peer goes on mixing and trains no more.

use crate::{
    client_state,
    ledger::{Ledgers, Payment},
    trainer::draw_key,
};
use privacy::{
    Gate, Journal, Plan, PrivacySpec,
    accountants::report,
    sampler::{Kind, Sampler, shards},
};
use proto::spec::RunSpec;
use std::{fs::File, num::NonZeroU64, path::Path};

/// A peer's promise, its noise and its ledgers.
#[derive(Debug)]
pub(super) struct Private {
    spec: PrivacySpec,
    plan: Plan,
    sampler: Sampler,
    run: String,
    dataset: String,
    ledgers: Ledgers,
    /// One process at a time pays from a ledger.
    _lock: Option<File>,
}

impl Private {
    /// The promise of a run for a model of `length` scalars, with the ledgers of that folder; `None`: the run
    /// promises nothing. `shared`: other runs use the folder, too, so that it needs a lock of its own.
    ///
    /// # Errors
    /// If no noise keeps the promise, or the ledgers cannot be used.
    pub(super) fn open(
        spec: &RunSpec,
        (folder, shared): (&Path, bool),
        length: usize,
    ) -> Result<Option<Self>, String> {
        let Some(privacy) = &spec.privacy else { return Ok(None) };
        let plan = privacy.plan(spec.peer_facts(length)).map_err(|error| error.to_string())?;
        let variance = plan.grid.variance(plan.noise_multiplier).map_err(|error| error.to_string())?;
        let sampler = Sampler::new(Kind::Rounded, variance).map_err(|error| error.to_string())?;
        let lock = if shared {
            std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
            Some(client_state::lock(folder).map_err(|error| format!("{}: {error}", folder.display()))?)
        } else {
            None
        };
        let ledgers = Ledgers::open(folder).map_err(|error| error.to_string())?;
        let (run, dataset) = (spec.name.clone(), spec.data.name.clone());
        Ok(Some(Self { spec: privacy.clone(), plan, sampler, run, dataset, ledgers, _lock: lock }))
    }

    fn journal(&self) -> Option<&Journal> {
        self.ledgers.journals().find(|journal| journal.dataset() == self.dataset)
    }

    fn payment(&self, round: u64, rounds: NonZeroU64) -> Option<Payment> {
        let each = self.plan.each_round.clone()?;
        Some(Payment {
            dataset: self.dataset.clone(),
            run: self.run.clone(),
            round,
            unit: self.spec.unit(),
            adjacency: self.spec.adjacency(),
            event: privacy::Event { count: each.count.saturating_mul(rounds), ..each },
            gates: self.plan.gate.into_iter().collect(),
        })
    }

    /// Whether so many rounds fit what is left of the budget. A peer that comes back anew has paid for its
    /// past: one round must fit, and it stops to train when nothing is left.
    ///
    /// # Errors
    /// With the largest number of rounds that fits.
    pub(super) fn admit(&self, rounds: u64) -> Result<(), String> {
        let known = self.journal().is_some_and(|journal| journal.has_run(&self.run));
        let rounds = NonZeroU64::new(if known { 1 } else { rounds }).unwrap_or(NonZeroU64::MIN);
        let Some(payment) = self.payment(1, rounds) else { return Ok(()) };
        let Err(error) = self.ledgers.admit(&payment) else { return Ok(()) };
        let fits = |gate: &Gate| {
            let ledger = self.journal()?.ledger();
            gate.rounds(ledger, self.plan.each_round.as_ref()?).ok()
        };
        let most = self.plan.gate.as_ref().and_then(fits);
        let most = most.map_or_else(String::new, |most| format!("; at most {most} rounds fit"));
        Err(format!("{error}{most}"))
    }

    /// Why the budget has no room for another round.
    pub(super) fn spent(&self) -> Option<String> {
        let payment = self.payment(1, NonZeroU64::MIN)?;
        self.ledgers.admit(&payment).err().map(|error| error.to_string())
    }

    /// ε of all that left this peer, at the run's δ.
    pub(super) fn epsilon(&self) -> f64 {
        let Some(ledger) = self.journal().map(Journal::ledger) else { return 0.0 };
        let watched = |gate: &Gate| gate.epsilon(ledger).epsilon;
        self.plan.gate.as_ref().map_or_else(|| report::epsilon(ledger, self.spec.delta(), 1).epsilon, watched)
    }

    /// Makes the change of a round fit to leave, and pays for it, durably.
    ///
    /// # Errors
    /// If the budget has no room for it, or the ledger cannot be written: it must not leave.
    pub(super) fn release(&mut self, round: u64, change: &mut [f32]) -> Result<(), String> {
        if !change.iter().all(|x| x.is_finite()) {
            // A fact about the data, which nobody may learn.
            change.fill(0.0);
        }
        let grid = self.plan.grid;
        grid.clip(&mut [change]).map_err(|error| error.to_string())?;
        let mut quanta = grid.round_sum(change).map_err(|error| error.to_string())?;
        let key = draw_key().map_err(|error| error.to_string())?.release(0);
        for (shard, part) in shards(&mut quanta) {
            key.add_noise(&self.sampler, (0, shard), part, 1);
        }
        for (change, quanta) in change.iter_mut().zip(&quanta) {
            *change = (*quanta as f64 * grid.quantum()) as f32;
        }
        let Some(payment) = self.payment(round + 1, NonZeroU64::MIN) else { return Ok(()) };
        let digest = blake3::hash(bytemuck::cast_slice(change)).to_string();
        self.ledgers.pay(&payment, &digest).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn spec(rest: &str) -> RunSpec {
        RunSpec::from_toml(&format!(
            "name='p'\nmode='decentralised'\nrounds=4\n[model]\nkind='flat'\nparameters=3\n[data]\nname='d'\n\
             [algorithm]\nkind='sgp'\n[topology]\nkind='ring'\nnodes=4\n[privacy]\nunit='client'\n\
             adjacency='replace_one'\nmechanism='local_gaussian'\nclip_norm=1.0\ndelta=1e-5\n\
             sampling={{kind='everyone'}}\n{rest}"
        ))
        .unwrap()
    }

    #[test]
    fn each_change_is_paid_for_and_noised_and_the_budget_ends_it() {
        let folder = tempfile::tempdir().unwrap();
        let spec = spec("epsilon=8.0\n");
        let open = || Private::open(&spec, (folder.path(), true), 3).unwrap().unwrap();
        let mut private = open();
        private.admit(4).unwrap();
        assert!(private.admit(5).unwrap_err().contains("above the budget of 8"));
        let release = |private: &mut Private, round| {
            let mut change = vec![30.0, 0.0, 0.0];
            private.release(round, &mut change).map(|()| change)
        };
        let (one, two) = (release(&mut private, 0).unwrap(), release(&mut private, 0).unwrap());
        assert_ne!(one, two, "fresh noise each time, and each is paid for");
        assert!(Private::open(&spec, (folder.path(), true), 3).is_err(), "another process pays from it");
        drop(private);
        // A crash in the middle of a line, whose release never happened.
        let path = folder.path().join("ledger/d.jsonl");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{text}{{\"entry\":\"rel")).unwrap();
        let mut private = open();
        private.admit(4).unwrap();
        release(&mut private, 1).unwrap();
        assert!(private.spent().is_none());
        release(&mut private, 2).unwrap();
        assert!(private.spent().unwrap().contains("above the budget of 8"));
        assert!(release(&mut private, 3).unwrap_err().contains("above the budget"));
        let journal = Journal::parse(&fs::read_to_string(&path).unwrap()).unwrap();
        let again = report::epsilon(journal.ledger(), 1e-5, 1).epsilon;
        assert!((again - private.epsilon()).abs() < 1e-9 && again <= 8.0 && again > 7.9, "{again}");
        drop(private);
        let again = Private::open(&self::spec("epsilon=9.0\n"), (folder.path(), true), 3).unwrap().unwrap();
        let why = again.admit(4).unwrap_err();
        assert!(why.contains("at most 0 rounds fit"), "{why}");
    }

    #[test]
    fn the_noise_has_the_promised_size_and_a_ledger_of_others_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let text = spec("noise_multiplier=2.0\n");
        let mut private = Private::open(&text, (folder.path(), false), 3).unwrap().unwrap();
        let mut squares = 0.0;
        for round in 0..200 {
            let mut change = if round == 0 { vec![f32::NAN; 10] } else { vec![0.0; 10] };
            private.release(round, &mut change).unwrap();
            squares += change.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
        }
        // 2,000 squares: five deviations of their root are 8 %.
        let deviation = (squares / 2_000.0).sqrt();
        assert!((deviation / 2.0 - 1.0).abs() < 0.08, "{deviation}");
        drop(private);
        let file = folder.path().join("ledger/d.jsonl");
        let other = fs::read_to_string(&file).unwrap().replace("replace_one", "zero_out");
        fs::write(&file, other).unwrap();
        let private = Private::open(&text, (folder.path(), false), 3).unwrap().unwrap();
        assert!(private.admit(4).unwrap_err().contains("state the same"));
        fs::write(&file, "nonsense\n").unwrap();
        assert!(Private::open(&text, (folder.path(), false), 3).unwrap_err().contains("damaged"));
    }
}

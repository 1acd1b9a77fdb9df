//! A peer's own promise: in a private run its change of the model is shortened, gets exact noise and is paid
//! for in the peer's own ledger before the mixing machine hears of it. All that others ever see (models,
//! shares, sketches, digests) is made of that.
//!
//! Against whom: everybody who sees all messages, since nobody has to be trusted. What single peers learn of
//! each other is less; `starling privacy pairwise` says how much.
//!
//! Each change that may have left is paid for, also where a round is done twice (after an eviction, or when a
//! peer joins anew). When the budget has no room for another, the peer goes on mixing and trains no more.

use crate::trainer::fresh_key;
use privacy::{
    Entry, Gate, Journal, Plan, PrivacySpec,
    accountants::report,
    sampler::{Kind, Sampler, shards},
};
use proto::spec::RunSpec;
use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    num::NonZeroU64,
    path::{Path, PathBuf},
};

/// A peer's promise, its noise and its ledger.
#[derive(Debug)]
pub(super) struct Private {
    spec: PrivacySpec,
    plan: Plan,
    sampler: Sampler,
    run: String,
    journal: Journal,
    /// Locked: one process at a time pays from a ledger.
    file: File,
    path: PathBuf,
}

impl Private {
    /// The promise of a run for a model of `length` scalars, with the ledger of its data set in that folder;
    /// `None`: the run promises nothing.
    ///
    /// # Errors
    /// If no noise keeps the promise, the ledger cannot be used or what is left of the budget is too little
    /// for the run.
    pub(super) fn open(spec: &RunSpec, folder: &Path, length: usize) -> Result<Option<Self>, String> {
        let Some(privacy) = &spec.privacy else { return Ok(None) };
        let plan = privacy.plan(spec.peer_facts(length)).map_err(|error| error.to_string())?;
        let variance = plan.grid.variance(plan.noise_multiplier).map_err(|error| error.to_string())?;
        let sampler = Sampler::new(Kind::Rounded, variance).map_err(|error| error.to_string())?;
        let path = folder.join(format!("ledger-{}.jsonl", spec.data.name));
        let told = |error: std::io::Error| format!("{}: {error}", path.display());
        fs::create_dir_all(folder).map_err(told)?;
        let made = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
        let mut file = made.map_err(told)?;
        file.try_lock().map_err(|_| format!("{}: another peer pays from it", path.display()))?;
        let journal = read(&mut file, (&spec.data.name, privacy)).map_err(|why| {
            format!("{}: {why}; a ledger is never thrown away, put the right one back", path.display())
        })?;
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(told)?;
        Ok(Some(Self { spec: privacy.clone(), plan, sampler, run: spec.name.clone(), journal, file, path }))
    }

    /// Whether so many rounds fit what is left of the budget.
    ///
    /// # Errors
    /// With the largest number of rounds that fits.
    pub(super) fn admit(&self, rounds: u64) -> Result<(), String> {
        let known = |entry: &Entry| matches!(entry, Entry::Released { run, .. } if *run == self.run);
        // One that comes back anew has paid for its past and stops when nothing is left.
        let rounds = if self.journal.entries().iter().any(known) { 1 } else { rounds };
        let (Some(gate), Some(event), Some(count)) =
            (&self.plan.gate, &self.plan.each_round, NonZeroU64::new(rounds))
        else {
            return Ok(());
        };
        let whole = privacy::Event { count, ..event.clone() };
        let Err(error) = gate.admit(self.journal.ledger(), &whole) else { return Ok(()) };
        let most = gate.rounds(self.journal.ledger(), event).unwrap_or(0);
        Err(format!(
            "{error}; at most {most} rounds fit ({} holds ε = {:.4} already)",
            self.path.display(),
            self.epsilon()
        ))
    }

    /// Why the budget has no room for another round.
    pub(super) fn spent(&self) -> Option<String> {
        let (gate, event) = (self.plan.gate.as_ref()?, self.plan.each_round.as_ref()?);
        gate.admit(self.journal.ledger(), event).err().map(|error| error.to_string())
    }

    /// ε of all that left this peer, at the run's δ.
    pub(super) fn epsilon(&self) -> f64 {
        let ledger = self.journal.ledger();
        let watched = |gate: &Gate| gate.epsilon(ledger).epsilon;
        self.plan.gate.as_ref().map_or_else(|| report::epsilon(ledger, self.spec.delta(), 1).epsilon, watched)
    }

    /// Pays for a round, durably, and then makes its change fit to leave.
    ///
    /// # Errors
    /// If the budget has no room for it, the ledger cannot be written or the change is not finite: it must
    /// not leave.
    pub(super) fn release(&mut self, round: u64, change: &mut [f32]) -> Result<(), String> {
        if let Some(reason) = self.spent() {
            return Err(reason);
        }
        let grid = self.plan.grid;
        grid.clip(&mut [change]).map_err(|error| error.to_string())?;
        let mut quanta = grid.round_sum(change).map_err(|error| error.to_string())?;
        if let Some(event) = self.plan.each_round.clone() {
            let mut next = self.journal.clone();
            let line = next.release(&self.run, round + 1, event).map_err(|error| error.to_string())?;
            let written = self.file.write_all(line.as_bytes()).and_then(|()| self.file.sync_data());
            written.map_err(|error| format!("{}: {error}", self.path.display()))?;
            self.journal = next;
        }
        let key = fresh_key().map_err(|error| error.to_string())?;
        for (shard, part) in shards(&mut quanta) {
            key.add_noise(&self.sampler, (0, shard), part, 1);
        }
        for (change, quanta) in change.iter_mut().zip(&quanta) {
            *change = (*quanta as f64 * grid.quantum()) as f32;
        }
        Ok(())
    }
}

/// The lines of a ledger, or its first one. What a crash cut off was never released: it is cut off here, too.
fn read(file: &mut File, (dataset, spec): (&str, &PrivacySpec)) -> Result<Journal, String> {
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(|error| error.to_string())?;
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    let journal = if whole == 0 {
        Journal::open(dataset, spec.unit(), spec.adjacency())
    } else {
        Journal::parse(&text).map_err(|error| error.to_string())?
    };
    let promised = (spec.unit(), spec.adjacency());
    if (journal.ledger().unit(), journal.ledger().adjacency()) != promised {
        return Err("it counts another unit or adjacency: state the same in `[privacy]`".into());
    }
    if journal.dataset() != dataset {
        return Err(format!("it is of the data set `{}`", journal.dataset()));
    }
    let mut mend = || {
        file.set_len(whole as u64)?;
        file.seek(SeekFrom::End(0))?;
        if whole == 0 {
            file.write_all(journal.export().as_bytes())?;
        }
        file.sync_all()
    };
    mend().map_err(|error: std::io::Error| error.to_string())?;
    Ok(journal)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let open = || Private::open(&spec, folder.path(), 3).unwrap().unwrap();
        let mut private = open();
        private.admit(4).unwrap();
        assert!(private.admit(5).unwrap_err().contains("at most 4 rounds fit"));
        let release = |private: &mut Private, round| {
            let mut change = vec![30.0, 0.0, 0.0];
            private.release(round, &mut change).map(|()| change)
        };
        let (one, two) = (release(&mut private, 0).unwrap(), release(&mut private, 0).unwrap());
        assert_ne!(one, two, "fresh noise each time, and each is paid for");
        assert!(Private::open(&spec, folder.path(), 3).unwrap_err().contains("another peer pays"));
        drop(private);
        // A crash in the middle of a line, whose release never happened.
        let path = folder.path().join("ledger-d.jsonl");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{text}{{\"entry\":\"rel")).unwrap();
        let mut private = open();
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        release(&mut private, 1).unwrap();
        assert!(private.spent().is_none());
        release(&mut private, 2).unwrap();
        assert!(private.spent().unwrap().contains("above the budget of 8"));
        assert!(release(&mut private, 3).unwrap_err().contains("above the budget"));
        let journal = Journal::parse(&fs::read_to_string(&path).unwrap()).unwrap();
        let again = report::epsilon(journal.ledger(), 1e-5, 1).epsilon;
        assert!((again - private.epsilon()).abs() < 1e-9 && again <= 8.0 && again > 7.9, "{again}");
        let nan = private.release(4, &mut [f32::NAN; 3]);
        assert!(nan.is_err());
    }

    #[test]
    fn the_noise_has_the_promised_size_and_a_ledger_of_others_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let text = spec("noise_multiplier=2.0\n");
        let mut private = Private::open(&text, folder.path(), 3).unwrap().unwrap();
        let mut squares = 0.0;
        for round in 0..700 {
            let mut change = vec![0.0; 3];
            private.release(round, &mut change).unwrap();
            squares += change.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
        }
        // 2,100 squares: five deviations are 15 %.
        let deviation = (squares / 2_100.0).sqrt();
        assert!((deviation / 2.0 - 1.0).abs() < 0.08, "{deviation}");
        drop(private);
        let file = folder.path().join("ledger-d.jsonl");
        let other = fs::read_to_string(&file).unwrap().replace("replace_one", "zero_out");
        fs::write(&file, other).unwrap();
        assert!(Private::open(&text, folder.path(), 3).unwrap_err().contains("another unit or adjacency"));
        fs::write(&file, "nonsense\n").unwrap();
        assert!(Private::open(&text, folder.path(), 3).unwrap_err().contains("never thrown away"));
    }
}

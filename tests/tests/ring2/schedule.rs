//! What goes wrong in a scene, drawn from its seed: data, so that it can be printed and played again.

use algorithms::seed;
use std::fmt;

/// Workers of every scene.
pub(crate) const WORKERS: usize = 3;
/// Faults begin before this moment; those that last end a few seconds later.
const SAFETY_MS: u64 = 20_000;

/// What a run asks of its rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Every round waits for everybody: whatever happens, the models are those of a calm run.
    Everybody,
    /// Rounds close without those who are late.
    Impatient,
}

/// One kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// Nothing passes between a worker and the coordinator.
    Partition,
    /// Nothing passes from the worker.
    Mute,
    /// Nothing passes to the worker.
    Deaf,
    /// What is sent waits until the fault is over.
    Hold,
    /// Every message may take up to 1.5 s.
    Slow,
    /// The worker is gone, and starts again when the fault is over.
    Crash,
    /// As `Crash`, for the coordinator.
    CoordinatorCrash,
}

/// A fault with its time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    /// Virtual milliseconds after the run was submitted.
    pub(crate) from: u64,
    /// When it is over.
    pub(crate) until: u64,
    /// Which worker; nothing for [`Fault::CoordinatorCrash`].
    pub(crate) worker: usize,
    /// What.
    pub(crate) fault: Fault,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, until, worker, fault } = self;
        write!(f, "{from:>6} to {until:>6} ms  {fault:?}")?;
        if *fault == Fault::CoordinatorCrash { Ok(()) } else { write!(f, " of worker-{worker}") }
    }
}

/// A scene: everything that differs between two of them.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    pub(crate) seed: u64,
    pub(crate) pace: Pace,
    pub(crate) algorithm: &'static str,
    /// Mutual TLS, as deployments have it; its handshakes have randomness of their own.
    pub(crate) tls: bool,
    pub(crate) steps: Vec<Step>,
}

struct Dice {
    key: u64,
    draws: u64,
}

impl Dice {
    fn below(&mut self, low: u64, high: u64) -> u64 {
        self.draws += 1;
        low + seed::mix(self.key ^ seed::mix(self.draws)) % (high - low)
    }
}

impl Schedule {
    /// The scene of a seed.
    pub(crate) fn of(seed: u64, pace: Pace) -> Self {
        let algorithm = ["scaffold", "feddyn", "fedavg"][(seed / 2 % 3) as usize];
        let mut steps = Vec::new();
        for worker in 0..WORKERS {
            let mut dice = Dice { key: seed::derive(seed, "faults", &[worker as u64]), draws: 0 };
            // One after the other: the network knows one fault of a link at a time.
            let mut from = dice.below(300, 6_000);
            while from < SAFETY_MS {
                const KINDS: [Fault; 6] =
                    [Fault::Partition, Fault::Mute, Fault::Deaf, Fault::Hold, Fault::Slow, Fault::Crash];
                let fault = KINDS[dice.below(0, 6) as usize];
                let until = from + dice.below(200, 7_000);
                steps.push(Step { from, until, worker, fault });
                from = until + dice.below(300, 6_000);
            }
        }
        let mut dice = Dice { key: seed::derive(seed, "coordinator", &[]), draws: 0 };
        let mut from = dice.below(1_000, 8_000);
        while from < SAFETY_MS {
            let until = from + dice.below(100, 3_000);
            steps.push(Step { from, until, worker: 0, fault: Fault::CoordinatorCrash });
            from = until + dice.below(4_000, 12_000);
        }
        steps.sort_by_key(|step| step.from);
        Self { seed, pace, algorithm, tls: seed % 2 == 1, steps }
    }

    /// The same run undisturbed.
    pub(crate) fn calm(&self) -> Self {
        Self { steps: Vec::new(), ..self.clone() }
    }

    /// When the last fault is over.
    pub(crate) fn healed(&self) -> u64 {
        self.steps.iter().map(|step| step.until).max().unwrap_or(0)
    }

    /// The run file.
    pub(crate) fn spec(&self) -> String {
        let cohort = match self.pace {
            Pace::Everybody => "min_updates=3\ndeadline_s=600\nrejoin_s=600\n",
            Pace::Impatient => "min_updates=1\ndeadline_s=2\nrejoin_s=1\n",
        };
        let Self { seed, algorithm, .. } = self;
        format!(
            "name='ring'\nrounds=40\nseed={seed}\n[model]\nkind='flat'\nparameters=100000\n[data]\nname='digits'\n\
             [algorithm]\nkind='{algorithm}'\n[evaluation]\nevery=0\n[cohort]\nmin_workers={WORKERS}\n{cohort}"
        )
    }
}

//! What goes wrong between peers, drawn from a seed: data, so that it can be printed and played again.

use algorithms::seed;
use std::{collections::BTreeSet, fmt};

/// Peers that begin the run; one more may join.
pub(crate) const FOUNDERS: usize = 5;
/// Faults begin before this moment.
const SAFETY_MS: u64 = 22_000;
/// A peer that cannot be reached is given up after so many seconds.
const EVICT_S: f64 = 3.0;

/// One kind of fault, of one peer or of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// Nothing passes between two peers.
    Cut,
    /// Nothing passes from the one to the other.
    Mute,
    /// What is sent between two peers waits until the fault is over.
    Hold,
    /// Every message between two peers may take up to a second.
    Slow,
    /// A peer is cut off from all others.
    Alone,
    /// The peers fall apart into two sides, long enough to give each other up.
    Sides,
    /// The process is gone, and starts again with its state when the fault is over.
    Crash,
    /// The process is gone for good.
    Gone,
    /// A late peer joins.
    Join,
    /// A peer leaves in good order.
    Leave,
}

/// All kinds.
pub(crate) const KINDS: [Fault; 10] = [
    Fault::Cut,
    Fault::Mute,
    Fault::Hold,
    Fault::Slow,
    Fault::Alone,
    Fault::Sides,
    Fault::Crash,
    Fault::Gone,
    Fault::Join,
    Fault::Leave,
];

/// A fault with its time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    /// Virtual milliseconds after everybody has begun.
    pub(crate) from: u64,
    /// When it is over.
    pub(crate) until: u64,
    /// Which peer.
    pub(crate) a: usize,
    /// Which other, for faults of two; the first of the second side for [`Fault::Sides`].
    pub(crate) b: usize,
    /// What.
    pub(crate) fault: Fault,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, until, a, b, fault } = self;
        write!(f, "{from:>6} to {until:>6} ms  {fault:?} {a} {b}")
    }
}

/// How peers mix: algorithm, graph, barrier.
const WAYS: [(&str, &str, &str); 5] = [
    ("sgp", "one-peer-exponential", "synchronous"),
    ("sgp", "static-exponential", "asynchronous"),
    ("sgp", "directed-ring", "bounded"),
    ("dpsgd", "ring", "synchronous"),
    ("sgp", "base-graph", "synchronous"),
];

/// A scene: everything that differs between two of them.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    pub(crate) seed: u64,
    pub(crate) way: usize,
    pub(crate) steps: Vec<Step>,
    /// For runs that end by themselves.
    pub(crate) rounds: u64,
    evict_after_s: f64,
}

struct Dice {
    key: u64,
    draws: u64,
}

impl Dice {
    fn new(seed: u64, what: &str, index: u64) -> Self {
        Self { key: seed::derive(seed, what, &[index]), draws: 0 }
    }

    fn below(&mut self, low: u64, high: u64) -> u64 {
        self.draws += 1;
        low + seed::mix(self.key ^ seed::mix(self.draws)) % (high - low)
    }

    fn of(&mut self, from: &[usize]) -> usize {
        from[self.below(0, from.len() as u64) as usize]
    }
}

impl Schedule {
    /// The scene of a seed: two rows of faults, each one after the other.
    pub(crate) fn of(seed: u64) -> Self {
        let mut steps = Vec::new();
        // Whoever is gone or leaves is not crashed again; three are always left.
        let mut staying: Vec<usize> = (0..FOUNDERS).collect();
        let mut joined = false;
        for row in 0..2 {
            let mut dice = Dice::new(seed, "faults", row);
            let mut from = dice.below(300, 4_000);
            while from < SAFETY_MS {
                let mut fault = KINDS[dice.below(0, KINDS.len() as u64) as usize];
                match fault {
                    Fault::Gone | Fault::Leave if staying.len() == 3 => fault = Fault::Cut,
                    Fault::Join if joined => fault = Fault::Crash,
                    _ => {}
                }
                let a = dice.of(&staying);
                let others: Vec<usize> = (0..FOUNDERS).filter(|other| *other != a).collect();
                let b = if fault == Fault::Sides { dice.below(1, 5) as usize } else { dice.of(&others) };
                let lasts = match fault {
                    Fault::Sides | Fault::Alone => dice.below(1_000, 12_000),
                    Fault::Join | Fault::Leave | Fault::Gone => 0,
                    _ => dice.below(200, 6_000),
                };
                joined |= fault == Fault::Join;
                if matches!(fault, Fault::Gone | Fault::Leave) {
                    staying.retain(|other| *other != a);
                }
                steps.push(Step { from, until: from + lasts, a, b, fault });
                from += lasts + dice.below(300, 5_000);
            }
        }
        steps.sort_by_key(|step| step.from);
        let way = (seed % WAYS.len() as u64) as usize;
        Self { seed, way, steps, rounds: 1_000_000, evict_after_s: EVICT_S }
    }

    /// Faults that are over before anybody is suspected: rounds wait for everybody, and what comes out must be
    /// what a calm run gives.
    pub(crate) fn gentle(seed: u64) -> Self {
        let mut dice = Dice::new(seed, "gentle", 0);
        let mut steps = Vec::new();
        let mut from = dice.below(200, 600);
        while from < 8_000 {
            const GENTLE: [Fault; 3] = [Fault::Hold, Fault::Slow, Fault::Crash];
            let fault = GENTLE[dice.below(0, 3) as usize];
            let until = from + dice.below(100, 1_200);
            let a = dice.below(0, FOUNDERS as u64) as usize;
            let b = (a + dice.below(1, FOUNDERS as u64) as usize) % FOUNDERS;
            steps.push(Step { from, until, a, b, fault });
            from = until + dice.below(100, 900);
        }
        let way = [0, 3, 4][(seed % 3) as usize];
        Self { seed, way, steps, rounds: 40, evict_after_s: 600.0 }
    }

    /// The same run undisturbed.
    pub(crate) fn calm(&self) -> Self {
        Self { steps: Vec::new(), ..self.clone() }
    }

    /// Who is there in the end.
    pub(crate) fn survivors(&self) -> BTreeSet<usize> {
        let mut up: BTreeSet<usize> = (0..FOUNDERS).collect();
        for step in &self.steps {
            match step.fault {
                Fault::Gone | Fault::Leave => drop(up.remove(&step.a)),
                Fault::Join => drop(up.insert(FOUNDERS)),
                _ => {}
            }
        }
        up
    }

    /// The run file.
    pub(crate) fn spec(&self) -> String {
        let Self { seed, rounds, evict_after_s, .. } = self;
        let (algorithm, graph, barrier) = WAYS[self.way];
        format!(
            "name='ring'\nmode='decentralised'\nrounds={rounds}\nseed={seed}\n[model]\nkind='flat'\nparameters=30\n\
             [data]\nname='none'\n[algorithm]\nkind='{algorithm}'\n[local]\nsteps=3\nlr=0.02\n[evaluation]\nevery=0\n\
             [topology]\nkind='{graph}'\nnodes={FOUNDERS}\nbarrier='{barrier}'\nretry_ms=300\n\
             evict_after_s={evict_after_s:?}\n"
        )
    }
}

//! What one node of a decentralised run learns about another when all of them train and add noise in every
//! round, and it sees the messages on its own edges alone.
//!
//! Two numbers for each ordered pair. [`View::rounds`] is proved whatever the nodes train: a change that
//! cannot have reached a node by the end of the run is not among what it saw, and of each of the others it
//! saw no more than everybody would. [`View::linear`] counts the noise of the nodes between, too, and is exact
//! for what mixing reveals; it is proved where no change depends on what was received (one round of training
//! from a public model, with as many mixing steps as one likes, as in Cyffers, Even, Bellet and Massoulié
//! 2022), and says of more rounds what would be learned if the changes did not react.
//!
//! The noise of all messages is looked at together. To add up what each message reveals, as if it had noise of
//! its own, is no bound: it is made of noise that other messages tell of.

use crate::{ParameterError, parameters::require};

/// Products that [`View::linear`] is worth, for all nodes together.
const MOST_WORK: f64 = 4e10;
/// Numbers that [`Trace::reached`] keeps.
const MOST_STATES: f64 = 4e7;
/// A message that adds less to the others, relative to its length, adds rounding errors.
const NOTHING: f64 = 1e-9;

/// One mixing step.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// For each node, to whom its value goes with which weight, itself included.
    pub columns: Vec<Vec<(usize, f64)>>,
    /// Whether nodes add a change and its noise before it.
    pub trains: bool,
}

/// The mixing steps of a synchronous run.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    nodes: usize,
    steps: Vec<Step>,
}

impl View {
    /// The view of a run with these steps.
    ///
    /// # Errors
    /// If a step is not over `nodes` nodes.
    pub fn new(nodes: usize, steps: Vec<Step>) -> Result<Self, ParameterError> {
        for step in &steps {
            let inside = step.columns.iter().flatten().all(|(to, _)| *to < nodes);
            let count = step.columns.len();
            require(
                count == nodes && inside,
                "columns",
                count as f64,
                "one for each node, to nodes of the run",
            )?;
        }
        Ok(Self { nodes, steps })
    }

    /// For each node, how many of its changes can have reached node `v`; `None` for `v` itself.
    ///
    /// # Panics
    /// If there is no node `v`.
    pub fn rounds(&self, v: usize) -> Vec<Option<u64>> {
        assert!(v < self.nodes, "there is no such node");
        let mut count = vec![0; self.nodes];
        // Whether the value that a node has at this step, with its change, reaches v later on.
        let mut reaches = vec![false; self.nodes];
        for step in self.steps.iter().rev() {
            let goes_on = |column: &Vec<(usize, f64)>| {
                column.iter().any(|(to, weight)| *weight > 0.0 && (*to == v || reaches[*to]))
            };
            reaches = step.columns.iter().map(goes_on).collect();
            if step.trains {
                count.iter_mut().zip(&reaches).for_each(|(count, reaches)| *count += u64::from(*reaches));
            }
        }
        count.into_iter().enumerate().map(|(u, count)| (u != v).then_some(count)).collect()
    }

    /// For each node, the squared distance, in norms of one change over the deviation of its noise, by which
    /// its changes move what node `v` sees; `None` for `v` itself. At most [`Self::rounds`].
    ///
    /// # Errors
    /// If the run is too large for it.
    ///
    /// # Panics
    /// If there is no node `v`.
    pub fn linear(&self, v: usize) -> Result<Vec<Option<f64>>, ParameterError> {
        let trainings = self.steps.iter().filter(|step| step.trains).count();
        let seen = |step: &Step| senders(step, v).count();
        let rows = self.steps.iter().map(seen).sum::<usize>() as f64;
        let work = rows * rows * (self.nodes * trainings * self.nodes) as f64;
        require(work <= MOST_WORK, "rounds", trainings as f64, "fewer rounds, or fewer nodes")?;
        let basis = self.basis(v, trainings);
        let most = self.rounds(v);
        let moved = |u: usize| {
            let mut sum = 0.0;
            for s in 0..trainings {
                for t in 0..trainings {
                    let both = |q: &Vec<f64>| q[s * self.nodes + u] * q[t * self.nodes + u];
                    sum += basis.iter().map(both).sum::<f64>().abs();
                }
            }
            sum
        };
        Ok(most.iter().enumerate().map(|(u, most)| most.map(|most| moved(u).min(most as f64))).collect())
    }

    /// An orthonormal basis of the noise in what `v` sees: which combinations of all nodes' noise, one
    /// coordinate for each training round and node, it can form. Its own noise it knows.
    fn basis(&self, v: usize, trainings: usize) -> Vec<Vec<f64>> {
        let mut values = vec![vec![0.0; trainings * self.nodes]; self.nodes];
        let mut basis: Vec<Vec<f64>> = Vec::new();
        let mut training = 0;
        for step in &self.steps {
            if step.trains {
                for (node, value) in values.iter_mut().enumerate().filter(|(node, _)| *node != v) {
                    value[training * self.nodes + node] = 1.0;
                }
                training += 1;
            }
            for sender in senders(step, v) {
                extend(&mut basis, &values[sender]);
            }
            let mut mixed = vec![vec![0.0; trainings * self.nodes]; self.nodes];
            for (value, column) in values.iter().zip(&step.columns) {
                for (to, weight) in column {
                    mixed[*to].iter_mut().zip(value).for_each(|(sum, x)| *sum += weight * x);
                }
            }
            values = mixed;
        }
        basis
    }
}

fn senders(step: &Step, v: usize) -> impl Iterator<Item = usize> + '_ {
    let sends = move |(w, column): (usize, &Vec<(usize, f64)>)| {
        let to = column.iter().any(|(to, weight)| *to == v && *weight > 0.0);
        (w != v && to).then_some(w)
    };
    step.columns.iter().enumerate().filter_map(sends)
}

/// A vector that reached a node in a run that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Which node.
    pub by: usize,
    /// The mixing step of that node.
    pub at: u64,
    /// Whose vector; `None`: anybody's.
    pub from: Option<usize>,
    /// The mixing step of the sender whose value it is; `None`: any.
    pub step: Option<u64>,
}

/// What happened in a run that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// For each node, how many rounds it trained.
    pub trained: Vec<u64>,
    /// Mixing steps in a round.
    pub repeats: u64,
    /// Whether what arrives in a step is in what the node sends in the next one, and not before.
    pub in_step: bool,
    /// All vectors that reached somebody.
    pub arrivals: Vec<Arrival>,
}

impl Trace {
    /// For each node `v`, of how many rounds each node's changes can be in what reached `v`; `None` for `v` itself.
    /// A row for each `v`. What a node sends is made of its own changes so far and of what had reached it by then.
    ///
    /// # Errors
    /// If an arrival is at or from a node that is not there, or the run is too long for it.
    pub fn reached(&self) -> Result<Vec<Vec<Option<u64>>>, ParameterError> {
        let nodes = self.trained.len();
        let repeats = self.repeats.max(1);
        let named = |arrival: &Arrival| arrival.by.max(arrival.from.unwrap_or(0));
        let most = self.arrivals.iter().map(named).max().unwrap_or(0);
        require(self.arrivals.is_empty() || most < nodes, "arrivals", most as f64, "nodes of the run")?;
        let last = |arrival: &Arrival| arrival.at.max(arrival.step.unwrap_or(0)) + 1;
        let rounds = self.trained.iter().map(|rounds| rounds.saturating_mul(repeats)).max().unwrap_or(0);
        let steps = self.arrivals.iter().map(last).max().unwrap_or(0).max(rounds);
        let work = steps as f64 * (nodes * nodes) as f64;
        require(work <= MOST_STATES, "rounds", steps as f64, "fewer rounds, or fewer nodes")?;
        let steps = steps as usize + 1;
        // By node and step: how many rounds of each node can be in its value.
        let own = |u: usize, step: usize| (step as u64 / repeats + 1).min(self.trained[u]);
        let value = |u: usize| -> Vec<Vec<u64>> {
            let at = |step| (0..nodes).map(|w| if w == u { own(u, step) } else { 0 }).collect();
            (0..steps).map(at).collect()
        };
        let mut values: Vec<Vec<Vec<u64>>> = (0..nodes).map(value).collect();
        let mut arrivals: Vec<&Arrival> = self.arrivals.iter().collect();
        arrivals.sort_by_key(|arrival| (arrival.at.max(arrival.step.unwrap_or(0)), arrival.by));
        // Once in order of steps does in runs in step; more is needed where senders are ahead.
        loop {
            let mut moved = false;
            for arrival in &arrivals {
                let first = if self.in_step { last(arrival) } else { arrival.at } as usize;
                let brought = brought(arrival, &values);
                // What a node has, it has in all later steps.
                let later = values[arrival.by].iter_mut().skip(first);
                moved |= later.map_while(|value| raise(value, &brought).then_some(())).count() > 0;
            }
            if !moved {
                break;
            }
        }
        let mut rows = vec![vec![0; nodes]; nodes];
        for arrival in &arrivals {
            raise(&mut rows[arrival.by], &brought(arrival, &values));
        }
        let row = |(v, row): (usize, Vec<u64>)| {
            row.into_iter().enumerate().map(|(u, count)| (u != v).then_some(count)).collect()
        };
        Ok(rows.into_iter().enumerate().map(row).collect())
    }
}

/// What an arrival can bring.
fn brought(arrival: &Arrival, values: &[Vec<Vec<u64>>]) -> Vec<u64> {
    let of = |from: usize| {
        let last = values[from].len() - 1;
        &values[from][arrival.step.map_or(last, |step| (step as usize).min(last))]
    };
    match arrival.from {
        Some(from) => of(from).clone(),
        None => (0..values.len()).fold(vec![0; values.len()], |mut all, from| {
            raise(&mut all, of(from));
            all
        }),
    }
}

/// Raises numbers to others; whether one moved.
fn raise(numbers: &mut [u64], others: &[u64]) -> bool {
    let mut moved = false;
    for (number, other) in numbers.iter_mut().zip(others) {
        moved |= *number < *other;
        *number = (*number).max(*other);
    }
    moved
}

/// Adds the direction of a vector that the basis has not (Gram and Schmidt, twice for its rounding).
fn extend(basis: &mut Vec<Vec<f64>>, vector: &[f64]) {
    let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
    let whole = norm(vector);
    let mut rest = vector.to_vec();
    for _ in 0..2 {
        for q in basis.iter() {
            let along: f64 = q.iter().zip(&rest).map(|(q, x)| q * x).sum();
            rest.iter_mut().zip(q).for_each(|(x, q)| *x -= along * q);
        }
    }
    let length = norm(&rest);
    if length > NOTHING * whole {
        for x in &mut rest {
            *x /= length;
        }
        basis.push(rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(n: usize, trains: bool) -> Step {
        let third = 1.0 / 3.0;
        let column = |u| vec![((u + n - 1) % n, third), (u, third), ((u + 1) % n, third)];
        Step { columns: (0..n).map(column).collect(), trains }
    }

    #[test]
    fn what_has_not_arrived_was_not_seen() {
        let view = View::new(8, vec![ring(8, true); 5]).unwrap();
        let rounds = view.rounds(0);
        // A neighbour's change of each round, and one round less for each hop more.
        assert_eq!(rounds, [None, Some(5), Some(4), Some(3), Some(2), Some(3), Some(4), Some(5)]);
        let linear = view.linear(0).unwrap();
        for (most, linear) in rounds.iter().zip(&linear).skip(1) {
            let (most, linear) = (most.unwrap() as f64, linear.unwrap());
            assert!(linear > 0.0 && linear <= most, "{linear} {most}");
        }
        // Noise of those between hides what is far; a neighbour's fresh value is nearly bare.
        assert!(linear[1].unwrap() > 2.0 && linear[4].unwrap() < 0.2 * linear[1].unwrap(), "{linear:?}");
        assert!((linear[3].unwrap() - linear[5].unwrap()).abs() < 1e-9);
        // Steps over a graph without edges to v teach nothing.
        let alone = Step { columns: (0..3).map(|u| vec![(u, 1.0)]).collect(), trains: true };
        let view = View::new(3, vec![alone; 4]).unwrap();
        assert_eq!((view.rounds(1)[0], view.linear(1).unwrap()[0]), (Some(0), Some(0.0)));
    }

    /// What the ring's schedule makes arrive, less what `lost` says.
    fn arrivals(n: usize, steps: u64, lost: impl Fn(&Arrival) -> bool) -> Vec<Arrival> {
        let at = |step: u64| {
            (0..n).flat_map(move |by| {
                let from = [(by + n - 1) % n, (by + 1) % n];
                from.map(|from| Arrival { by, at: step, from: Some(from), step: Some(step) })
            })
        };
        (0..steps).flat_map(at).filter(|arrival| !lost(arrival)).collect()
    }

    #[test]
    fn a_run_that_went_as_planned_taught_what_was_planned_and_losses_teach_less() {
        for (n, repeats, rounds) in [(8, 1, 5), (7, 2, 3), (3, 1, 4)] {
            let plan = (0..rounds * repeats).map(|step| ring(n, step % repeats == 0)).collect();
            let view = View::new(n, plan).unwrap();
            let trace = |lost: &dyn Fn(&Arrival) -> bool| Trace {
                trained: vec![rounds; n],
                repeats,
                in_step: true,
                arrivals: arrivals(n, rounds * repeats, lost),
            };
            let reached = trace(&|_| false).reached().unwrap();
            for (v, row) in reached.iter().enumerate() {
                assert_eq!(*row, view.rounds(v), "{n} {repeats} {rounds}");
            }
            // Node 0 hears nobody, and its neighbours hear it.
            let deaf = trace(&|arrival| arrival.by == 0).reached().unwrap();
            assert!(deaf[0].iter().flatten().all(|count| *count == 0), "{deaf:?}");
            assert_eq!(deaf[1][0], Some(rounds));
            for (row, less) in reached.iter().flatten().zip(deaf.iter().flatten()) {
                assert!(less <= row);
            }
        }
    }

    #[test]
    fn what_came_late_or_from_a_sponsor_was_seen_all_the_same() {
        // 0 → 1 late, in its fourth step; 1 → 2 before and after.
        let arrival = |by, at, from, step| Arrival { by, at, from: Some(from), step: Some(step) };
        let mut trace = Trace {
            trained: vec![4, 4, 2],
            repeats: 1,
            in_step: true,
            arrivals: vec![arrival(1, 3, 0, 0), arrival(2, 3, 1, 3)],
        };
        assert_eq!(trace.reached().unwrap()[2], [Some(0), Some(4), None], "it is in what 1 sends next");
        trace.arrivals.push(arrival(2, 5, 1, 4));
        assert_eq!(trace.reached().unwrap()[2], [Some(1), Some(4), None]);
        // Out of step, what has arrived may be in anything that is sent from then on.
        trace.in_step = false;
        trace.arrivals.pop();
        assert_eq!(trace.reached().unwrap()[2], [Some(1), Some(4), None]);
        trace.arrivals = vec![Arrival { by: 0, at: 2, from: None, step: None }];
        assert_eq!(trace.reached().unwrap()[0], [None, Some(4), Some(2)]);
        trace.arrivals = vec![arrival(3, 0, 0, 0)];
        assert!(trace.reached().is_err());
        trace.arrivals = vec![arrival(1, u64::MAX / 2, 0, 0)];
        assert!(trace.reached().unwrap_err().to_string().contains("fewer rounds"));
    }

    #[test]
    fn messages_are_not_as_if_each_had_noise_of_its_own() {
        let n = 9;
        let linear = |mixings: usize| {
            let steps = (0..mixings).map(|step| ring(n, step == 0)).collect();
            View::new(n, steps).unwrap().linear(2).unwrap()
        };
        // A neighbour's first message is its own value.
        assert!((linear(1)[1].unwrap() - 1.0).abs() < 1e-9 && linear(1)[0] == Some(0.0));
        // Its second is a third of three values, of which node 2 knows two: the noise of node 0 is all that is
        // left. The sum over messages, (1/9)/(3/9) here, would say a third.
        assert!((linear(2)[0].unwrap() - 1.0).abs() < 1e-9, "{:?}", linear(2));
        // More messages never teach less, and nobody learns more than everybody does.
        for mixings in 1..6 {
            for (less, more) in linear(mixings).iter().zip(linear(mixings + 1)) {
                let (Some(less), Some(more)) = (less, more) else { continue };
                assert!(*less <= more + 1e-9 && more <= 1.0, "{mixings}: {less} {more}");
            }
        }
    }

    #[test]
    fn a_chain_by_hand() {
        // 0 → 1 → 2: node 2 sees (Δ0 + ξ0)/2 + (Δ1 + ξ1)/2 … of the second step only through node 1.
        let columns = vec![vec![(0, 0.5), (1, 0.5)], vec![(1, 0.5), (2, 0.5)], vec![(2, 1.0)]];
        let steps = vec![Step { columns: columns.clone(), trains: true }, Step { columns, trains: false }];
        let linear = View::new(3, steps).unwrap().linear(2).unwrap();
        // First y1, then y1/2 + y0/2: both are known in the end.
        assert_eq!(linear[2], None);
        assert!((linear[1].unwrap() - 1.0).abs() < 1e-12 && (linear[0].unwrap() - 1.0).abs() < 1e-12);
        assert!(View::new(2, vec![Step { columns: vec![vec![(2, 1.0)]; 2], trains: true }]).is_err());
        let error = View::new(200, vec![ring(200, true); 3000]).unwrap().linear(0).unwrap_err().to_string();
        assert!(error.contains("expected fewer rounds"), "{error}");
    }
}

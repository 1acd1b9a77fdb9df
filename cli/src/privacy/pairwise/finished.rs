//! What the peers of a run that is over can have learned about each other: from the lines that each of them
//! wrote of the vectors that reached it, and from their ledgers.

use super::{Args, Matrix, SHOWN, heat, steps};
use crate::{
    exit::{Code, Failure},
    output,
    privacy::setting::show,
    table,
};
use gossip::machine::Barrier;
use privacy::{
    Journal, Ledger,
    accountants::report,
    journal::Entry,
    pairwise::{Arrival, Trace, View},
};
use proto::{
    peers::id_of,
    spec::{Mixing, RunSpec},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};
use worker::peer::{SEEN, Seen};

/// A peer, as its directory tells of it.
struct Peer {
    name: String,
    seen: Vec<Seen>,
    ledger: Journal,
}

/// What was learned.
struct Learned {
    name: String,
    delta: f64,
    peers: Vec<String>,
    trained: Vec<u64>,
    each: Vec<f64>,
    matrix: Matrix,
    planned: Option<Matrix>,
    as_planned: bool,
}

/// Reads, computes and prints.
pub(super) fn main(args: &Args, spec: &RunSpec, mixing: &Mixing, delta: f64) -> Result<(), Failure> {
    let learned = learned(&args.peers, spec, mixing, delta)?;
    if let Some(file) = &args.svg {
        output::write_file(file, args.force, &[learned.svg().as_bytes()])?;
    }
    if args.json { output::line(learned.json(args.svg.as_deref())) } else { learned.print() }
}

fn learned(places: &[PathBuf], spec: &RunSpec, mixing: &Mixing, delta: f64) -> Result<Learned, Failure> {
    let mut peers = peers(places, spec)?;
    // As the topology numbers them.
    peers.sort_by_key(|peer| id_of(&peer.name));
    let number: BTreeMap<u64, usize> =
        peers.iter().enumerate().map(|(at, peer)| (id_of(&peer.name), at)).collect();
    let trained: Vec<u64> = peers.iter().map(|peer| rounds(&peer.ledger, &spec.name)).collect();
    let mut arrivals = Vec::new();
    for (by, peer) in peers.iter().enumerate() {
        for seen in &peer.seen {
            let Seen::Vector { from, step, at } = seen else { continue };
            let from = from.map(|id| number.get(&id).copied().ok_or(id)).transpose().map_err(|id| {
                let text = format!(
                    "`{}` has vectors of a peer with id {id:016x}, whose directory is not among --peers",
                    peer.name
                );
                Failure::new(Code::Data, text)
            })?;
            arrivals.push(Arrival { by, at: *at, from, step: *step });
        }
    }
    let in_step = mixing.config.barrier == Barrier::Synchronous;
    let trace = Trace { trained: trained.clone(), repeats: mixing.repeats, in_step, arrivals };
    let reached = trace.reached().map_err(|error| Failure::new(Code::Data, error))?;
    let costs: Vec<Vec<f64>> =
        peers.iter().map(|peer| costs(&peer.ledger, &spec.name, delta)).collect::<Result<_, _>>()?;
    let cell = |(u, count): (usize, &Option<u64>)| {
        count.map(|count| costs[u].get(count as usize).or(costs[u].last()).copied().unwrap_or(0.0))
    };
    let rows = |counts: &[Vec<Option<u64>>]| {
        Matrix(counts.iter().map(|row| row.iter().enumerate().map(cell).collect()).collect())
    };
    let planned = planned(spec, mixing, peers.len())?;
    Ok(Learned {
        name: spec.name.clone(),
        delta,
        each: costs.iter().map(|costs| costs.last().copied().unwrap_or(0.0)).collect(),
        as_planned: planned.as_ref() == Some(&reached),
        matrix: rows(&reached),
        planned: planned.map(|planned| rows(&planned)),
        peers: peers.into_iter().map(|peer| peer.name).collect(),
        trained,
    })
}

/// How many rounds of each are to reach each, if it is known beforehand.
fn planned(spec: &RunSpec, mixing: &Mixing, peers: usize) -> Result<Option<Vec<Vec<Option<u64>>>>, Failure> {
    let known = mixing.config.barrier == Barrier::Synchronous && mixing.config.deadline_ms.is_none();
    if !known || peers != mixing.nodes {
        return Ok(None);
    }
    let view = View::new(peers, steps(mixing, spec.rounds)).map_err(Failure::internal)?;
    Ok(Some((0..peers).map(|v| view.rounds(v)).collect()))
}

/// The directories of the run, among these and one level below.
fn peers(places: &[PathBuf], spec: &RunSpec) -> Result<Vec<Peer>, Failure> {
    let mut peers: Vec<Peer> = Vec::new();
    for place in places {
        let mut folders = vec![place.clone()];
        let below = std::fs::read_dir(place)
            .map_err(|error| Failure::new(Code::NotFound, format!("{}: {error}", place.display())))?;
        folders.extend(below.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()));
        for folder in folders.iter().filter(|folder| folder.join(SEEN).is_file()) {
            let peer = read(folder, spec)?;
            if peers.iter().any(|known| known.name == peer.name) {
                return Err(Failure::usage(format!("peer `{}` is there twice", peer.name)));
            }
            peers.push(peer);
        }
    }
    if peers.is_empty() {
        let text = format!("no peer of a private run has written a `{SEEN}` there");
        return Err(Failure::new(Code::NotFound, text));
    }
    Ok(peers)
}

fn read(folder: &Path, spec: &RunSpec) -> Result<Peer, Failure> {
    let file = folder.join(SEEN);
    let wrong = |text: String| Failure::new(Code::Data, format!("{}: {text}", file.display()));
    let text = output::read_text(&file)?;
    // A last line without its end was written by one that died before it used the vector.
    let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
    let lines = whole.lines().map(serde_json::from_str::<Seen>);
    let seen: Vec<Seen> = lines.collect::<Result<_, _>>().map_err(|error| wrong(error.to_string()))?;
    let Some(Seen::Started { peer, run, ledgers }) = seen.first() else {
        return Err(wrong("its first line does not say whose it is".to_owned()));
    };
    if *run != spec.name {
        return Err(wrong(format!("it is of run `{run}`, the run file is that of `{}`", spec.name)));
    }
    // Directories may have been brought together from other machines.
    let ledger = format!("ledger/{}.jsonl", spec.data.name);
    let there = [ledgers.join(&ledger), folder.join(&ledger)].into_iter().find(|path| path.is_file());
    let there = there.ok_or_else(|| wrong(format!("neither there nor here is a `{ledger}`")))?;
    let journal = Journal::parse(&output::read_text(&there)?)
        .map_err(|error| Failure::new(Code::Data, format!("{}: {error}", there.display())))?;
    Ok(Peer { name: peer.clone(), seen, ledger: journal })
}

/// Rounds, from 1, that a run released, and what each of them was.
fn releases<'a>(journal: &'a Journal, run: &'a str) -> impl Iterator<Item = (u64, &'a privacy::Event)> + 'a {
    journal.entries().iter().filter_map(move |entry| match entry {
        Entry::Released { run: of, round, event, .. } if of == run => Some((*round, event)),
        _ => None,
    })
}

fn rounds(journal: &Journal, run: &str) -> u64 {
    releases(journal, run).map(|(round, _)| round).max().unwrap_or(0)
}

/// ε of the first rounds of a run, by how many they are: of all that was released in them, also of a round that
/// was done again.
fn costs(journal: &Journal, run: &str, delta: f64) -> Result<Vec<f64>, Failure> {
    let (unit, adjacency) = (journal.ledger().unit(), journal.ledger().adjacency());
    let of = |count: u64| {
        let mut ledger = Ledger::new(unit, adjacency);
        for (_, event) in releases(journal, run).filter(|(round, _)| *round <= count) {
            ledger.record(event.clone()).map_err(Failure::internal)?;
        }
        Ok(if count == 0 { 0.0 } else { report::epsilon(&ledger, delta, 1).epsilon })
    };
    (0..=rounds(journal, run)).map(of).collect()
}

impl Learned {
    fn everybody(&self) -> f64 {
        self.each.iter().copied().fold(0.0, f64::max)
    }

    fn json(&self, drawing: Option<&Path>) -> Value {
        let planned = self
            .planned
            .as_ref()
            .map(|planned| json!({ "epsilon": planned.0, "most": planned.most(), "mean": planned.mean() }));
        json!({
            "run": self.name, "peers": self.peers, "nodes": self.peers.len(), "trained": self.trained,
            "delta": self.delta, "everybody": self.everybody(), "each": self.each, "epsilon": self.matrix.0,
            "most": self.matrix.most(), "mean": self.matrix.mean(), "planned": planned,
            "as_planned": self.as_planned, "drawing": drawing,
        })
    }

    fn svg(&self) -> String {
        let done = (format!("{}: epsilon at delta {:e}", self.name, self.delta), &self.matrix.0[..]);
        let planned = self.planned.as_ref().filter(|_| !self.as_planned);
        let planned = planned.map(|planned| ("as it was planned".to_owned(), &planned.0[..]));
        heat::svg(&std::iter::once(done).chain(planned).collect::<Vec<_>>(), self.everybody())
    }

    fn print(&self) -> Result<(), Failure> {
        if self.peers.len() <= SHOWN {
            let name = |(at, name): (usize, &String)| {
                vec![at.to_string(), name.clone(), self.trained[at].to_string(), show(self.each[at])]
            };
            let names: Vec<Vec<String>> = self.peers.iter().enumerate().map(name).collect();
            let heading = ["", "peer", "rounds", "epsilon against everybody"];
            output::line(format!("{}\n\n{}\n", table::table(&heading, &names), self.matrix.text()))?;
        }
        let planned = match &self.planned {
            Some(_) if self.as_planned => ", as planned".to_owned(),
            Some(planned) => format!(
                "; planned were at most {}, {} on average",
                show(planned.most()),
                show(planned.mean())
            ),
            None => "; what would arrive when was not known beforehand".to_owned(),
        };
        output::line(format!(
            "epsilon at delta {:e}: {} against everybody who saw all messages\n  a peer about another: at most \
             {}, {} on average{planned}",
            self.delta,
            show(self.everybody()),
            show(self.matrix.most()),
            show(self.matrix.mean())
        ))
    }
}

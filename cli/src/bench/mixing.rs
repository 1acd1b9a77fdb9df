//! What mixing itself costs: all peers of a run as machines in one process, without sockets, disks or training, and
//! its loops alone, against plain copies of the vectors that they send. A share is read and written twice and what
//! it is split off and added to as well: no mixing moves less than three copies of what it sends.

use super::round::Size;
use crate::{exit::Failure, output, table};
use gossip::{
    kernel::Slices,
    machine::{Action, Envelope, Event, Machine, Member, Membership},
};
use proto::spec::{Mixing, RunSpec};
use serde_json::{Value, json};
use std::{collections::VecDeque, hint::black_box, time::Instant};

/// Rounds before those that are measured.
const WARM: u64 = 2;

/// Measures a gossip round of simulated peers: the mixing machines of all of them in one process.
///
/// JSON: one object a line for each number of peers, with peers, parameters, topology, algorithm, rounds, seconds
/// (a round of all peers, on one thread, median), seconds_each (of one peer), bytes_each (that a peer sends in a
/// round), copy_seconds (of a plain copy of all vectors that are sent, from memory to memory), ratio (seconds over
/// copy_seconds), kernel_seconds (splitting shares off and adding them alone, push mode) and kernel_ratio (that over
/// the three copies that it moves).
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Numbers of peers
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values = ["8", "32", "128"])]
    peers: Vec<u16>,
    /// Scalars of the model; k, M and G are thousands, millions and milliards
    #[arg(long, value_name = "P", default_value = "1M")]
    parameters: Size,
    /// Who talks to whom
    #[arg(long, value_name = "KIND", default_value = "one-peer-exponential")]
    topology: String,
    /// How peers mix
    #[arg(long, value_name = "KIND", default_value = "sgp")]
    algorithm: String,
    /// Rounds to measure
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1000))]
    rounds: u64,
    /// Prints JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Measures all and prints.
pub(crate) fn measure(args: &Args) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for peers in &args.peers {
        let found = one(args, *peers)?;
        if args.json {
            output::line(&found)?;
        }
        let cell = |key: &str, scale: f64, digits: usize| {
            found[key].as_f64().map_or_else(|| "–".to_owned(), |value| format!("{:.digits$}", value * scale))
        };
        rows.push(vec![
            peers.to_string(),
            cell("seconds", 1e3, 1),
            cell("seconds_each", 1e3, 2),
            table::bytes(found["bytes_each"].as_f64().unwrap_or_default() as u64),
            cell("ratio", 1.0, 2),
            cell("kernel_ratio", 1.0, 2),
        ]);
    }
    if args.json {
        return Ok(());
    }
    output::line(table::table(
        &["peers", "ms a round", "ms each", "sent by each", "× a copy", "loops × their copies"],
        &rows,
    ))
}

fn one(args: &Args, peers: u16) -> Result<Value, Failure> {
    let run = format!(
        "name='bench'\nmode='decentralised'\nrounds={}\n[model]\nkind='flat'\nparameters={}\n[data]\nname='none'\n\
         [algorithm]\nkind='{}'\n[topology]\nkind='{}'\nnodes={peers}\n",
        args.rounds + WARM,
        args.parameters.get(),
        args.algorithm,
        args.topology
    );
    let mixing = RunSpec::from_toml(&run).and_then(|spec| spec.mixing()).map_err(Failure::usage)?;
    if mixing.compressor.is_some() {
        return Err(Failure::usage(format!(
            "--algorithm {}: peers compress outside of the machine; measure them with `bench gossip`",
            args.algorithm
        )));
    }
    let length = args.parameters.get() as usize;
    let mut network = Network::new(&mixing, length)?;
    let (mut seconds, mut sent) = (Vec::new(), 0);
    for round in 0..args.rounds + WARM {
        let (spent, bytes) = network.round(round)?;
        if round >= WARM {
            seconds.push(spent);
            sent = bytes;
        }
    }
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    drop(network);
    let times = (sent / (4 * length as u64)).max(1);
    let (copy, kernel) = loops(times, length);
    Ok(json!({
        "peers": peers, "parameters": length, "topology": args.topology, "algorithm": args.algorithm,
        "rounds": args.rounds, "seconds": median, "seconds_each": median / f64::from(peers),
        "bytes_each": sent as f64 / f64::from(peers), "copy_seconds": copy, "ratio": median / copy,
        "kernel_seconds": kernel, "kernel_ratio": kernel / (3.0 * copy),
    }))
}

/// All peers, and what is under way between them.
struct Network {
    nodes: Vec<Machine<f32>>,
    mail: VecDeque<Envelope<f32>>,
    sent: u64,
}

impl Network {
    fn new(mixing: &Mixing, length: usize) -> Result<Self, Failure> {
        let members = Membership::new((0..mixing.nodes as u64).map(|id| Member { id, incarnation: 0 }));
        let node = |member: Member| {
            let model: Vec<f32> = (0..length).map(|k| ((k as u64 + member.id) % 113) as f32 * 0.01).collect();
            Machine::new(mixing.config.clone(), member, members.clone(), (0, model))
        };
        let nodes: Result<Vec<_>, _> = members.live().into_iter().map(node).collect();
        Ok(Self { nodes: nodes.map_err(Failure::internal)?, mail: VecDeque::new(), sent: 0 })
    }

    /// Seconds in the machines, and bytes of the vectors that were sent.
    fn round(&mut self, round: u64) -> Result<(f64, u64), Failure> {
        self.sent = 0;
        let mut spent = 0.0;
        for id in 0..self.nodes.len() {
            let Some(errand) = self.nodes[id].errand() else { continue };
            let change = vec![1e-3; errand.model.len()];
            spent += self.handle(id, Event::Trained { round, done: errand.done(change, (0.1, 1), None) });
        }
        while let Some(envelope) = self.mail.pop_front() {
            spent += self.handle(envelope.to.id as usize, Event::Received(envelope));
        }
        if self.nodes.iter().all(|node| node.round() == round + 1) {
            Ok((spent, self.sent))
        } else {
            Err(Failure::internal("a round without loss did not end"))
        }
    }

    fn handle(&mut self, id: usize, event: Event<f32>) -> f64 {
        let began = Instant::now();
        let actions = self.nodes[id].handle(event, 0);
        let spent = began.elapsed().as_secs_f64();
        for action in actions {
            if let Action::Send(envelope) = action {
                let (_, payload) = proto::peers::write(&envelope);
                self.sent += payload.map_or(0, |payload| 4 * payload.len() as u64);
                self.mail.push_back(envelope);
            }
        }
        spent
    }
}

/// Bytes of each side of a copy that no cache holds.
const BEYOND: u64 = 256 << 20;

/// Seconds that copies of so many vectors take, and to split as many shares off and to add them elsewhere: in turns
/// over the same memory, which was used before and does not fit into a cache; each the least of three.
fn loops(times: u64, length: usize) -> (f64, f64) {
    let pairs = (BEYOND / (4 * length as u64)).clamp(2, times.max(2)) as usize;
    let mut x = vec![vec![1.0_f32; length]; pairs];
    let mut shares: Vec<[(f32, Vec<f32>); 1]> = (0..pairs).map(|_| [(0.5, vec![0.0; length])]).collect();
    let (mut copy, mut kernel) = (f64::INFINITY, f64::INFINITY);
    let each = || (0..times as usize).map(|k| k % pairs);
    for _ in 0..3 {
        let began = Instant::now();
        for k in each() {
            shares[k][0].1.copy_from_slice(black_box(&x[k]));
            black_box(&mut shares[k][0].1);
        }
        copy = began.elapsed().as_secs_f64().min(copy);
        let began = Instant::now();
        for k in each() {
            f32::split(black_box(&mut x[k]), &mut shares[k]);
        }
        for k in each() {
            f32::add_all(black_box(&mut x[(k + 1) % pairs]), &[&shares[k][0].1]);
        }
        kernel = began.elapsed().as_secs_f64().min(kernel);
    }
    (copy, kernel)
}

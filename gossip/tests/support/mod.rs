//! A network of machines on a virtual clock: seeded loss, delay, reordering and duplication, crashes,
//! partitions and an operator who evicts. After every event it counts the mass.

#![allow(clippy::unwrap_used, dead_code, unreachable_pub, reason = "tests, each of which uses a part of it")]

use gossip::{
    Mass, Params,
    machine::{
        Action, Barrier, Body, Config, Content, Done, Envelope, Event, Machine, Member, Membership, Method,
        Phase,
    },
    make,
    report::Mode,
    seed::Stream,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub type Node = Machine<f64>;

/// How bad the network is.
#[derive(Debug, Clone, Copy)]
pub struct Faults {
    /// Probability that a message is lost, whatever it is.
    pub loss: f64,
    /// Probability that it comes twice.
    pub duplicate: f64,
    /// Largest delay in milliseconds; delays are drawn one by one, so messages overtake each other.
    pub delay: usize,
}

/// Where everybody begins.
const ORIGIN: [f64; 3] = [0.0; 3];

pub const CALM: Faults = Faults { loss: 0.0, duplicate: 0.0, delay: 1 };

#[derive(Debug)]
enum Due {
    Message(Envelope<f64>),
    Trained {
        member: Member,
        round: u64,
        done: Done<f64>,
    },
    Tick(Member),
    /// A peer tells another what it knows of the membership.
    Gossip,
}

#[derive(Debug)]
pub struct Peer {
    pub node: Node,
    /// Crashed: keeps its state and does nothing.
    pub down: bool,
    pub left: bool,
    wake: Option<u64>,
}

/// What a peer that was evicted while alive does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Return {
    /// Comes back with its own model and mass 1.
    Own,
    /// Comes back with the model of another live peer and mass 1.
    Copy,
}

#[derive(Debug)]
pub struct Net {
    pub now: u64,
    pub faults: Faults,
    pub peers: BTreeMap<u64, Peer>,
    /// One side of a partition.
    pub cut: BTreeSet<u64>,
    pub return_by: Return,
    /// Step size, and for each id the diagonal and the optimum of its quadratic.
    pub eta: f64,
    pub tasks: BTreeMap<u64, (Vec<f64>, Vec<f64>)>,
    /// By how many more examples than the last each node has; 0: all as many.
    pub sizes: u64,
    /// Local steps a round.
    pub steps: u64,
    /// What neighbours decode of a vector.
    pub compress: fn(&[f64]) -> Vec<f64>,
    /// Longest training in milliseconds.
    pub training: usize,
    pub lowest_mass: f64,
    /// Times the whole mass was compared with the published sum.
    pub counted: u64,
    /// Times the tracked gradients were compared with what was put in.
    pub tracked: u64,
    config: Config,
    stream: Stream,
    queue: BTreeMap<(u64, u64), Due>,
    order: u64,
    published: Option<(Membership, Mass)>,
}

pub fn config(kind: &str, keys: serde_json::Value, mode: Mode, barrier: Barrier) -> Config {
    let params: Params = serde_json::from_value(keys).unwrap();
    let topology = Arc::from(make(kind, &params).unwrap());
    let method = Method::Average;
    let (w_min, deadline_ms, retry_ms) = (0.3, None, 20);
    Config { topology, mode, method, weighted: false, barrier, seed: 5, w_min, deadline_ms, retry_ms }
}

impl Net {
    pub fn new(config: Config, nodes: u64, seed: u64) -> Self {
        Self::sized(config, nodes, (seed, 0))
    }

    /// Of nodes with unequal numbers of examples.
    pub fn sized(config: Config, nodes: u64, (seed, sizes): (u64, u64)) -> Self {
        let members = Membership::new((0..nodes).map(|id| Member { id, incarnation: 0 }));
        let mut net = Self {
            now: 0,
            faults: CALM,
            peers: BTreeMap::new(),
            cut: BTreeSet::new(),
            return_by: Return::Own,
            eta: 0.05,
            tasks: BTreeMap::new(),
            sizes,
            steps: 1,
            compress: <[f64]>::to_vec,
            training: 5,
            lowest_mass: 1.0,
            counted: 0,
            tracked: 0,
            config,
            stream: Stream::new(seed, "network", &[]),
            queue: BTreeMap::new(),
            order: 0,
            published: None,
        };
        let mut tasks = Stream::new(seed, "tasks", &[]);
        for id in 0..nodes + 8 {
            let diagonal = (0..3).map(|_| 0.5 + 1.5 * tasks.unit()).collect();
            net.tasks.insert(id, (diagonal, (0..3).map(|_| 4.0 * tasks.unit() - 2.0).collect()));
        }
        let mut all = members.clone();
        members.live().into_iter().for_each(|member| all.weigh(member, net.examples(member)));
        for member in members.live() {
            net.start(member, all.clone(), (0, vec![0.0; 3]));
        }
        net.schedule(5, Due::Gossip);
        net
    }

    /// Steps on `Σ (a/2)(x − c)²`: everybody's own quadratic.
    fn train(&self, node: &Node) -> Done<f64> {
        let (a, c) = &self.tasks[&node.me().id];
        let errand = node.errand().unwrap();
        let mut y = errand.model.to_vec();
        for _ in 0..self.steps {
            for (k, y) in y.iter_mut().enumerate() {
                let shift = errand.shift.as_ref().map_or(0.0, |shift| shift[k]);
                *y -= self.eta * (a[k] * (*y - c[k]) + shift);
            }
        }
        let mut change: Vec<f64> = y.iter().zip(&*errand.model).map(|(y, x)| y - x).collect();
        errand.weigh(&mut change);
        let difference =
            errand.off((&errand.model, &change), &ORIGIN).map(|off| (self.compress)(&off).into());
        errand.done(change, (self.eta, self.steps), difference)
    }

    /// Minimum of the weighted sum of the quadratics of those who are up.
    pub fn optimum(&self) -> Vec<f64> {
        let weight = |node: &Node| if self.config.weighted { self.examples(node.me()) as f64 } else { 1.0 };
        let up: Vec<_> = self.up().map(|node| (weight(node), &self.tasks[&node.me().id])).collect();
        let total = |k: usize| up.iter().map(|(n, (a, _))| n * a[k]).sum::<f64>();
        (0..3).map(|k| up.iter().map(|(n, (a, c))| n * a[k] * c[k]).sum::<f64>() / total(k)).collect()
    }

    /// On how many examples a node trains.
    fn examples(&self, member: Member) -> u64 {
        if self.sizes == 0 { 7 } else { 1 + member.id * self.sizes }
    }

    /// Largest distance of any model from `point`.
    pub fn distance(&self, point: &[f64]) -> f64 {
        let off = |node: &Node| {
            node.model().unwrap().iter().zip(point).map(|(x, p)| (x - p).abs()).fold(0.0, f64::max)
        };
        self.up().map(off).fold(0.0, f64::max)
    }

    pub fn mean_model(&self) -> Vec<f64> {
        let models: Vec<_> = self.up().filter_map(Node::model).collect();
        (0..3).map(|k| models.iter().map(|model| model[k]).sum::<f64>() / models.len() as f64).collect()
    }

    pub fn up(&self) -> impl Iterator<Item = &Node> {
        self.peers.values().filter(|peer| !peer.down && !peer.left).map(|peer| &peer.node)
    }

    pub fn up_ids(&self) -> Vec<u64> {
        self.up().map(|node| node.me().id).collect()
    }

    pub fn lowest_round(&self) -> u64 {
        self.up().map(Node::round).min().unwrap_or(0)
    }

    /// Another network for the same tasks.
    pub fn reseed(&mut self, seed: u64) {
        self.stream = Stream::new(seed, "network", &[]);
    }

    /// Trains the first round again, with the settings as they are now.
    pub fn begin_again(&mut self) {
        let dones: BTreeMap<u64, Done<f64>> =
            self.peers.iter().map(|(id, peer)| (*id, self.train(&peer.node))).collect();
        for due in self.queue.values_mut() {
            if let Due::Trained { member, done, .. } = due {
                *done = dones[&member.id].clone();
            }
        }
    }

    /// Gives node i a first change of `moved[i]` in the first coordinate, in place of its first training.
    pub fn set_models(&mut self, moved: &[f64]) {
        for due in self.queue.values_mut() {
            if let Due::Trained { member, done, .. } = due {
                done.change[0] = moved[member.id as usize];
                done.difference = done.difference.take().map(|_| (self.compress)(&done.change).into());
            }
        }
    }

    fn schedule(&mut self, after: u64, due: Due) {
        self.order += 1;
        self.queue.insert((self.now + after, self.order), due);
    }

    fn start(&mut self, member: Member, membership: Membership, (round, model): (u64, Vec<f64>)) {
        let node = Machine::new(self.config.clone(), member, membership, (round, model)).unwrap();
        self.install(node.from_origin(&ORIGIN));
    }

    fn install(&mut self, node: Node) {
        let id = node.me().id;
        self.peers.insert(id, Peer { node, down: false, left: false, wake: None });
        self.event(id, Event::Start);
    }

    /// A model to copy, from somebody whom `id` can reach.
    fn sponsor(&mut self, id: u64) -> Option<(Membership, (u64, Vec<f64>))> {
        let side = self.cut.contains(&id);
        let able = |node: &&Node| node.phase() != Phase::Leaving && self.cut.contains(&node.me().id) == side;
        let others: Vec<u64> = self.up().filter(able).map(|node| node.me().id).filter(|o| *o != id).collect();
        let sponsor = *others.get(self.stream.below(others.len()))?;
        let node = &self.peers[&sponsor].node;
        Some((node.membership().clone(), (node.round(), node.model()?.to_vec())))
    }

    /// A new peer, or one that crashed, as a new incarnation with a sponsor's model.
    pub fn join(&mut self, id: u64) {
        let Some((mut membership, start)) = self.sponsor(id) else { return };
        let mut member = membership.next(id);
        if let Some(old) = self.peers.remove(&id) {
            member = member.max(old.node.membership().next(id));
        }
        membership.admit(member);
        membership.weigh(member, self.examples(member));
        self.start(member, membership, start);
    }

    /// A crashed peer with the state that it had stored, written and read as JSON.
    pub fn resume(&mut self, id: u64) {
        let Some(peer) = self.peers.get(&id).filter(|peer| peer.down) else { return };
        let stored = serde_json::to_string(peer.node.state()).unwrap();
        let state = serde_json::from_str(&stored).unwrap();
        self.install(Machine::resume(self.config.clone(), state).unwrap());
    }

    pub fn crash(&mut self, id: u64) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.down = true;
        }
    }

    /// Tells one live peer that `id` is gone; the others hear of it from each other.
    pub fn evict(&mut self, id: u64, tell: u64) {
        let Some(teller) = self.peers.get(&tell).filter(|peer| !peer.down && !peer.left) else { return };
        let mut membership = teller.node.membership().clone();
        let Some(member) = membership.live().into_iter().find(|member| member.id == id) else { return };
        membership.evict(member);
        self.event(tell, Event::Membership(membership));
    }

    pub fn leave(&mut self, id: u64) {
        self.event(id, Event::Leave);
    }

    pub fn suspect(&mut self, by: u64, id: u64, suspected: bool) {
        self.event(by, Event::Suspected { id, suspected });
    }

    fn event(&mut self, id: u64, event: Event<f64>) {
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| !peer.down && !peer.left) else { return };
        let actions = peer.node.handle(event, self.now);
        for action in actions {
            self.act(id, action);
        }
        self.check();
    }

    fn act(&mut self, id: u64, action: Action<f64>) {
        match action {
            Action::Send(envelope) => self.transmit(&envelope),
            Action::Train { round } => {
                let node = &self.peers[&id].node;
                let (member, done) = (node.me(), self.train(node));
                let after = 1 + self.stream.below(self.training) as u64;
                self.schedule(after, Due::Trained { member, round, done });
            }
            Action::WakeAt(at) => {
                let peer = self.peers.get_mut(&id).unwrap();
                peer.wake = Some(at);
                let (member, after) = (peer.node.me(), at.saturating_sub(self.now));
                self.schedule(after, Due::Tick(member));
            }
            Action::Left => self.peers.get_mut(&id).unwrap().left = true,
            Action::Evicted => self.come_back(id),
            Action::Epoch { .. } => {}
            Action::Ignored(what) => panic!("{what}"),
        }
    }

    fn come_back(&mut self, id: u64) {
        let own = self.peers[&id].node.model().map(|model| model.to_vec());
        let copies = self.return_by == Return::Copy && self.sponsor(id).is_some();
        let Some(model) = own.filter(|_| !copies) else {
            self.join(id);
            return;
        };
        let node = self.peers.remove(&id).unwrap().node;
        let mut membership = node.membership().clone();
        let me = membership.next(id);
        membership.admit(me);
        membership.weigh(me, self.examples(me));
        self.start(me, membership, (node.round(), model));
    }

    fn transmit(&mut self, envelope: &Envelope<f64>) {
        let copies = 1 + usize::from(self.stream.unit() < self.faults.duplicate);
        for _ in 0..copies {
            let after = 1 + self.stream.below(self.faults.delay) as u64;
            if self.stream.unit() >= self.faults.loss {
                self.schedule(after, Due::Message(envelope.clone()));
            }
        }
    }

    fn reachable(&self, a: u64, b: u64) -> bool {
        self.cut.contains(&a) == self.cut.contains(&b)
    }

    /// Handles what is due next.
    pub fn step(&mut self) {
        let ((at, _), due) = self.queue.pop_first().expect("gossip is always due");
        self.now = at;
        match due {
            Due::Message(envelope) if self.reachable(envelope.from.id, envelope.to.id) => {
                self.event(envelope.to.id, Event::Received(envelope));
            }
            Due::Message(_) => {}
            Due::Trained { member, round, done } => {
                let training = |peer: &Peer| {
                    peer.node.me() == member
                        && peer.node.round() == round
                        && peer.node.phase() == Phase::Training
                };
                if self.peers.get(&member.id).is_some_and(training) {
                    self.event(member.id, Event::Trained { round, done });
                }
            }
            Due::Tick(member) => {
                if self
                    .peers
                    .get(&member.id)
                    .is_some_and(|peer| peer.wake == Some(at) && peer.node.me() == member)
                {
                    self.event(member.id, Event::Tick);
                }
            }
            Due::Gossip => self.gossip(),
        }
    }

    fn gossip(&mut self) {
        let up = self.up_ids();
        let pair = self.stream.choose(up, 2);
        if let [a, b] = pair[..]
            && self.reachable(a, b)
        {
            let membership = self.peers[&a].node.membership().clone();
            self.event(b, Event::Membership(membership));
        }
        self.schedule(5, Due::Gossip);
    }

    pub fn run_until(&mut self, time: u64) {
        while self.now < time {
            self.step();
        }
    }

    /// Until everybody is in that round; false when a round takes longer than a second.
    pub fn run_to_round(&mut self, round: u64) -> bool {
        let limit = self.now + 1_000 * (round - self.lowest_round().min(round));
        while self.lowest_round() < round && self.now < limit {
            self.step();
        }
        self.lowest_round() >= round
    }

    /// Shares between two nodes that only the link has.
    pub fn on_link(from: &Node, to: &Node) -> Mass {
        match from.under_way(to.me()) {
            Some(transfer) if !to.has_taken(from.me(), transfer.seq) => match transfer.content {
                Content::Share { mass } => mass,
                Content::Offer { .. } => Mass::ZERO,
            },
            _ => Mass::ZERO,
        }
    }

    /// First coordinate of the numerator that only the link has.
    pub fn payload_on_link(from: &Node, to: &Node) -> f64 {
        let under_way = from.under_way(to.me()).filter(|transfer| !to.has_taken(from.me(), transfer.seq));
        under_way.map_or(0.0, |transfer| transfer.payload[0])
    }

    /// What those nodes hold and what is under way between them.
    pub fn physical(nodes: &[&Node]) -> Mass {
        let held: Mass = nodes.iter().map(|node| node.holding()).sum();
        let links = nodes.iter().flat_map(|from| nodes.iter().map(|to| Self::on_link(from, to)));
        held + links.sum()
    }

    /// The members of `membership`, if each has a node that agrees on it.
    fn settled(&self, membership: &Membership) -> Option<Vec<&Node>> {
        let node = |member: Member| {
            let peer = self.peers.get(&member.id).filter(|peer| peer.node.me() == member)?;
            (peer.node.membership() == membership).then_some(&peer.node)
        };
        membership.live().into_iter().map(node).collect()
    }

    /// The books of each node are right; and when all agree on who takes part, the mass that there is
    /// equals the sum that was published when they began to agree.
    fn check(&mut self) {
        for peer in self.peers.values() {
            assert!(peer.node.balanced(), "{:?}", peer.node.me());
            assert!(peer.node.mass() >= Mass::ZERO);
            if !peer.left && peer.node.phase() != Phase::Leaving {
                self.lowest_mass = self.lowest_mass.min(peer.node.mass().value());
            }
        }
        let Some(membership) = self.up().next().map(|node| node.membership().clone()) else { return };
        let Some(nodes) = self.settled(&membership) else { return };
        let accounts: Mass = nodes.iter().map(|node| node.account()).sum();
        let physical = Self::physical(&nodes);
        let published = match &self.published {
            Some((known, sum)) if *known == membership => *sum,
            _ => accounts,
        };
        assert_eq!((physical, accounts), (published, published), "at {} ms", self.now);
        let gap = Self::tracked_gap(&nodes);
        if let Some((gap, size)) = gap {
            assert!(gap <= 1e-11 * size, "Σ y is {gap} from Σ g, of {size}, at {} ms", self.now);
            self.tracked += 1;
        }
        self.published = Some((membership, published));
        self.counted += 1;
    }

    /// How far Σ y over nodes and links is from Σ g, and the size of both, where gradients are tracked; `None`
    /// while one end of an exchange has moved and the other does not know it yet.
    pub fn tracked_gap(nodes: &[&Node]) -> Option<(f64, f64)> {
        let (mut off, mut size) = ([0.0; 3], 0.0);
        let mut count = |sign: f64, vector: &[f64]| {
            for (off, value) in off.iter_mut().zip(vector) {
                *off += sign * value;
                size += value.abs();
            }
        };
        for node in nodes {
            count(-1.0, node.tracked()?);
            count(1.0, &node.numerator()[3..]);
        }
        for (from, to) in nodes.iter().flat_map(|from| nodes.iter().map(move |to| (from, to))) {
            let Some(transfer) = from.under_way(to.me()) else { continue };
            match (transfer.content, to.has_taken(from.me(), transfer.seq)) {
                (Content::Offer { .. }, true) => return None,
                (Content::Share { .. }, false) if transfer.epoch == from.membership().epoch() => {
                    count(1.0, &transfer.payload[3..]);
                }
                _ => {}
            }
        }
        Some((off.iter().map(|off| off.abs()).sum(), size))
    }

    /// The last published sum.
    pub fn total(&self) -> f64 {
        self.published.as_ref().unwrap().1.value()
    }

    /// Evicts all who are down or have left, until those who are up agree that only they take part.
    pub fn agree(&mut self) {
        let limit = self.now + 60_000;
        loop {
            let members: Vec<Member> = self.up().map(Node::me).collect();
            if self.up().all(|node| node.membership().live() == members) {
                return;
            }
            let absent = self.peers.iter().filter(|(_, peer)| peer.down || peer.left).map(|(id, _)| *id);
            for id in absent.collect::<Vec<_>>() {
                self.evict(id, members[0].id);
            }
            let known: Vec<_> = self.up().map(|node| (node.me(), node.membership().live())).collect();
            assert!(self.now < limit, "no agreement: {known:?}");
            self.step();
        }
    }

    /// A message of `body`'s kind, by hand.
    pub fn inject(&mut self, from: Member, to: Member, body: Body<f64>) {
        self.event(to.id, Event::Received(Envelope { from, to, body }));
    }
}

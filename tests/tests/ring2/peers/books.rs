//! The mass of all peers at one moment, from what they have on disk: between two steps of the simulation
//! nobody acts, so their records are one consistent cut of nodes and links.

use gossip::{
    Mass,
    machine::{Config, Content, Machine, Member, Membership, State},
};
use serde::Deserialize;
use std::{collections::BTreeMap, path::PathBuf};

type Node = Machine<f32>;

/// What `worker::peer` writes, without its head of 16 bytes and its digest.
#[derive(Deserialize)]
struct Record {
    _run: [u8; 32],
    machine: State<f32>,
    _last_end: Option<Vec<f32>>,
}

/// All records, and every sum that was published.
pub(crate) struct Books {
    config: Config,
    files: Vec<PathBuf>,
    bytes: BTreeMap<usize, Vec<u8>>,
    /// By peer.
    pub(crate) nodes: BTreeMap<usize, Node>,
    published: Vec<(Membership, Mass)>,
    /// Times the whole mass of an epoch was compared with its published sum.
    pub(crate) counted: u64,
}

impl Books {
    pub(crate) fn new(config: Config, files: Vec<PathBuf>) -> Self {
        Self {
            config,
            files,
            bytes: BTreeMap::new(),
            nodes: BTreeMap::new(),
            published: Vec::new(),
            counted: 0,
        }
    }

    /// Epochs in which all agreed at some time.
    pub(crate) fn epochs(&self) -> usize {
        self.published.len()
    }

    /// Reads what has changed; whether anything has.
    fn read(&mut self) -> Result<bool, String> {
        let mut changed = false;
        for (index, file) in self.files.iter().enumerate() {
            let Ok(bytes) = std::fs::read(file) else {
                changed |= self.nodes.remove(&index).is_some();
                self.bytes.remove(&index);
                continue;
            };
            if self.bytes.get(&index) == Some(&bytes) {
                continue;
            }
            let body = bytes.get(16..bytes.len() - 32).ok_or("a record is cut off")?;
            let record: Record = postcard::from_bytes(body).map_err(|error| error.to_string())?;
            match Machine::resume(self.config.clone(), record.machine) {
                Ok(node) => drop(self.nodes.insert(index, node)),
                // An evicted incarnation, as it was when it heard of that: out of every membership.
                Err(_) => drop(self.nodes.remove(&index)),
            }
            self.bytes.insert(index, bytes);
            changed = true;
        }
        Ok(changed)
    }

    /// Shares between two nodes that only the link has.
    fn on_link(from: &Node, to: &Node) -> Mass {
        match from.under_way(to.me()) {
            Some(transfer) if !to.has_taken(from.me(), transfer.seq) => match transfer.content {
                Content::Share { mass } => mass,
                Content::Offer { .. } => Mass::ZERO,
            },
            _ => Mass::ZERO,
        }
    }

    /// Looks at the records; in each epoch in which all members agree, the mass in nodes and on links must be,
    /// to the last bit, the sum that they published when they began to agree.
    pub(crate) fn check(&mut self) -> Result<(), String> {
        if !self.read()? {
            return Ok(());
        }
        let mut seen: Vec<&Membership> = Vec::new();
        for node in self.nodes.values() {
            if !node.balanced() {
                return Err(format!("the books of {:?} are wrong", node.me()));
            }
            if !seen.contains(&node.membership()) {
                seen.push(node.membership());
            }
        }
        for membership in seen {
            let node = |member: Member| {
                let of = |node: &&Node| node.me() == member && node.membership() == membership;
                self.nodes.values().find(of)
            };
            let members: Option<Vec<&Node>> = membership.live().into_iter().map(node).collect();
            let Some(members) = members else { continue };
            let accounts: Mass = members.iter().map(|node| node.account()).sum();
            let held: Mass = members.iter().map(|node| node.holding()).sum();
            let pairs = members.iter().flat_map(|from| members.iter().map(|to| Self::on_link(from, to)));
            let physical = held + pairs.sum();
            let known = self.published.iter().find(|(known, _)| known == membership).map(|(_, sum)| *sum);
            let published = known.unwrap_or(accounts);
            if (physical, accounts) != (published, published) {
                let (physical, accounts, published) = (physical.value(), accounts.value(), published.value());
                return Err(format!(
                    "mass {physical}, accounts {accounts}, published {published} in epoch {} of {} members",
                    membership.epoch(),
                    members.len()
                ));
            }
            if known.is_none() {
                self.published.push((membership.clone(), published));
            }
            self.counted += 1;
        }
        Ok(())
    }
}

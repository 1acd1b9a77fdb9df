//! Clients that lie, for experiments with combiners: who they are follows from the seed.
//!
//! Those that conspire know every honest update of the round: theirs arrive after all others, and the
//! honest ones stay in memory until then.

use super::{STEP_MS, SimulationError, client_index, client_name, server::Server};
use algorithms::{Vectors, cohort, combine::attacks::Attack, seed};
use proto::spec::{AttackKind, ModelSpec, RunSpec};
use std::{collections::BTreeSet, sync::Arc};
use worker::{data::Dataset, trainer::steps_of_round};

/// The liars of a run, and what they know of the open round.
#[derive(Debug)]
pub(super) struct Liars {
    kind: AttackKind,
    who: BTreeSet<usize>,
    round: u64,
    /// How many of them were asked.
    asked: BTreeSet<usize>,
    honest: Vec<Vectors>,
}

impl Liars {
    /// Those of a run; `None`: nobody lies.
    pub(super) fn of(
        spec: &RunSpec,
        clients: usize,
        train: &Dataset,
    ) -> Result<Option<Self>, SimulationError> {
        let Some(attack) = spec.attack else { return Ok(None) };
        if attack.kind == AttackKind::LabelFlip && train.labels().is_none() {
            let text = "attack: text has no labels to be flipped";
            return Err(SimulationError::Setup(text.into()));
        }
        let names: Vec<String> = (0..clients).map(client_name).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let count = (attack.fraction * clients as f64).round() as usize;
        let drawn = cohort::sample(seed::derive(spec.seed, "attack", &[]), 0, 0, &names, count);
        let who = drawn.into_iter().filter_map(client_index).collect();
        Ok(Some(Self { kind: attack.kind, who, round: 0, asked: BTreeSet::new(), honest: Vec::new() }))
    }

    /// Those that train on labels turned round.
    pub(super) fn flipped(&self) -> BTreeSet<usize> {
        if self.kind == AttackKind::LabelFlip { self.who.clone() } else { BTreeSet::new() }
    }

    fn conspire(&self) -> bool {
        matches!(self.kind, AttackKind::Forge(Attack::Alie { .. } | Attack::InnerProduct { .. }))
    }

    fn enter(&mut self, round: u64) {
        if self.round != round {
            (self.round, self.asked, self.honest) = (round, BTreeSet::new(), Vec::new());
        }
    }

    /// What arrives of a client that has `upload`.
    fn forge(&mut self, client: usize, upload: Vectors) -> Vectors {
        let AttackKind::Forge(attack) = self.kind else { return upload };
        if !self.who.contains(&client) {
            if self.conspire() {
                self.honest.push(upload.clone());
            }
            return upload;
        }
        let forged = |(name, own): (&String, &Arc<Vec<f32>>)| {
            let honest: Vec<&[f32]> = self.honest.iter().map(|upload| upload[name].as_slice()).collect();
            (name.clone(), Arc::new(attack.forge(own, &honest, self.asked.len())))
        };
        upload.iter().map(forged).collect()
    }
}

impl Server<'_> {
    /// Milliseconds until the update of a client arrives that is asked now.
    pub(super) fn duration(&mut self, client: usize, round: u64) -> u64 {
        let time = |client| {
            let steps = if let ModelSpec::Flat { .. } = self.spec.model {
                1
            } else {
                let examples = self.shares.size(client);
                u64::from(steps_of_round(&self.spec, self.algorithm, (round, examples)))
            };
            ((steps * STEP_MS) as f64 * self.slowness[client]).ceil() as u64
        };
        let own = time(client);
        let Some(liars) = self.liars.as_mut() else { return own };
        liars.enter(round);
        if !liars.who.contains(&client) {
            return own;
        }
        liars.asked.insert(client);
        if !liars.conspire() {
            return own;
        }
        (0..self.shares.clients()).map(time).max().unwrap_or(STEP_MS) + 1
    }

    /// What arrives of a client that has `upload`.
    pub(super) fn arriving(&mut self, worker: &str, round: u64, upload: Vectors) -> Vectors {
        match (self.liars.as_mut(), client_index(worker)) {
            (Some(liars), Some(client)) => {
                liars.enter(round);
                liars.forge(client, upload)
            }
            _ => upload,
        }
    }
}

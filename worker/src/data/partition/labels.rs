//! Divisions by a fixed number of classes per client, and the class pools that all label skews use.

use super::Job;
use crate::data::DataError;
use crate::data::random::shuffle;

impl Job<'_> {
    /// The examples of each class that has any, each pool shuffled.
    pub(super) fn pools(&mut self) -> Result<Vec<Vec<usize>>, DataError> {
        let Some(labels) = self.dataset.labels() else {
            return Err(self.refuse("text has no labels; use iid, size or natural"));
        };
        let mut pools = vec![Vec::new(); self.dataset.class_histogram().len()];
        for (example, label) in labels.into_iter().enumerate() {
            pools[label as usize].push(example);
        }
        pools.retain(|pool: &Vec<usize>| !pool.is_empty());
        for pool in &mut pools {
            shuffle(pool, &mut self.rng);
        }
        Ok(pools)
    }

    /// Every client holds `classes` different classes, every class is held by almost equally many
    /// clients and divided evenly among them.
    pub(super) fn pathological(&mut self, classes: usize) -> Result<Vec<Vec<usize>>, DataError> {
        let pools = self.pools()?;
        if !(1..=pools.len()).contains(&classes) {
            let present = pools.len();
            return Err(self.refuse(format!("`classes` is {classes}, but the data has {present} classes")));
        }
        let mut holders: Vec<Vec<usize>> = vec![Vec::new(); pools.len()];
        for client in 0..self.clients {
            // The least held classes first; the shuffle settles ties at random.
            let mut deck: Vec<usize> = (0..pools.len()).collect();
            shuffle(&mut deck, &mut self.rng);
            deck.sort_by_key(|&class| holders[class].len());
            deck[..classes].iter().for_each(|&class| holders[class].push(client));
        }
        let mut parts = vec![Vec::new(); self.clients];
        for (pool, holders) in pools.iter().zip(&holders) {
            for (position, &client) in holders.iter().enumerate() {
                let bound = |i: usize| pool.len() * i / holders.len();
                parts[client].extend_from_slice(&pool[bound(position)..bound(position + 1)]);
            }
        }
        match parts.iter().position(Vec::is_empty) {
            None => Ok(parts),
            Some(client) => Err(self.refuse(format!(
                "client {client} would be empty, since its classes have fewer examples than clients; \
                 use fewer clients or more classes per client"
            ))),
        }
    }
}

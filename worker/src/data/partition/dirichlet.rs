//! Label skew by a symmetric Dirichlet distribution, in the two forms that results are reported for
//! (`algorithms.md` §5): they differ in sizes and in whether examples repeat, so they do not compare.

use super::Job;
use crate::data::DataError;
use crate::data::random::{Rng, below, dirichlet, uniform};

/// pFedPT (PFLlib) re-draws until the smallest client has so many examples.
const SMALLEST: usize = 8;

/// Draws before giving up; reported settings (100 clients, α = 0.1) need a few dozen.
const ATTEMPTS: usize = 2_000;

impl Job<'_> {
    /// Without replacement (pFedPT, PFLlib): each class is divided by a draw over clients, of which
    /// those that already have their equal share get nothing.
    pub(super) fn dirichlet(&mut self, alpha: f64) -> Result<Vec<Vec<usize>>, DataError> {
        let pools = self.pools()?;
        let enough = self.dataset.len() >= SMALLEST * self.clients;
        self.require(enough, "without replacement every client needs at least 8 examples")?;
        let counts: Vec<usize> = pools.iter().map(Vec::len).collect();
        // Only counts are drawn again and again; examples move once.
        for _ in 0..ATTEMPTS {
            let Some(table) = draw_counts(&counts, self.clients, alpha, &mut self.rng) else { continue };
            let mut parts = vec![Vec::new(); self.clients];
            for (pool, shares) in pools.iter().zip(table) {
                let mut rest = pool.as_slice();
                for (part, share) in parts.iter_mut().zip(shares) {
                    let (taken, tail) = rest.split_at(share);
                    part.extend_from_slice(taken);
                    rest = tail;
                }
            }
            return Ok(parts);
        }
        Err(self.refuse(format!(
            "in {ATTEMPTS} draws some client always had fewer than {SMALLEST} examples; \
             use a larger `alpha`, fewer clients, or `replacement = true`"
        )))
    }

    /// With replacement (FL-Simulator): equal sizes, each client draws classes from its own prior, and
    /// a class whose examples are used up starts over.
    pub(super) fn dirichlet_with_replacement(&mut self, alpha: f64) -> Result<Vec<Vec<usize>>, DataError> {
        let pools = self.pools()?;
        let size = self.dataset.len() / self.clients;
        let priors: Vec<Vec<f64>> =
            (0..self.clients).map(|_| cumulative(&dirichlet(alpha, pools.len(), &mut self.rng))).collect();
        let mut used = vec![0; pools.len()];
        let mut parts = vec![Vec::with_capacity(size); self.clients];
        let mut open: Vec<usize> = (0..self.clients).collect();
        while !open.is_empty() {
            let seat = below(&mut self.rng, open.len());
            let client = open[seat];
            let point = uniform(&mut self.rng);
            let class = priors[client].partition_point(|&c| c <= point).min(pools.len() - 1);
            parts[client].push(pools[class][used[class] % pools[class].len()]);
            used[class] += 1;
            if parts[client].len() == size {
                open.swap_remove(seat);
            }
        }
        Ok(parts)
    }
}

/// For each class the number of examples per client; `None` if a client ends below `SMALLEST`.
fn draw_counts(counts: &[usize], clients: usize, alpha: f64, rng: &mut Rng) -> Option<Vec<Vec<usize>>> {
    let fair = counts.iter().sum::<usize>() as f64 / clients as f64;
    let mut held = vec![0usize; clients];
    let mut table = Vec::with_capacity(counts.len());
    for &count in counts {
        let mut shares = dirichlet(alpha, clients, rng);
        let is_open = |client: usize| (held[client] as f64) < fair;
        shares.iter_mut().enumerate().filter(|(i, _)| !is_open(*i)).for_each(|(_, p)| *p = 0.0);
        if shares.iter().sum::<f64>() <= 0.0 {
            // With a tiny alpha the whole mass can fall on full clients.
            shares = (0..clients).map(|i| f64::from(u8::from(is_open(i)))).collect();
        }
        let cuts: Vec<usize> = cumulative(&shares).iter().map(|c| (c * count as f64) as usize).collect();
        let mut row: Vec<usize> = cuts.windows(2).map(|w| w[1] - w[0]).collect();
        row.insert(0, cuts[0]);
        // Rounding leaves the last examples to the last open client.
        let last = (0..clients).rev().find(|&i| shares[i] > 0.0)?;
        row[last] += count - row.iter().sum::<usize>();
        row.iter().zip(&mut held).for_each(|(n, held)| *held += n);
        table.push(row);
    }
    held.iter().all(|&n| n >= SMALLEST).then_some(table)
}

/// Running sums, scaled so that the last is 1.
fn cumulative(weights: &[f64]) -> Vec<f64> {
    let sum: f64 = weights.iter().sum();
    let mut running = 0.0;
    let partial = weights.iter().map(|w| {
        running += w / sum;
        running.min(1.0)
    });
    partial.collect()
}

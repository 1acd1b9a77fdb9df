//! What one node of a decentralised run learns about another: it sees messages on its own edges only,
//! so that a guarantee is a matrix over ordered pairs (Cyffers, Even, Bellet and Massoulié 2022).
//!
//! All nodes add Gaussian noise to their values once and then mix them `rounds` times with a symmetric
//! matrix `W`. The rows of `W^t` are computed on demand; no matrix over all pairs is kept.

use crate::{Mu, ParameterError, parameters::require};

/// Mixing by one matrix, and the noise of each node.
#[derive(Debug, Clone, PartialEq)]
pub struct Gossip {
    /// For each node, its neighbours with weights; itself too.
    rows: Vec<Vec<(usize, f64)>>,
    rounds: usize,
    /// Largest norm of a node's value over the standard deviation of its noise, for the adjacency's move.
    ratio: f64,
}

impl Gossip {
    /// `moved` is how far one unit can move a node's value, `deviation` the standard deviation of the
    /// node's noise, both in the same units.
    ///
    /// # Errors
    /// If the matrix is not symmetric with rows that sum to 1, or a number is not finite and above 0.
    pub fn new(
        rows: Vec<Vec<(usize, f64)>>,
        rounds: usize,
        moved: f64,
        deviation: f64,
    ) -> Result<Self, ParameterError> {
        for (u, row) in rows.iter().enumerate() {
            let sum: f64 = row.iter().map(|(_, weight)| weight).sum();
            require((sum - 1.0).abs() < 1e-9, "weights", sum, "weights of a row that sum to 1")?;
            for (v, weight) in row {
                let back =
                    rows.get(*v).into_iter().flatten().find(|(w, _)| *w == u).map(|(_, weight)| *weight);
                let symmetric = back.is_some_and(|back| (back - weight).abs() < 1e-12);
                require(symmetric, "weights", *weight, "a symmetric matrix")?;
            }
        }
        require(moved.is_finite() && moved > 0.0, "moved", moved, "a finite number above 0")?;
        require(deviation.is_finite() && deviation > 0.0, "deviation", deviation, "a finite number above 0")?;
        Ok(Self { rows, rounds, ratio: moved / deviation })
    }

    /// μ of what node `v` learns about each node `u`: `ratio²·Σ_t Σ_{w ∈ N(v)} (W^t)²_{uw}/‖(W^t)_w‖²`
    /// (their theorem 1, whose Rényi divergences are those of Gaussian mechanisms). Nodes are not curious
    /// about themselves: that entry is infinite.
    ///
    /// # Panics
    /// If there is no node `v`.
    pub fn learned_by(&self, v: usize) -> Vec<f64> {
        let mut square = vec![0.0; self.rows.len()];
        for (w, weight) in &self.rows[v] {
            if *weight == 0.0 {
                continue;
            }
            // (W^t)_w, from t = 0: what w sends first is its own noisy value.
            let mut row = vec![0.0; self.rows.len()];
            row[*w] = 1.0;
            for _ in 0..self.rounds {
                let norm: f64 = row.iter().map(|x| x * x).sum();
                square.iter_mut().zip(&row).for_each(|(square, x)| *square += x * x / norm);
                row = self.mixed(&row);
            }
        }
        let mut mu: Vec<f64> = square.iter().map(|square| self.ratio * square.sqrt()).collect();
        mu[v] = f64::INFINITY;
        mu
    }

    /// The largest and the mean μ over all ordered pairs of different nodes.
    ///
    /// # Errors
    /// If a μ is out of bounds.
    pub fn summary(&self) -> Result<(Mu, Mu), ParameterError> {
        let (mut most, mut sum, mut count) = (0.0_f64, 0.0, 0.0);
        for v in 0..self.rows.len() {
            for mu in self.learned_by(v).into_iter().filter(|mu| mu.is_finite()) {
                (most, sum, count) = (most.max(mu), sum + mu, count + 1.0);
            }
        }
        Ok((Mu::new(most)?, Mu::new(if count > 0.0 { sum / count } else { 0.0 })?))
    }

    /// μ against who sees every message, which needs no trust in anyone: one noisy value is released.
    ///
    /// # Errors
    /// If it is out of bounds.
    pub fn local(&self) -> Result<Mu, ParameterError> {
        Mu::new(self.ratio)
    }

    fn mixed(&self, row: &[f64]) -> Vec<f64> {
        let mut next = vec![0.0; row.len()];
        for (x, weights) in row.iter().zip(&self.rows) {
            for (v, weight) in weights {
                next[*v] += x * weight;
            }
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(n: usize) -> Vec<Vec<(usize, f64)>> {
        let third = 1.0 / 3.0;
        (0..n).map(|u| vec![((u + n - 1) % n, third), (u, third), ((u + 1) % n, third)]).collect()
    }

    #[test]
    fn far_nodes_learn_less() {
        let gossip = Gossip::new(ring(12), 4, 1.0, 2.0).unwrap();
        let learned = gossip.learned_by(0);
        assert!(learned[0].is_infinite());
        for distance in 1..6 {
            assert!(learned[distance] >= learned[distance + 1], "{learned:?}");
            assert!((learned[distance] - learned[12 - distance]).abs() < 1e-12);
        }
        // After four rounds nothing of a node six steps away has come: one hop brings a neighbour's
        // message, three more its neighbours'.
        assert_eq!(learned[6], 0.0);
        // A neighbour's first message is its own value with its own noise.
        assert!(learned[1] >= gossip.local().unwrap().get());
        let (most, mean) = gossip.summary().unwrap();
        assert!(most.get() == learned[1] && mean < most, "{most:?} {mean:?}");
    }

    #[test]
    fn one_round_by_hand() {
        let learned = Gossip::new(ring(5), 1, 3.0, 2.0).unwrap().learned_by(2);
        assert_eq!(learned, [0.0, 1.5, f64::INFINITY, 1.5, 0.0]);
    }

    #[test]
    fn a_matrix_that_does_not_mix_is_refused() {
        let mut rows = ring(4);
        rows[0][0].1 = 0.5;
        assert!(Gossip::new(rows.clone(), 1, 1.0, 1.0).is_err());
        rows[0][1].1 = 1.0 / 6.0;
        assert_eq!(Gossip::new(rows, 1, 1.0, 1.0).unwrap_err().expected, "a symmetric matrix");
        assert!(Gossip::new(ring(4), 1, 1.0, 0.0).is_err());
    }
}

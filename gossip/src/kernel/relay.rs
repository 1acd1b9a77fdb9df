//! RelaySum: on a tree, nodes relay sums of models instead of averages, so that each model reaches each
//! node with exactly the weight 1/n, delayed by the number of hops (Vogels et al., NeurIPS 2021,
//! arXiv:2110.04175, algorithm 1).

use super::{Scalar, add, scaled};
use crate::analysis::components;

/// Messages under way on all edges of a tree.
#[derive(Debug, Clone)]
pub struct RelaySum<T> {
    tree: Vec<Vec<usize>>,
    /// For each node and neighbour: what that neighbour last sent, and of how many models it is the sum.
    inbox: Vec<Vec<(Vec<T>, usize)>>,
}

/// The graph is not an undirected tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "RelaySum: expected an undirected tree, found {nodes} nodes with {edges} directed edges in {components} components"
)]
pub struct RelayError {
    /// Nodes.
    pub nodes: usize,
    /// Directed edges; a tree has `2 (n − 1)`.
    pub edges: usize,
    /// Strongly connected components; a tree has 1.
    pub components: usize,
}

impl<T: Scalar> RelaySum<T> {
    /// Nothing is under way on the tree whose neighbours are given, for models of `length` parameters.
    pub fn new(tree: Vec<Vec<usize>>, length: usize) -> Result<Self, RelayError> {
        let (nodes, edges) = (tree.len(), tree.iter().map(Vec::len).sum());
        let components = components(&tree).len();
        let mutual = tree.iter().enumerate().all(|(a, to)| to.iter().all(|b| tree[*b].contains(&a)));
        if components != 1 || edges + 2 != 2 * nodes || !mutual {
            return Err(RelayError { nodes, edges, components });
        }
        let empty = |to: &Vec<usize>| vec![(vec![T::default(); length], 0); to.len()];
        Ok(Self { inbox: tree.iter().map(empty).collect(), tree })
    }

    /// One round: everybody sends to each neighbour the sum of its own model and of what it has from the
    /// others; then `x_i ← (x_i (n − Σ counts) + Σ messages) / n`.
    ///
    /// # Panics
    /// If there is not one model per node, or their lengths differ.
    #[must_use]
    pub fn mix(&mut self, models: &[Vec<T>]) -> Vec<Vec<T>> {
        assert_eq!(models.len(), self.tree.len(), "RelaySum: one model per node");
        let receive = |node: usize| {
            self.tree[node].iter().map(|from| self.message(*from, node, &models[*from])).collect()
        };
        self.inbox = (0..models.len()).map(receive).collect();
        let nodes = models.len();
        let average = |(model, inbox): (&Vec<T>, &Vec<(Vec<T>, usize)>)| {
            let counted: usize = inbox.iter().map(|(_, count)| count).sum();
            let mut sum = scaled((nodes - counted) as f64, model);
            for (message, _) in inbox {
                add(&mut sum, message);
            }
            scaled(1.0 / nodes as f64, &sum)
        };
        models.iter().zip(&self.inbox).map(average).collect()
    }

    fn message(&self, from: usize, to: usize, model: &[T]) -> (Vec<T>, usize) {
        let others = self.tree[from].iter().zip(&self.inbox[from]).filter(|(other, _)| **other != to);
        others.fold((model.to_vec(), 1), |(mut sum, count), (_, (message, more))| {
            add(&mut sum, message);
            (sum, count + more)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constant_models_become_their_mean_on_the_diameter() {
        let tree = vec![vec![1], vec![0, 2, 3], vec![1], vec![1, 4], vec![3]];
        let models: Vec<Vec<f64>> = (0..5).map(|i| vec![f64::from(i), 1.0]).collect();
        let mut relay = RelaySum::new(tree, 2).unwrap();
        let mut mixed = Vec::new();
        for _ in 0..3 {
            mixed = relay.mix(&models);
        }
        assert!(mixed.iter().all(|x| (x[0] - 2.0).abs() < 1e-15 && x[1] == 1.0), "{mixed:?}");
    }

    #[test]
    fn cycles_and_one_way_edges_are_refused() {
        let ring = vec![vec![1, 2], vec![0, 2], vec![0, 1]];
        assert!(
            RelaySum::<f32>::new(ring, 1).unwrap_err().to_string().contains("3 nodes with 6 directed edges")
        );
        let one_way = vec![vec![1], vec![2], vec![3], vec![0, 1, 2]];
        assert!(RelaySum::<f32>::new(one_way, 1).is_err());
        assert!(RelaySum::<f32>::new(vec![vec![1], vec![0], vec![]], 1).is_err());
    }
}

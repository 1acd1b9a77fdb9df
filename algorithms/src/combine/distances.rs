//! Squared distances between k updates and a centre, taken block by block. With weights that sum to 1,
//! the distance from an update to a weighted mean follows from them alone, so that iterations of a
//! robust mean need no further pass over the updates.

/// Squared Euclidean distances.
#[derive(Debug, Clone, PartialEq)]
pub struct Distances {
    k: usize,
    /// Row by row, `k + 1` points: the last one is the centre.
    squares: Vec<f64>,
    norms: Vec<f64>,
}

impl Distances {
    /// Between k updates of which nothing was seen.
    pub fn new(k: usize) -> Self {
        Self { k, squares: vec![0.0; (k + 1) * (k + 1)], norms: vec![0.0; k] }
    }

    /// Takes the same coordinates of each update, and of the centre (absent: zero).
    ///
    /// # Panics
    /// If there are not k updates, or lengths differ.
    pub fn add(&mut self, block: &[&[f32]], centre: Option<&[f32]>) {
        assert_eq!(block.len(), self.k, "distances: another number of updates");
        let zero = vec![0.0; block.first().map_or(0, |update| update.len())];
        let points: Vec<&[f32]> = block.iter().copied().chain([centre.unwrap_or(zero.as_slice())]).collect();
        for i in 0..self.k {
            self.norms[i] += squared(points[i], &zero);
            for j in i + 1..=self.k {
                let square = squared(points[i], points[j]);
                self.squares[i * (self.k + 1) + j] += square;
                self.squares[j * (self.k + 1) + i] += square;
            }
        }
    }

    /// Adds those of other coordinates of the same updates.
    ///
    /// # Panics
    /// If there are not as many updates.
    pub fn merge(&mut self, other: &Self) {
        assert_eq!(other.k, self.k, "distances: another number of updates");
        self.squares.iter_mut().zip(&other.squares).for_each(|(sum, part)| *sum += part);
        self.norms.iter_mut().zip(&other.norms).for_each(|(sum, part)| *sum += part);
    }

    /// How many updates there are.
    pub fn updates(&self) -> usize {
        self.k
    }

    /// `‖x_i − x_j‖²`; the index k is the centre.
    pub fn squared(&self, i: usize, j: usize) -> f64 {
        self.squares[i * (self.k + 1) + j]
    }

    /// `‖x_i‖`.
    pub fn norm(&self, i: usize) -> f64 {
        self.norms[i].sqrt()
    }

    /// `‖x_i − Σ a_j x_j‖` for weights of all points, the centre last, that sum to 1.
    pub(super) fn to_mean(&self, i: usize, weights: &[f64]) -> f64 {
        let mean: f64 = weights.iter().enumerate().map(|(j, a)| a * self.squared(i, j)).sum();
        let spread: f64 = weights
            .iter()
            .enumerate()
            .map(|(j, a)| a * weights.iter().enumerate().map(|(l, b)| b * self.squared(j, l)).sum::<f64>())
            .sum();
        (mean - 0.5 * spread).max(0.0).sqrt()
    }
}

fn squared(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len(), "distances: lengths differ");
    a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)) * (f64::from(*a) - f64::from(*b))).sum()
}

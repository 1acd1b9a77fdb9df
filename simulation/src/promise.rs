//! How a simulated run is private: every mechanism that a run file can ask for, with the cohort that it needs.

use serde_json::{Value, json};

/// A mechanism, with what else it is released with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// Rounded Gaussian noise on the sum of a cohort that is drawn in secret.
    Central,
    /// Discrete Gaussian noise on it.
    Discrete,
    /// The first, with a norm that follows a quantile, and with metrics of each round: both paid for, too.
    Adaptive,
    /// DP-FTRL by a tree.
    Tree,
    /// DP-FTRL by the square root.
    SquareRoot,
    /// DP-FTRL by a banded matrix.
    Banded,
    /// DP-FTRL by buffers.
    Buffered,
    /// Discrete Gaussian noise that the workers add together.
    GaussianShares,
    /// Skellam noise that the workers add together.
    SkellamShares,
    /// Each worker adds noise to its own upload.
    Local,
    /// Each worker adds noise to its own steps.
    Steps,
}

impl Promise {
    /// The coordinator adds noise of its own to each round.
    pub const CENTRAL: &[Self] = &[Self::Central, Self::Adaptive, Self::Discrete];
    /// The coordinator adds noise that is correlated over the rounds.
    pub const CORRELATED: &[Self] = &[Self::Tree, Self::SquareRoot, Self::Banded, Self::Buffered];
    /// The workers add noise together.
    pub const SHARED: &[Self] = &[Self::GaussianShares, Self::SkellamShares];
    /// Each worker adds noise by itself.
    pub const LOCAL: &[Self] = &[Self::Local, Self::Steps];

    /// Whether a worker's rounds are capped.
    pub fn is_capped(self) -> bool {
        Self::CORRELATED.contains(&self)
    }

    /// The `[privacy]` section.
    pub(crate) fn section(self) -> Value {
        let toeplitz = |factor: Value| {
            json!({
                "mechanism": "dp_ftrl", "participation": { "most": 2, "separation": 2 },
                "strategy": { "kind": "toeplitz", "factor": factor },
            })
        };
        let shares = |mechanism: &str| json!({ "mechanism": mechanism, "least_shares": 3, "sampling": { "kind": "everyone" } });
        let drawn = |mechanism: &str| {
            json!({
                "mechanism": mechanism, "accountant": "rdp", "sampling": { "kind": "poisson", "rate": 0.6 },
            })
        };
        let own = match self {
            Self::Central => drawn("central_gaussian"),
            Self::Discrete => drawn("central_discrete_gaussian"),
            Self::Adaptive => with(
                drawn("central_gaussian"),
                &json!({
                    "adaptive_clipping": { "quantile": 0.5, "learning_rate": 0.2, "count_noise": 2.0 },
                    "metrics": { "budget_share": 0.1, "loss_bound": 4.0 },
                }),
            ),
            Self::Tree => json!({
                "mechanism": "dp_ftrl", "participation": { "most": 1 }, "strategy": { "kind": "tree" },
            }),
            Self::SquareRoot => toeplitz(json!({ "kind": "square_root" })),
            Self::Banded => toeplitz(json!({ "kind": "banded", "coefficients": [1.0, 0.5] })),
            Self::Buffered => toeplitz(json!({ "kind": "buffered", "weights": [0.4], "decays": [0.8] })),
            Self::GaussianShares => shares("distributed_discrete_gaussian"),
            Self::SkellamShares => shares("skellam"),
            Self::Local => json!({
                "mechanism": "local_gaussian", "adjacency": "replace_one", "sampling": { "kind": "everyone" },
            }),
            Self::Steps => json!({
                "mechanism": "dp_sgd", "unit": "record", "accountant": "rdp",
                "sampling": { "kind": "poisson", "rate": 0.1 },
            }),
        };
        let all = json!({
            "unit": "client", "adjacency": "zero_out", "clip_norm": 10.0, "noise_multiplier": 1.0, "delta": 1e-5,
        });
        with(all, &own)
    }
}

/// `section` with the keys of `more`.
fn with(mut section: Value, more: &Value) -> Value {
    for (key, value) in more.as_object().into_iter().flatten() {
        section[key] = value.clone();
    }
    section
}

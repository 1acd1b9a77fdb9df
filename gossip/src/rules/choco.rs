//! CHOCO-SGD: public copies that all neighbours hold move by compressed differences. Traffic: what the
//! compressor makes of d, to each neighbour. Rule of thumb: γ = min(1, 2ω) for a compressor of quality ω.

use crate::{
    report::Mode,
    rule::{Local, Row, Compressed, parse, params_of, refuse},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The registry's row.
pub const ROW: Row = Row {
    name: "choco-sgd",
    citation: "Koloskova, Stich and Jaggi, ICML 2019, arXiv:1902.00340",
    mode: Mode::Symmetric,
    local: LOCAL,
    make: |params, local| {
        let config: Config = parse(params)?;
        if !(config.gamma > 0.0 && config.gamma <= 1.0) {
            return Err(refuse("gamma", config.gamma, "above 0 and at most 1"));
        }
        Ok(Box::new(Compressed::new(local, config.gamma, config.compressor)))
    },
    defaults: || params_of(&Config::default()),
};

const LOCAL: Local = Local::SGD;

/// Keys under `[algorithm]`, beside those of the local rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Consensus step γ.
    pub gamma: f64,
    /// How differences are compressed: a compressor of the federated algorithms, e.g. `{ kind = "top-k",
    /// ratio = 0.1 }`.
    pub compressor: Value,
}

impl Default for Config {
    fn default() -> Self {
        Self { gamma: 0.2, compressor: json!({ "kind": "top-k", "ratio": 0.1 }) }
    }
}

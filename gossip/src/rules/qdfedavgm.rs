//! Quantised DFedAvgM in its public-copy form: CHOCO with K momentum steps. The literal rule, `x ← x + W Q(y − x)`,
//! never contracts disagreement and is not here. Traffic: b bits for each of d, to each neighbour.

use crate::{
    report::Mode,
    rule::{Local, Row, Compressed, parse, params_of, refuse},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The registry's row.
pub const ROW: Row = Row {
    name: "qdfedavgm",
    citation: "Sun, Li and Wang, TPAMI 2022, arXiv:2104.11981",
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

const LOCAL: Local = Local { momentum: 0.9, ..Local::SGD };

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
        Self { gamma: 1.0, compressor: json!({ "kind": "int8", "block": 256 }) }
    }
}

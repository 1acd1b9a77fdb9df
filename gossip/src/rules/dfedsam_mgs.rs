//! DFedSAM-MGS: DFedSAM with several mixing steps a round (multiple gossip). With as many as an exact
//! schedule has rounds it is FedSAM with everybody. Traffic: Q times d to each neighbour.

use crate::{
    report::Mode,
    rule::{Local, Row, Average, parse, params_of, refuse},
};
use serde::{Deserialize, Serialize};

/// The registry's row.
pub const ROW: Row = Row {
    name: "dfedsam-mgs",
    citation: "Shi et al., ICML 2023, arXiv:2302.04083",
    mode: Mode::Symmetric,
    local: LOCAL,
    make: |params, local| {
        let config: Config = parse(params)?;
        if !(1..=1_000).contains(&config.repeats) {
            return Err(refuse("repeats", config.repeats, "1 to 1,000"));
        }
        Ok(Box::new(Average::new(local, config.repeats)))
    },
    defaults: || params_of(&Config::default()),
};

const LOCAL: Local = Local { rho: 0.01, ..Local::SGD };

/// Keys under `[algorithm]`, beside those of the local rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Mixing steps a round, Q.
    pub repeats: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { repeats: 4 }
    }
}

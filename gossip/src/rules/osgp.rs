//! OSGP: stochastic gradient push whose shares may be under way while the next rounds are trained.
//! Traffic: as SGP.

use crate::{
    report::Mode,
    rule::{Local, Row, Push, parse, params_of, refuse},
};
use serde::{Deserialize, Serialize};

/// The registry's row.
pub const ROW: Row = Row {
    name: "osgp",
    citation: "Assran et al., ICML 2019, arXiv:1811.10792",
    mode: Mode::Push,
    local: LOCAL,
    make: |params, local| {
        let config: Config = parse(params)?;
        if !(1..=1_000).contains(&config.tau) {
            return Err(refuse("tau", config.tau, "1 to 1,000"));
        }
        Ok(Box::new(Push::overlapping(local, config.tau)))
    },
    defaults: || params_of(&Config::default()),
};

const LOCAL: Local = Local::SGD;

/// Keys under `[algorithm]`, beside those of the local rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Rounds that a node may run ahead of the shares that it waits for.
    pub tau: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { tau: 1 }
    }
}

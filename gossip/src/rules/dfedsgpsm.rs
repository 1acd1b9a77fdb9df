//! DFedSGPSM: stochastic gradient push with SAM and momentum in the local steps. Traffic: as SGP.

use crate::{
    report::Mode,
    rule::{Local, NoKeys, Row, Push, parse, params_of},
};

/// The registry's row.
pub const ROW: Row = Row {
    name: "dfedsgpsm",
    citation: "Li et al. 2023, arXiv:2310.05093",
    mode: Mode::Push,
    local: LOCAL,
    make: |params, local| {
        let NoKeys {} = parse(params)?;
        Ok(Box::new(Push::new(local)))
    },
    defaults: || params_of(&NoKeys {}),
};

const LOCAL: Local = Local { rho: 0.01, momentum: 0.9, ..Local::SGD };

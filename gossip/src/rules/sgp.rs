//! Stochastic gradient push: shares of numerator and mass over any strongly connected graph. Traffic: d and
//! the mass to each receiver.

use crate::{
    report::Mode,
    rule::{Local, NoKeys, Row, Push, parse, params_of},
};

/// The registry's row.
pub const ROW: Row = Row {
    name: "sgp",
    citation: "Assran et al., ICML 2019, arXiv:1811.10792",
    mode: Mode::Push,
    local: LOCAL,
    make: |params, local| {
        let NoKeys {} = parse(params)?;
        Ok(Box::new(Push::new(local)))
    },
    defaults: || params_of(&NoKeys {}),
};

const LOCAL: Local = Local::SGD;

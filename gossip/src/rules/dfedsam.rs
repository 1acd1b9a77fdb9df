//! DFedSAM: DFedAvg whose local gradients are taken where the loss is worst nearby. Traffic: d to each
//! neighbour.

use crate::{
    report::Mode,
    rule::{Local, NoKeys, Row, Average, parse, params_of},
};

/// The registry's row.
pub const ROW: Row = Row {
    name: "dfedsam",
    citation: "Shi et al., ICML 2023, arXiv:2302.04083",
    mode: Mode::Symmetric,
    local: LOCAL,
    make: |params, local| {
        let NoKeys {} = parse(params)?;
        Ok(Box::new(Average::new(local, 1)))
    },
    defaults: || params_of(&NoKeys {}),
};

const LOCAL: Local = Local { rho: 0.01, ..Local::SGD };

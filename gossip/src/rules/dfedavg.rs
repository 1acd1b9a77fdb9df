//! DFedAvg: K local steps, then one average with the neighbours. Traffic: d to each neighbour.

use crate::{
    report::Mode,
    rule::{Local, NoKeys, Row, Average, parse, params_of},
};

/// The registry's row.
pub const ROW: Row = Row {
    name: "dfedavg",
    citation: "Sun, Li and Wang, TPAMI 2022, arXiv:2104.11981",
    mode: Mode::Symmetric,
    local: LOCAL,
    make: |params, local| {
        let NoKeys {} = parse(params)?;
        Ok(Box::new(Average::new(local, 1)))
    },
    defaults: || params_of(&NoKeys {}),
};

const LOCAL: Local = Local::SGD;

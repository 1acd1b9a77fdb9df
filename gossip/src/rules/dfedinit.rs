//! DFedInit: DFedAvg whose nodes start a little away from their model, opposite to where they ended last
//! time (FedInit, as in arXiv:2306.05706, over a graph). Traffic: d to each neighbour; state: the last end, d.

use crate::{
    report::Mode,
    rule::{Local, NoKeys, Row, Average, parse, params_of},
};

/// The registry's row.
pub const ROW: Row = Row {
    name: "dfedinit",
    citation: "Sun, Shen and Tao, NeurIPS 2023, arXiv:2306.05706",
    mode: Mode::Symmetric,
    local: LOCAL,
    make: |params, local| {
        let NoKeys {} = parse(params)?;
        Ok(Box::new(Average::new(local, 1)))
    },
    defaults: || params_of(&NoKeys {}),
};

const LOCAL: Local = Local { relax: 0.1, ..Local::SGD };

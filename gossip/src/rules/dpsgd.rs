//! D-PSGD: one local step (or K), averaged with the neighbours. Adapt-then-combine mixes what was trained;
//! combine-while-adapting (`awc`) mixes what was there before, while training. Traffic: d to each neighbour.

use crate::{
    report::Mode,
    rule::{Local, Row, Average, parse, params_of},
};
use serde::{Deserialize, Serialize};

/// The registry's row.
pub const ROW: Row = Row {
    name: "dpsgd",
    citation: "Lian et al., NeurIPS 2017, arXiv:1705.09056",
    mode: Mode::Symmetric,
    local: LOCAL,
    make: |params, local| {
        let config: Config = parse(params)?;
        let average = Average::new(local, 1);
        Ok(Box::new(match config.form {
            Form::Atc => average,
            Form::Awc => average.while_training(),
        }))
    },
    defaults: || params_of(&Config::default()),
};

const LOCAL: Local = Local::SGD;

/// Keys under `[algorithm]`, beside those of the local rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `atc` or `awc`.
    pub form: Form,
}

/// What is mixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// Models after training.
    Atc,
    /// Models before training, which overlaps.
    Awc,
}

impl Default for Config {
    fn default() -> Self {
        Self { form: Form::Atc }
    }
}

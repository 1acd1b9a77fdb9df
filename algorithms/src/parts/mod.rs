//! What several rules share: each file is one idea of the literature, each rule a choice of them.

pub(crate) mod aligned;
pub(crate) mod amended;
pub(crate) mod control;
pub(crate) mod dynamic;
pub(crate) mod estimated;
pub(crate) mod low_rank;
pub(crate) mod mean;
pub(crate) mod moments;
pub(crate) mod momentum;

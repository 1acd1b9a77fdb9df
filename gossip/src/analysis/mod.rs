//! What a schedule of mixing matrices promises: connectivity, period, stochasticity, stationary mass,
//! contraction. No linear-algebra library: everything is search, power iteration and repeated squaring.

mod graph;

pub use graph::{components, cycle_period};

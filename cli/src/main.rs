//! The binary `starling`.
fn main() {}

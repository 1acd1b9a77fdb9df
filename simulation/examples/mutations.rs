//! Plants every deliberate defect and says which invariant finds it at which seed; ends with code 1 if
//! one survives, or is found by another invariant than it should be. Over the rules in which every defect
//! can show: those whose server mirrors what workers keep.
//!
//! ```text
//! cargo run -p simulation --example mutations
//! ```

use simulation::{TRAPS, mirroring, spring};
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut survived = 0;
    println!("{:<18} {:<44} {:<10} {:>4}  caught by", "mutation", "what it is", "algorithm", "seed");
    for trap in TRAPS {
        for algorithm in mirroring() {
            let (name, about) = (format!("{:?}", trap.mutation), trap.about);
            match spring(trap, algorithm) {
                Some((seed, invariant)) if trap.caught_by.contains(&invariant) => {
                    println!("{name:<18} {about:<44} {algorithm:<10} {seed:>4}  {invariant}");
                }
                found => {
                    survived += 1;
                    let expected = trap.caught_by;
                    println!(
                        "{name:<18} {about:<44} {algorithm:<10} SURVIVED: {found:?}, expected {expected:?}"
                    );
                }
            }
        }
    }
    println!("\n{} mutations, {survived} not caught", TRAPS.len());
    if survived == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

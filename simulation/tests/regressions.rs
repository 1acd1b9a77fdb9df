//! Seeds that once failed: each is named after the defect that it showed, and must never fail again.
//! A failing seed of `schedules.rs` or of the soak comes here when its defect is mended.

use simulation::{Profile, run};

/// What went wrong, and the profile, algorithm and seed that showed it.
const REGRESSIONS: &[(&str, &str, &str, u64)] = &[
    ("the deadline of a given-up round closed the one that was opened again", "disks", "scaffold", 35),
    ("a worker that lost its disk trained again after its update was folded", "disks", "feddyn", 165),
    ("substitutes were asked before the disk knew them", "impatient", "feddyn", 2),
    ("an order that the closing of its round overtook counted as lost state", "silent", "scaffold", 32_331),
    ("the sums of impossible evaluations overflowed", "byzantine", "scaffold", 7),
];

#[test]
fn what_was_mended_stays_mended() {
    for (defect, profile, algorithm, seed) in REGRESSIONS {
        let profile = Profile::named(profile).expect("the profile exists");
        let report = run(&profile.schedule(algorithm, *seed)).expect("the schedule is valid");
        assert!(report.violation.is_none(), "again: {defect}\n{}", report.explain());
    }
}

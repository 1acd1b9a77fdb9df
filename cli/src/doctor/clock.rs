//! Whether this machine's clock can be right: certificates have a beginning and an end.

use super::Report;
use crate::table::instant;
use std::time::{SystemTime, UNIX_EPOCH};

/// The beginning of the year in which this version was written: no clock that is right is before it.
const WRITTEN_S: u64 = 1_767_225_600;
/// Clocks may differ by so much.
const APART_S: u64 = 60;

/// What a coordinator says of the time, and what this machine's clock said when it did.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told {
    pub(super) theirs: u64,
    pub(super) ours: u64,
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    seconds(SystemTime::now())
}

pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Compares the clock with all that is known; `issued`: when this machine's certificate was.
pub(super) fn check(report: &mut Report, now: u64, issued: Option<u64>, told: Option<Told>) {
    let set = "set the clock of this machine and keep it right (NTP; `timedatectl set-ntp true`)";
    let shown = instant(now);
    if now < WRITTEN_S {
        let text = format!("it says {shown}, which is before this version of starling was written");
        return report.fail("clock", text, set);
    }
    if let Some(issued) = issued.filter(|issued| *issued > now + APART_S) {
        let text = format!("it says {shown}, but the certificate was issued at {}", instant(issued));
        return report.fail("clock", text, set);
    }
    let Some(Told { theirs, ours }) = told else {
        let text = format!(
            "it says {shown}, which can be right; how exact it is cannot be known, as no coordinator told its time"
        );
        return report.ok("clock", text);
    };
    let apart = theirs.abs_diff(ours);
    if apart > APART_S {
        let direction = if ours > theirs { "ahead of" } else { "behind" };
        let text = format!("it says {shown}: {apart} s {direction} the coordinator's");
        return report.fail("clock", text, "set the clocks of both machines and keep them right (NTP)");
    }
    report.ok("clock", format!("it says {shown}: {apart} s from the coordinator's"));
}

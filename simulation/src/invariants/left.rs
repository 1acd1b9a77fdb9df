//! Nothing leaves a worker that adds noise before it is paid for and cannot be made anew: its ledger has one
//! line of exactly these bytes, its disk has them, and of one local run no other bytes ever leave.

use privacy::{Journal, journal::Entry};
use proto::digest::Digest;

/// An upload that leaves, against the worker's ledger as the disk has it.
///
/// # Errors
/// If the ledger does not have it, has it twice, or cannot be read any more.
pub fn left(worker: &str, digest: &Digest, ledger: &str) -> Result<(), String> {
    let journal = Journal::parse(ledger).map_err(|error| format!("the ledger of {worker}: {error}"))?;
    let name = digest.to_string();
    let of = |entry: &&Entry| matches!(entry, Entry::Released { digest: Some(d), .. } if *d == name);
    match journal.entries().iter().filter(of).count() {
        1 => Ok(()),
        0 => Err(format!("upload {name} leaves {worker}, whose ledger does not have it")),
        more => Err(format!("the ledger of {worker} has upload {name} {more} times")),
    }
}

/// An upload that leaves, against what the disk has (`stored`) and against what left before for the same round
/// of the same basis (`earlier`).
///
/// # Errors
/// If it could be lost and made again with other noise, or was.
pub fn sealed(
    worker: &str,
    digest: &Digest,
    (stored, earlier): (Option<&Digest>, Option<&Digest>),
) -> Result<(), String> {
    match (stored, earlier) {
        (_, Some(earlier)) if earlier != digest => {
            Err(format!("{worker} sends {digest} where it sent {earlier} before: two noises on one update"))
        }
        (Some(stored), _) if stored == digest => Ok(()),
        (stored, _) => Err(format!("{digest} leaves {worker}, whose disk has {stored:?}")),
    }
}

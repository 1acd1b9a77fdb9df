//! From a finished local run to what leaves the worker and what it keeps. The one place that daemons
//! and simulation share: whatever is done to an update before it is sent is done here.

use super::{ShareMaker, TrainError, clip_upload};
use algorithms::{Algorithm, Finished, LocalRun, Vectors};
use privacy::{ClipNorm, sampler::ReleaseKey};

/// Elements that stay in the cache from one look at them to the next.
const BLOCK: usize = 32 * 1024;

/// What is done to an update before it leaves.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    /// The round.
    pub round: u64,
    /// Its largest norm, in a run that promises privacy.
    pub clip_norm: Option<ClipNorm>,
    /// Where clients add the noise together: with what, and a secret of this upload alone.
    pub shares: Option<(&'a ShareMaker, &'a ReleaseKey)>,
}

/// Upload and next client state of a local run of that round. `seen` gets the upload, vector after vector,
/// block after block, while it is in the cache. In a run that promises privacy the upload is shortened to
/// the norm, all of its vectors together, or turned into integers with a share of the noise.
///
/// # Errors
/// If a vector is not finite.
pub fn finish(
    algorithm: &dyn Algorithm,
    run: LocalRun,
    (down, state): (&Vectors, &Vectors),
    Outgoing { round, clip_norm, shares }: Outgoing<'_>,
    seen: &mut dyn FnMut(&[f32]),
) -> Result<Finished, TrainError> {
    let lr = run.lr;
    let not_finite = |name: &String| {
        TrainError::Training(format!("vector `{name}` of round {round} is not finite (learning rate {lr})"))
    };
    let mut finished = algorithm.finish(run, down, state);
    if let Some((maker, key)) = shares {
        maker.make(&mut finished.upload, round, key)?;
    } else if let Some(norm) = clip_norm {
        clip_upload(&mut finished.upload, norm)?;
    }
    for (name, vector) in &finished.upload {
        for block in vector.chunks(BLOCK) {
            if !is_finite(block) {
                return Err(not_finite(name));
            }
            seen(block);
        }
    }
    match finished.next.iter().find(|(_, vector)| !vector.chunks(BLOCK).all(is_finite)) {
        Some((name, _)) => Err(not_finite(name)),
        None => Ok(finished),
    }
}

/// Without an early end within a block, which would cost more than it saves.
fn is_finite(block: &[f32]) -> bool {
    block.iter().fold(true, |finite, value| finite & value.is_finite())
}

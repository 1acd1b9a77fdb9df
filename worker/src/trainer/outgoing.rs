//! The last steps of an update: finished by the rule, shortened where a run is private, packed where it is
//! compressed. Daemons and simulation call this and nothing else, so that both send the same bytes.
//!
//! What compression loses is client state, beside the algorithm's own: it becomes valid when the round is
//! confirmed, and an update that is offered again is the same bytes. Client state that has a counterpart
//! in the coordinator's is brought in line with what the coordinator reads.

use super::{Seal, TrainError, finish};
use algorithms::{
    Algorithm, Finished, LocalRun, Vectors,
    compress::{Packed, Packing},
    personal::Own,
    seed,
};
use std::sync::Arc;

/// What is kept of an uploaded vector begins with this in the client state.
const LOST: &str = "lost.";

/// What becomes of an update after the local run.
#[derive(Debug, Clone, Copy)]
pub struct Way<'a> {
    /// The round.
    pub round: u64,
    /// What a run that promises privacy does to it.
    pub seal: Seal<'a>,
    /// How it is compressed, and the seed of this run and worker for it.
    pub packing: Option<(&'a Packing, u64)>,
    /// Parts of the model that are the worker's own, and what it keeps of them.
    pub own: Option<(&'a Own, &'a Vectors)>,
}

impl Way<'_> {
    fn keep(&self, next: &mut Vectors) {
        let kept = self.own.iter().flat_map(|(_, kept)| kept.iter());
        next.extend(kept.map(|(name, vector)| (name.clone(), Arc::clone(vector))));
    }
}

/// What leaves the worker, and what it keeps.
#[derive(Debug, Clone, PartialEq)]
pub struct Outgoing {
    /// What travels: the upload, or the words that it was packed into.
    pub payload: Vectors,
    /// What the coordinator reads.
    pub read: Vectors,
    /// The whole next client state.
    pub next: Vectors,
}

/// The seed from which a worker's compression draws.
pub fn packing_seed(run: u64, worker: &str) -> u64 {
    seed::derive(run, "compression", &[seed::word(worker)])
}

/// Payload and next client state of a local run. `seen` gets the payload, vector after vector, block after
/// block.
///
/// # Errors
/// That of the local run, or if a vector is not finite.
pub fn outgoing(
    algorithm: &dyn Algorithm,
    trained: Result<LocalRun, TrainError>,
    (down, state): (&Vectors, &Vectors),
    way: &Way<'_>,
    seen: &mut dyn FnMut(&[f32]),
) -> Result<Outgoing, TrainError> {
    let to = (way.round, way.seal);
    let Some((packing, seed)) = way.packing else {
        let Finished { upload, mut next } = finish(algorithm, trained, (down, state), (to, way.own), seen)?;
        way.keep(&mut next);
        return Ok(Outgoing { payload: upload.clone(), read: upload, next });
    };
    let run = trained?;
    let facts = (run.steps, run.lr);
    let Finished { upload, mut next } =
        finish(algorithm, Ok(run), (down, state), (to, way.own), &mut |_| ())?;
    let mut out = Outgoing { payload: Vectors::new(), read: Vectors::new(), next: Vectors::new() };
    let mut errors = Vectors::new();
    for (name, vector) in upload {
        let kept = [LOST, &name].concat();
        let seed = seed::derive(seed, "update", &[way.round, seed::word(&name)]);
        let residual = state.get(&kept).map(|lost| lost.as_slice());
        let Packed { words, decoded, residual } = packing
            .pack(&vector, residual, seed)
            .map_err(|error| TrainError::Training(format!("compression of `{name}`: {error}")))?;
        if let Some(lost) = residual {
            out.next.insert(kept, Arc::new(lost));
        }
        let mut error = Arc::unwrap_or_clone(vector);
        error.iter_mut().zip(&decoded).for_each(|(meant, read)| *meant = read - *meant);
        errors.insert(name.clone(), Arc::new(error));
        seen(&words);
        out.payload.insert(name.clone(), Arc::new(words));
        out.read.insert(name, Arc::new(decoded));
    }
    algorithm.realign(&mut next, &errors, facts);
    way.keep(&mut next);
    out.next.extend(next);
    let vectors = out.next.values().chain(out.read.values());
    if vectors.flat_map(|vector| vector.iter()).all(|value| value.is_finite()) {
        return Ok(out);
    }
    let detail =
        format!("compression of round {} lost what is not finite (learning rate {})", way.round, facts.1);
    Err(TrainError::Training(detail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use algorithms::compress::Compressor;

    const D: usize = 64;

    fn some(salt: u64) -> Vec<f32> {
        (0..D as u64).map(|i| seed::unit(seed::mix(salt ^ i)) as f32 - 0.5).collect()
    }

    fn sent(kind: &str, packing: Option<&Packing>, state: &Vectors) -> Outgoing {
        let algorithm = algorithms::make(kind, &algorithms::Params::new()).unwrap();
        let server = algorithms::fresh_server(algorithm.as_ref(), Arc::new(some(1)));
        let run = LocalRun::new(Arc::new(some(1)), some(2), 3, 0.1);
        let way = Way { round: 4, seal: Seal::Open, packing: packing.map(|packing| (packing, 7)), own: None };
        let mut seen = Vec::new();
        let sent = outgoing(algorithm.as_ref(), Ok(run), (&server, state), &way, &mut |block| {
            seen.extend_from_slice(block);
        });
        let sent = sent.unwrap();
        let payload: Vec<u32> =
            sent.payload.values().flat_map(|vector| vector.iter().map(|word| word.to_bits())).collect();
        assert_eq!(seen.iter().map(|word| word.to_bits()).collect::<Vec<_>>(), payload);
        sent
    }

    fn packing(compressor: Compressor) -> Packing {
        Packing::new((compressor, true), vec![("delta", D)], &[vec![D]]).unwrap()
    }

    #[test]
    fn without_loss_nothing_changes() {
        let plain = sent("scaffold", None, &Vectors::new());
        assert_eq!(plain.payload, plain.read);
        let packed = sent("scaffold", Some(&packing(Compressor::None {})), &Vectors::new());
        assert_eq!((&packed.payload, &packed.read), (&plain.payload, &plain.read));
        assert_eq!(packed.next["c"], plain.next["c"]);
        assert!(packed.next["lost.delta"].iter().all(|lost| *lost == 0.0));
    }

    #[test]
    fn both_sides_use_what_was_read_and_nothing_is_lost_for_ever() {
        let packing = packing(Compressor::TopK { ratio: 0.1 });
        let state = Vectors::from([("lost.delta".to_owned(), Arc::new(some(3)))]);
        let plain = sent("scaffold", None, &state);
        let packed = sent("scaffold", Some(&packing), &state);
        let words: Vec<f32> = packed.payload.values().flat_map(|vector| vector.iter().copied()).collect();
        assert_eq!(&packing.unpack(&words).unwrap(), packed.read["delta"].as_ref());
        assert!(words.len() < D / 3, "{} words", words.len());
        for (at, lost) in state["lost.delta"].iter().enumerate() {
            let (read, meant) = (packed.read["delta"][at], plain.read["delta"][at]);
            let kept = packed.next["lost.delta"][at] + read - meant - lost;
            assert!(kept.abs() < 1e-6, "what is not read is kept");
            // c_i of what the coordinator reads: -Δ/(K η) of it.
            let own = packed.next["c"][at] - plain.next["c"][at] + (read - meant) / 0.3;
            assert!(own.abs() < 1e-5, "{own}");
        }
        assert_eq!(packed, sent("scaffold", Some(&packing), &state), "a retry sends the same bytes");
    }
}

//! The numerical side of an upload: surveyed as it arrives, vetted when it is whole, folded in one
//! pass over all cores.
//!
//! Nothing is folded before everything was checked: an integer aggregate cannot be cleaned
//! afterwards.

use algorithms::fold::{Accumulator, ELEMENT_MAX, Fold, UploadFacts, WEIGHT_MAX, fold_into};
use proto::v1::{ElementType, RejectReason, UploadHeader};
use rayon::prelude::*;

/// Elements that one thread takes at a time: 256 KiB of sum and payload together stay in its cache.
pub(super) const BLOCK: usize = 16 * 1024;

/// Why an upload is not counted.
pub(crate) type Refusal = (RejectReason, String);

/// The expected form of an upload.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Form<'a> {
    /// Names of the vectors, in order.
    pub(crate) names: &'static [&'static str],
    /// Scalars in each.
    pub(crate) length: usize,
    /// What is accumulated out of them.
    pub(crate) folds: &'a [Fold],
    /// Largest L2 norm of a vector.
    pub(crate) max_norm: Option<f64>,
    /// The learning rate that was assigned.
    pub(crate) lr: f32,
}

/// Checks everything that a header can tell, before any byte is received or allocated.
pub(crate) fn vet_header(header: &UploadHeader, form: &Form<'_>) -> Result<UploadFacts, Refusal> {
    let names: Vec<&str> = header.vectors.iter().map(|vector| vector.name.as_str()).collect();
    if names != form.names {
        let short: Vec<String> = names.iter().take(8).map(|name| name.chars().take(32).collect()).collect();
        return Err((RejectReason::Shape, format!("vectors {short:?}, expected {:?}", form.names)));
    }
    for vector in &header.vectors {
        if vector.length != form.length as u64 {
            let detail =
                format!("`{}` has {} elements, expected {}", vector.name, vector.length, form.length);
            return Err((RejectReason::Shape, detail));
        }
        if vector.element() != ElementType::F32 {
            let detail = format!("`{}` has element type {}, expected f32", vector.name, vector.element);
            return Err((RejectReason::ElementType, detail));
        }
    }
    let facts = |detail: String| Err((RejectReason::Facts, detail));
    if !(1..=WEIGHT_MAX).contains(&header.examples) {
        return facts(format!("{} examples, expected 1 to {WEIGHT_MAX}", header.examples));
    }
    if header.steps == 0 {
        return facts("0 local steps, expected at least 1".to_owned());
    }
    if header.lr != form.lr {
        return facts(format!("learning rate {}, the round's is {}", header.lr, form.lr));
    }
    if !(header.seconds.is_finite() && header.seconds >= 0.0) {
        return facts(format!("{} seconds of training", header.seconds));
    }
    Ok(UploadFacts { examples: header.examples, steps: header.steps, lr: header.lr })
}

/// What vetting must know of a payload's vectors: gathered block by block while their bytes are still in
/// the cache, in an order that does not depend on how they were cut.
#[derive(Debug)]
pub(crate) struct Survey {
    /// Scalars in each vector.
    length: usize,
    /// Scalars that were looked at.
    seen: usize,
    /// Sum of squares and largest magnitude of each vector.
    vectors: Vec<(f64, f32)>,
}

impl Survey {
    /// For vectors of that length, end to end.
    pub(crate) fn new(length: usize) -> Self {
        Self { length: length.max(1), seen: 0, vectors: Vec::new() }
    }

    /// Looks at what is new among everything that has arrived, as far as blocks are whole.
    pub(crate) fn extend(&mut self, arrived: &[f32]) {
        loop {
            let (vector, within) = (self.seen / self.length, self.seen % self.length);
            let size = BLOCK.min(self.length - within);
            let Some(block) = arrived.get(self.seen..self.seen + size) else { return };
            if within == 0 {
                self.vectors.push((0.0, 0.0));
            }
            let (squares, largest) = measure(block);
            let so_far = &mut self.vectors[vector];
            *so_far = (so_far.0 + squares, so_far.1.max(largest));
            self.seen += size;
        }
    }
}

/// Sum of squares and largest magnitude; the sum is not finite if an element is not.
fn measure(block: &[f32]) -> (f64, f32) {
    const LANES: usize = 16;
    let (mut squares, mut largest) = ([0.0_f64; LANES], [0.0_f32; LANES]);
    let (whole, rest) = block.as_chunks::<LANES>();
    let mut look = |lane: usize, value: f32| {
        squares[lane] += f64::from(value) * f64::from(value);
        largest[lane] = if value.abs() > largest[lane] { value.abs() } else { largest[lane] };
    };
    for lanes in whole {
        for (lane, value) in lanes.iter().enumerate() {
            look(lane, *value);
        }
    }
    for (lane, value) in rest.iter().enumerate() {
        look(lane, *value);
    }
    (squares.iter().sum(), largest.iter().copied().fold(0.0, f32::max))
}

/// Checks the values of a whole payload: finite, within the norm, within the fixed-point range.
pub(crate) fn vet_values(
    values: &[f32],
    survey: &Survey,
    form: &Form<'_>,
    facts: &UploadFacts,
) -> Result<(), Refusal> {
    assert_eq!(survey.seen, values.len(), "a whole payload was surveyed");
    let vectors = form.names.iter().zip(values.chunks(form.length.max(1)));
    for ((name, vector), &(squares, largest)) in vectors.zip(&survey.vectors) {
        if !squares.is_finite() {
            let at = vector.iter().position(|v| !v.is_finite()).unwrap_or_default();
            return Err((RejectReason::NotFinite, format!("`{name}`[{at}] is {}", vector[at])));
        }
        let norm = squares.sqrt();
        if let Some(max) = form.max_norm.filter(|max| norm > *max) {
            return Err((
                RejectReason::Norm,
                format!("`{name}` has norm {norm:.4e}, at most {max:.4e} is accepted"),
            ));
        }
        let factor = form.folds.iter().filter(|fold| fold.from == *name).map(|fold| fold.factor(facts));
        let folded = f64::from(largest) * factor.fold(0.0, f64::max);
        if folded > ELEMENT_MAX {
            let detail =
                format!("`{name}` has an element of magnitude {folded:.4e}, at most {ELEMENT_MAX} fits");
            return Err((RejectReason::Range, detail));
        }
    }
    Ok(())
}

/// Folds a vetted payload, whose vectors `names` lie end to end, into every accumulator.
///
/// # Panics
/// If an accumulator reads a vector that is not among `names`.
pub fn fold(accumulators: &mut [Accumulator], names: &[&str], values: &[f32], facts: &UploadFacts) {
    let length = values.len() / names.len().max(1);
    for accumulator in accumulators {
        let from = accumulator.fold().from;
        let at = names.iter().position(|name| *name == from).expect("a fold reads what its rule uploads");
        let source = &values[at * length..(at + 1) * length];
        let (sum, scale) = accumulator.parts(facts);
        sum.par_chunks_mut(BLOCK).zip(source.par_chunks(BLOCK)).for_each(|(sum, x)| fold_into(sum, x, scale));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use algorithms::fold::{Scale, Weighting};
    use proto::v1::VectorShape;

    const FOLDS: [Fold; 1] =
        [Fold { into: "delta", from: "delta", weighting: Weighting::Examples, scale: Scale::One }];
    const FACTS: UploadFacts = UploadFacts { examples: 3, steps: 2, lr: 0.1 };

    fn form(length: usize) -> Form<'static> {
        Form { names: &["delta"], length, folds: &FOLDS, max_norm: Some(10.0), lr: 0.1 }
    }

    fn header() -> UploadHeader {
        UploadHeader {
            vectors: vec![VectorShape { name: "delta".into(), length: 4, element: ElementType::F32.into() }],
            examples: 3,
            steps: 2,
            lr: 0.1,
            ..UploadHeader::default()
        }
    }

    #[test]
    fn headers_are_vetted_by_name() {
        assert_eq!(vet_header(&header(), &form(4)).unwrap(), FACTS);
        let reason = |change: fn(&mut UploadHeader)| {
            let mut header = header();
            change(&mut header);
            vet_header(&header, &form(4)).unwrap_err().0
        };
        assert_eq!(reason(|h| h.vectors[0].length = 5), RejectReason::Shape);
        assert_eq!(reason(|h| h.vectors[0].length = 2_500_000_000), RejectReason::Shape);
        assert_eq!(reason(|h| h.vectors.clear()), RejectReason::Shape);
        assert_eq!(reason(|h| h.vectors[0].name = "x".into()), RejectReason::Shape);
        assert_eq!(reason(|h| h.vectors[0].element = 9), RejectReason::ElementType);
        assert_eq!(reason(|h| h.examples = 0), RejectReason::Facts);
        assert_eq!(reason(|h| h.examples = u64::MAX), RejectReason::Facts);
        assert_eq!(reason(|h| h.steps = 0), RejectReason::Facts);
        assert_eq!(reason(|h| h.lr = f32::NAN), RejectReason::Facts);
        assert_eq!(reason(|h| h.seconds = -1.0), RejectReason::Facts);
    }

    fn vet(values: &[f32], form: &Form<'_>) -> Result<(), Refusal> {
        let mut survey = Survey::new(form.length);
        survey.extend(values);
        vet_values(values, &survey, form, &FACTS)
    }

    #[test]
    fn a_survey_does_not_depend_on_how_a_payload_is_cut() {
        let length = BLOCK + 1_000;
        let values: Vec<f32> = (0..3 * length).map(|i| (i as f32 * 0.37).sin()).collect();
        let mut whole = Survey::new(length);
        whole.extend(&values);
        let mut cut = Survey::new(length);
        for end in (0..values.len()).step_by(777).chain([values.len()]) {
            cut.extend(&values[..end]);
        }
        assert_eq!((cut.seen, &cut.vectors), (values.len(), &whole.vectors));
        for (vector, (squares, largest)) in values.chunks(length).zip(&whole.vectors) {
            let exact: f64 = vector.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
            assert!((squares - exact).abs() < 1e-9 * exact);
            assert_eq!(*largest, vector.iter().fold(0.0_f32, |most, v| most.max(v.abs())));
        }
    }

    #[test]
    fn values_are_vetted_by_name() {
        let reason = |values: &[f32]| vet(values, &form(values.len())).unwrap_err();
        assert!(vet(&[1.0, -2.0, 0.0, 3.0], &form(4)).is_ok());
        let (why, detail) = reason(&[0.0, f32::NAN]);
        assert_eq!((why, detail.as_str()), (RejectReason::NotFinite, "`delta`[1] is NaN"));
        assert_eq!(reason(&[f32::INFINITY]).0, RejectReason::NotFinite);
        assert_eq!(reason(&[1e30, 0.0]).0, RejectReason::Norm);
        let loose = Form { max_norm: None, ..form(2) };
        assert_eq!(vet(&[1e30, 0.0], &loose).unwrap_err().0, RejectReason::Range);
    }

    #[test]
    fn folding_over_threads_equals_folding_on_one() {
        let values: Vec<f32> = (0..3 * BLOCK + 7).map(|i| (i as f32 * 0.37).sin()).collect();
        let mut parallel = vec![Accumulator::new(FOLDS[0], values.len())];
        let mut serial = Accumulator::new(FOLDS[0], values.len());
        for _ in 0..3 {
            fold(&mut parallel, &["delta"], &values, &FACTS);
            serial.accumulate(&values, &FACTS);
        }
        assert_eq!(parallel[0], serial);
    }
}

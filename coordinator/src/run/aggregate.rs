//! The numerical side of an upload: surveyed as it arrives, vetted when it is whole, folded in one
//! pass over all cores.
//!
//! Nothing is folded before everything was checked: an integer aggregate cannot be cleaned
//! afterwards.

use algorithms::{
    combine::Combiner,
    fold::{Accumulator, ELEMENT_MAX, Fold, UploadFacts, WEIGHT_MAX, fold_into},
};
use proto::v1::{ElementType, RejectReason, UploadHeader};
use rayon::prelude::*;

/// Elements that one thread takes at a time: 256 KiB of sum and payload together stay in its cache.
pub(super) const BLOCK: usize = 16 * 1024;

/// Why an upload is not counted.
pub(crate) type Refusal = (RejectReason, String);

/// The expected form of an upload.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Form<'a> {
    /// Names and lengths of the vectors, in order.
    pub(crate) shapes: &'a [(&'static str, usize)],
    /// What is accumulated out of them.
    pub(crate) folds: &'a [Fold],
    /// Largest L2 norm of a vector.
    pub(crate) max_norm: Option<f64>,
    /// The learning rate that was assigned.
    pub(crate) lr: f32,
    /// What the payload's elements are.
    pub(crate) element: ElementType,
}

/// Checks everything that a header can tell, before any byte is received or allocated.
pub(crate) fn vet_header(header: &UploadHeader, form: &Form<'_>) -> Result<UploadFacts, Refusal> {
    let names: Vec<&str> = header.vectors.iter().map(|vector| vector.name.as_str()).collect();
    let expected: Vec<&str> = form.shapes.iter().map(|(name, _)| *name).collect();
    if names != expected {
        let short: Vec<String> = names.iter().take(8).map(|name| name.chars().take(32).collect()).collect();
        return Err((RejectReason::Shape, format!("vectors {short:?}, expected {expected:?}")));
    }
    for (vector, (_, length)) in header.vectors.iter().zip(form.shapes) {
        if vector.length != *length as u64 {
            let detail = format!("`{}` has {} elements, expected {length}", vector.name, vector.length);
            return Err((RejectReason::Shape, detail));
        }
        if vector.element() != form.element {
            let expected = form.element.as_str_name();
            let detail =
                format!("`{}` has element type {}, expected {expected}", vector.name, vector.element);
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
    lengths: Vec<usize>,
    /// Vectors that were looked at from end to end, and the scalars of the next.
    done: usize,
    within: usize,
    /// Scalars that were looked at.
    seen: usize,
    /// Sum of squares and largest magnitude of each vector.
    vectors: Vec<(f64, f32)>,
}

impl Survey {
    /// For vectors of those lengths, end to end.
    pub(crate) fn new(lengths: impl Iterator<Item = usize>) -> Self {
        let lengths: Vec<usize> = lengths.collect();
        let vectors = vec![(0.0, 0.0); lengths.len()];
        Self { lengths, done: 0, within: 0, seen: 0, vectors }
    }

    /// Of one vector that is there, looked at on all cores: as if it had arrived.
    pub(crate) fn of(vector: &[f32]) -> Self {
        let mut survey = Self::new(std::iter::once(vector.len()));
        let parts: Vec<(f64, f32)> = vector.par_chunks(BLOCK).map(measure).collect();
        let join =
            |(sum, most): (f64, f32), (squares, largest): (f64, f32)| (sum + squares, most.max(largest));
        survey.vectors = vec![parts.into_iter().fold((0.0, 0.0), join)];
        (survey.seen, survey.done) = (vector.len(), 1);
        survey
    }

    /// Looks at what is new among everything that has arrived, as far as blocks are whole.
    pub(crate) fn extend(&mut self, arrived: &[f32]) {
        while let Some(&length) = self.lengths.get(self.done) {
            let size = BLOCK.min(length - self.within);
            let Some(block) = arrived.get(self.seen..self.seen + size) else { return };
            let (squares, largest) = measure(block);
            let so_far = &mut self.vectors[self.done];
            *so_far = (so_far.0 + squares, so_far.1.max(largest));
            self.seen += size;
            self.within += size;
            if self.within == length {
                (self.done, self.within) = (self.done + 1, 0);
            }
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
    let mut rest = values;
    for ((name, length), &(squares, largest)) in form.shapes.iter().zip(&survey.vectors) {
        let (vector, after) = rest.split_at(*length);
        rest = after;
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

/// Folds a vetted payload, whose vectors of those names and lengths lie end to end, into every
/// accumulator.
///
/// # Panics
/// If an accumulator reads a vector that is not among them, or `values` is shorter than all of them.
pub fn fold(accumulators: &mut [Accumulator], shapes: &[(&str, usize)], values: &[f32], facts: &UploadFacts) {
    fold_by((None, 1.0), accumulators, shapes, (values, facts));
}

/// As [`fold`], each vector as much as the combiner lets it count, times `share`.
pub(crate) fn fold_by(
    (combiner, share): (Option<Combiner>, f64),
    accumulators: &mut [Accumulator],
    shapes: &[(&str, usize)],
    (values, facts): (&[f32], &UploadFacts),
) {
    for accumulator in accumulators {
        let from = accumulator.fold().from;
        let at = shapes.iter().position(|(name, _)| *name == from);
        let at = at.expect("a fold reads what its rule uploads");
        let start: usize = shapes[..at].iter().map(|(_, length)| length).sum();
        let source = &values[start..start + shapes[at].1];
        let factor = combiner.map_or(1.0, |combiner| combiner.factor_of(source)) * share;
        let (sum, scale) = accumulator.parts(facts);
        fold_vector(sum, source, scale * factor);
    }
}

/// As [`fold_into`], on all cores.
///
/// # Panics
/// If the lengths differ.
pub fn fold_vector(sum: &mut [i64], x: &[f32], scale: f64) {
    assert_eq!(sum.len(), x.len(), "fold: lengths differ");
    sum.par_chunks_mut(BLOCK).zip(x.par_chunks(BLOCK)).for_each(|(sum, x)| fold_into(sum, x, scale));
}

#[cfg(test)]
mod tests {
    use super::*;
    use algorithms::fold::{Scale, Weighting};
    use proto::v1::VectorShape;

    const FOLDS: [Fold; 1] =
        [Fold { into: "delta", from: "delta", weighting: Weighting::Examples, scale: Scale::One }];
    const FACTS: UploadFacts = UploadFacts { examples: 3, steps: 2, lr: 0.1 };

    fn form<'a>(shapes: &'a [(&'static str, usize); 1]) -> Form<'a> {
        Form { shapes, folds: &FOLDS, max_norm: Some(10.0), lr: 0.1, element: ElementType::F32 }
    }

    fn shapes(length: usize) -> [(&'static str, usize); 1] {
        [("delta", length)]
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
    fn a_vector_that_is_there_is_surveyed_as_one_that_arrives() {
        for length in [0, 5, BLOCK, 3 * BLOCK + 7] {
            let vector: Vec<f32> = (0..length).map(|i| (i as f32).sin() * 1e-3).collect();
            let mut arriving = Survey::new(std::iter::once(length));
            arriving.extend(&vector);
            let whole = Survey::of(&vector);
            assert_eq!(whole.vectors, arriving.vectors, "{length}");
            assert_eq!(whole.seen, arriving.seen);
        }
    }

    #[test]
    fn headers_are_vetted_by_name() {
        assert_eq!(vet_header(&header(), &form(&shapes(4))).unwrap(), FACTS);
        let reason = |change: fn(&mut UploadHeader)| {
            let mut header = header();
            change(&mut header);
            vet_header(&header, &form(&shapes(4))).unwrap_err().0
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
        let mut survey = Survey::new(form.shapes.iter().map(|(_, length)| *length));
        survey.extend(values);
        vet_values(values, &survey, form, &FACTS)
    }

    #[test]
    fn a_survey_does_not_depend_on_how_a_payload_is_cut() {
        let length = BLOCK + 1_000;
        let values: Vec<f32> = (0..3 * length).map(|i| (i as f32 * 0.37).sin()).collect();
        let mut whole = Survey::new([length; 3].into_iter());
        whole.extend(&values);
        let mut cut = Survey::new([length; 3].into_iter());
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
        let reason = |values: &[f32]| vet(values, &form(&shapes(values.len()))).unwrap_err();
        assert!(vet(&[1.0, -2.0, 0.0, 3.0], &form(&shapes(4))).is_ok());
        let (why, detail) = reason(&[0.0, f32::NAN]);
        assert_eq!((why, detail.as_str()), (RejectReason::NotFinite, "`delta`[1] is NaN"));
        assert_eq!(reason(&[f32::INFINITY]).0, RejectReason::NotFinite);
        assert_eq!(reason(&[1e30, 0.0]).0, RejectReason::Norm);
        let two = shapes(2);
        let loose = Form { max_norm: None, ..form(&two) };
        assert_eq!(vet(&[1e30, 0.0], &loose).unwrap_err().0, RejectReason::Range);
    }

    #[test]
    fn folding_over_threads_equals_folding_on_one() {
        let values: Vec<f32> = (0..3 * BLOCK + 7).map(|i| (i as f32 * 0.37).sin()).collect();
        let mut parallel = vec![Accumulator::new(FOLDS[0], values.len())];
        let mut serial = Accumulator::new(FOLDS[0], values.len());
        for _ in 0..3 {
            fold(&mut parallel, &shapes(values.len()), &values, &FACTS);
            serial.accumulate(&values, &FACTS);
        }
        assert_eq!(parallel[0], serial);
    }

    #[test]
    fn vectors_of_different_lengths_are_told_apart() {
        let shapes = [("delta", 3), ("steps", 1)];
        let steps = Fold { into: "steps", from: "steps", ..FOLDS[0] };
        let mut accumulators = [Accumulator::new(FOLDS[0], 3), Accumulator::new(steps, 1)];
        let values = [1.0, -2.0, 3.0, 0.5];
        let folds = [FOLDS[0], steps];
        let form = Form { shapes: &shapes, folds: &folds, ..form(&[("delta", 3)]) };
        let form = Form { max_norm: Some(3.8), ..form };
        assert!(vet(&values, &form).is_ok());
        fold(&mut accumulators, &shapes, &values, &FACTS);
        let means: Vec<Vec<f32>> = accumulators.into_iter().map(|a| a.mean().unwrap()).collect();
        assert_eq!(means, [vec![1.0, -2.0, 3.0], vec![0.5]]);
        let (why, detail) = vet(&[0.0, 0.0, 0.0, 200.0], &form).unwrap_err();
        assert_eq!((why, detail.contains("`steps`")), (RejectReason::Norm, true));
    }
}

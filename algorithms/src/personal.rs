//! What a worker has for itself alone: a model of its own ([`PersonalPlan`]), or parts of the shared one
//! ([`Own`]). Neither ever leaves it.
//!
//! Parts are named by tensor, which an algorithm does not know: they are put in before it sees a model and
//! taken out before it sees a result, so that every algorithm goes with every choice. With the personal parts
//! equal before and after, whatever a rule makes of the change is zero there.

use crate::{LocalRun, Vector, Vectors, local::LocalPlan, scalar::Scalar};
use std::{ops::Range, sync::Arc};

/// Under which name a rule keeps a personal model in the client state.
pub const PERSONAL: &str = "personal";
/// Under which name personal parts are kept in the client state, end to end.
pub const OWN: &str = "own";

/// A local run that serves the worker alone.
#[derive(Debug, Clone, PartialEq)]
pub struct PersonalPlan<S = f32> {
    /// What is trained, before the first step; of the model's length.
    pub start: Vector<S>,
    /// How a step differs from plain SGD.
    pub plan: LocalPlan<S>,
}

/// How long and how fast a personal run is; what is absent is as in the shared one.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Effort {
    /// Passes over the worker's data.
    pub epochs: Option<u32>,
    /// Exact number of steps.
    pub steps: Option<u32>,
    /// Learning rate, the same in every round.
    pub lr: Option<f32>,
}

/// Ranges of a flat vector.
pub type Ranges = Arc<[Range<usize>]>;

/// Which parts of a model are a worker's own.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::struct_field_names, reason = "own and shared are the words for it")]
pub struct Own {
    own: Ranges,
    shared: Ranges,
    length: usize,
}

/// No tensor has a name like that.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no tensor of the model is called `{pattern}`; it has {known}")]
pub struct NoSuchTensor {
    /// What was looked for.
    pub pattern: String,
    /// Every name there is.
    pub known: String,
}

impl Own {
    /// The tensors, given by name and length in their order, whose names match one of the patterns; `*` stands
    /// for any characters. `None`: no pattern, nothing is a worker's own.
    ///
    /// # Errors
    /// If a pattern matches no tensor.
    pub fn new(patterns: &[String], tensors: &[(String, usize)]) -> Result<Option<Self>, NoSuchTensor> {
        if let Some(pattern) =
            patterns.iter().find(|pattern| !tensors.iter().any(|(name, _)| matches(pattern, name)))
        {
            let known = tensors.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
            return Err(NoSuchTensor { pattern: pattern.clone(), known });
        }
        if patterns.is_empty() {
            return Ok(None);
        }
        let (mut own, mut shared, mut length) = (Vec::new(), Vec::new(), 0);
        for (name, scalars) in tensors {
            let range = length..length + scalars;
            let personal = patterns.iter().any(|pattern| matches(pattern, name));
            extend(if personal { &mut own } else { &mut shared }, range);
            length += scalars;
        }
        Ok(Some(Self { own: own.into(), shared: shared.into(), length }))
    }

    /// Where the personal parts lie.
    pub fn own(&self) -> &Ranges {
        &self.own
    }

    /// Where the others lie.
    pub fn shared(&self) -> &Ranges {
        &self.shared
    }

    /// The shared parts of a vector of the model's length, end to end.
    pub fn gather<S: Scalar>(&self, vector: &[S]) -> Vec<S> {
        self.shared.iter().flat_map(|range| &vector[range.clone()]).copied().collect()
    }

    /// The vector that has these shared parts, and zeros where a worker's own are.
    pub fn spread<S: Scalar>(&self, parts: &[S]) -> Vec<S> {
        let mut vector = vec![S::ZERO; self.length];
        put(&self.shared, parts, &mut vector);
        vector
    }

    /// The model with the worker's own parts in it; before the worker has any, they are the model's.
    pub fn merge<S: Scalar>(&self, model: &Vector<S>, state: &Vectors<S>) -> Vector<S> {
        let Some(parts) = state.get(OWN) else { return Arc::clone(model) };
        assert_eq!(model.len(), self.length, "personal parts: the model has another length");
        let mut merged = model.as_ref().clone();
        put(&self.own, parts, &mut merged);
        Arc::new(merged)
    }

    /// Takes the personal parts out of a run, whose end there becomes its start.
    pub fn take<S: Scalar>(&self, run: &mut LocalRun<S>) -> Vector<S> {
        let mut parts = Vec::new();
        for range in self.own.iter() {
            parts.extend_from_slice(&run.end[range.clone()]);
            run.end[range.clone()].copy_from_slice(&run.start[range.clone()]);
        }
        for vector in run.carried.values_mut().filter(|vector| vector.len() == self.length) {
            clear(&self.own, vector);
        }
        Arc::new(parts)
    }

    /// Makes sure that nothing of the personal parts is in an upload.
    pub fn blank<S: Scalar>(&self, upload: &mut Vectors<S>) {
        for vector in upload.values_mut().filter(|vector| vector.len() == self.length) {
            if self.own.iter().any(|range| vector[range.clone()].iter().any(|x| *x != S::ZERO)) {
                clear(&self.own, vector);
            }
        }
    }
}

/// Parts that lie end to end, into their places.
fn put<S: Scalar>(ranges: &Ranges, parts: &[S], vector: &mut [S]) {
    let mut rest = parts;
    for range in ranges.iter() {
        let (part, tail) = rest.split_at(range.len());
        vector[range.clone()].copy_from_slice(part);
        rest = tail;
    }
}

fn clear<S: Scalar>(ranges: &Ranges, vector: &mut Vector<S>) {
    let vector: &mut Vec<S> = Arc::make_mut(vector);
    ranges.iter().for_each(|range| vector[range.clone()].fill(S::ZERO));
}

fn extend(ranges: &mut Vec<Range<usize>>, range: Range<usize>) {
    match ranges.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => ranges.push(range),
    }
}

/// Whether a name is like a pattern in which `*` stands for any characters.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else { return pattern == name };
    let Some(rest) = name.strip_prefix(head) else { return false };
    rest.char_indices().map(|(at, _)| at).chain([rest.len()]).any(|at| matches(tail, &rest[at..]))
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "one range of tensors is what is meant")]
mod tests {
    use super::*;

    fn tensors() -> Vec<(String, usize)> {
        [("a.norm.bias", 2), ("a.norm.weight", 2), ("a.weight", 3), ("z.norm.bias", 1)]
            .map(|(name, length)| (name.to_owned(), length))
            .into()
    }

    fn own(patterns: &[&str]) -> Result<Option<Own>, NoSuchTensor> {
        let patterns: Vec<String> = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
        Own::new(&patterns, &tensors())
    }

    #[test]
    fn tensors_are_found_by_name() {
        let found = own(&["*norm*"]).unwrap().unwrap();
        assert_eq!((found.own().as_ref(), found.shared().as_ref()), (&[0..4, 7..8][..], &[4..7][..]));
        assert_eq!(own(&[]).unwrap(), None);
        assert_eq!(own(&["*"]).unwrap().unwrap().shared().len(), 0);
        assert_eq!(own(&["a.*.weight"]).unwrap().unwrap().own().as_ref(), [2..4]);
        let error = own(&["a*", "norm*"]).unwrap_err().to_string();
        assert!(error.contains("`norm*`") && error.contains("z.norm.bias"), "{error}");
        for (pattern, name, want) in [
            ("a*b", "ab", true),
            ("a*b", "aXbb", true),
            ("a*b", "abc", false),
            ("**", "", true),
            ("é*", "éx", true),
        ] {
            assert_eq!(matches(pattern, name), want, "{pattern} {name}");
        }
    }

    #[test]
    fn what_is_taken_out_comes_back_and_never_leaves() {
        let own = own(&["*norm*"]).unwrap().unwrap();
        let model: Vector<f32> = Arc::new(vec![0.1; 8]);
        let end: Vec<f32> = (0..8).map(|k| k as f32).collect();
        assert_eq!(own.merge(&model, &Vectors::new()), model);
        let mut run = LocalRun::new(Arc::clone(&model), end.clone(), 1, 0.1);
        run.carried.insert("mu".into(), Arc::new(end.clone()));
        let parts = own.take(&mut run);
        assert_eq!(parts.as_slice(), [0.0, 1.0, 2.0, 3.0, 7.0]);
        assert_eq!(run.carried["mu"].as_slice(), [0.0, 0.0, 0.0, 0.0, 4.0, 5.0, 6.0, 0.0]);
        let delta = run.into_delta();
        assert_eq!(delta[..4], [0.0; 4]);
        assert_eq!((delta[4], delta[7]), (3.9, 0.0));
        let shared = own.gather(&delta);
        assert_eq!(shared, delta[4..7]);
        assert_eq!(own.spread(&shared), delta);
        let state = Vectors::from([(OWN.to_owned(), parts)]);
        assert_eq!(own.merge(&model, &state).as_slice(), [0.0, 1.0, 2.0, 3.0, 0.1, 0.1, 0.1, 7.0]);
        let mut upload =
            Vectors::from([("x".to_owned(), Arc::new(end)), ("n".to_owned(), Arc::new(vec![3.0]))]);
        own.blank(&mut upload);
        assert_eq!(upload["x"].as_slice(), [0.0, 0.0, 0.0, 0.0, 4.0, 5.0, 6.0, 0.0]);
        assert_eq!(upload["n"].as_slice(), [3.0]);
    }
}

//! What the tests of the operations share: numbers, random shapes, and gradients from plain loops in f64.

use crate::engine::tape::Tape;
use crate::engine::tensor::{Result, Tensor};
use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// Calls `check` with that many shapes, which are the same every time; of those that fail the smallest is told.
pub(crate) fn shapes<S: Strategy>(cases: u32, of: &S, check: impl Fn(S::Value)) {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let tried = TestRunner::new_with_rng(config, rng).run(of, |shape| {
        check(shape);
        Ok(())
    });
    tried.unwrap_or_else(|error| panic!("{error}"));
}

/// `n` numbers in (-1, 1) that look random; equal seeds, equal numbers.
pub(crate) fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03;
    (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

#[allow(clippy::unnecessary_wraps, reason = "the form that tests take beside operations that can fail")]
pub(crate) fn tensor(values: &[f32], shape: &[usize]) -> Result<Tensor> {
    Ok(Tensor::leaf(values.to_vec(), shape))
}

/// Compares to `tolerance`, relative to the largest wanted magnitude (at least 1).
pub(crate) fn assert_close(got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    let scale = want.iter().fold(1.0f64, |a, v| a.max(v.abs()));
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        assert!((f64::from(g) - w).abs() <= tolerance * scale, "element {i}: got {g}, expected {w}");
    }
}

/// Checks an operation's values and all its gradients against a plain f64 reference, whose gradients
/// are central differences of a random projection of its output.
pub(crate) fn check_gradients(
    inputs: &[Tensor],
    ours: &dyn Fn(&[Tensor]) -> Result<Tensor>,
    reference: &dyn Fn(&[Vec<f64>]) -> Vec<f64>,
) {
    let (result, tape) = Tape::record(|| ours(inputs).unwrap());
    let mut values: Vec<Vec<f64>> =
        inputs.iter().map(|t| t.values().iter().copied().map(f64::from).collect()).collect();
    let want = reference(&values);
    assert_close(result.values(), &want, 2e-6);

    let weights = numbers(want.len(), 99);
    let grads = tape.gradients(&result, Tensor::new(weights.clone(), result.shape())).unwrap();
    let project = |values: &[Vec<f64>]| -> f64 {
        reference(values).iter().zip(&weights).map(|(v, &w)| v * f64::from(w)).sum()
    };
    let step = 1e-6;
    for (i, input) in inputs.iter().enumerate() {
        let got = grads.get(input).expect("every input has a gradient");
        let want: Vec<f64> = (0..values[i].len())
            .map(|j| {
                let centre = values[i][j];
                values[i][j] = centre + step;
                let above = project(&values);
                values[i][j] = centre - step;
                let below = project(&values);
                values[i][j] = centre;
                (above - below) / (2.0 * step)
            })
            .collect();
        assert!(want.iter().any(|v| *v != 0.0), "input {i}: the test has no gradient to compare");
        assert_close(got.values(), &want, 1e-5);
    }
}

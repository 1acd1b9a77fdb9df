//! What leaves a worker in a run that promises privacy: everything that it uploads, shortened together.

use super::TrainError;
use algorithms::Vectors;
use privacy::{ClipNorm, Grid};
use std::{num::NonZeroU64, sync::Arc};

/// Shortens an upload, all of its vectors as one, to at most `norm`, on the integer grid that the
/// coordinator checks it against.
///
/// # Errors
/// If an element is not finite.
pub fn clip_upload(upload: &mut Vectors, norm: ClipNorm) -> Result<(), TrainError> {
    let failed = |error: &dyn std::fmt::Display| TrainError::Training(format!("clipping: {error}"));
    let length = upload.values().map(|vector| vector.len() as u64).sum();
    let dimensions = NonZeroU64::new(length).unwrap_or(NonZeroU64::MIN);
    let grid = Grid::new(norm, dimensions).map_err(|error| failed(&error))?;
    let mut parts: Vec<&mut [f32]> =
        upload.values_mut().map(|vector| Arc::make_mut(vector).as_mut_slice()).collect();
    grid.clip(&mut parts).map(drop).map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_vectors_are_shortened_as_one() {
        let upload = |scale: f32| {
            Vectors::from([
                ("a".to_owned(), Arc::new(vec![3.0 * scale, 0.0])),
                ("b".to_owned(), Arc::new(vec![4.0 * scale])),
            ])
        };
        let norm = ClipNorm::new(1.0).unwrap();
        let mut long = upload(7.0);
        clip_upload(&mut long, norm).unwrap();
        assert!((long["a"][0] - 0.6).abs() < 1e-4 && (long["b"][0] - 0.8).abs() < 1e-4, "{long:?}");
        let grid = Grid::new(norm, NonZeroU64::new(3).unwrap()).unwrap();
        assert!(grid.check(&[&long["a"], &long["b"]]).is_ok());
        let mut short = upload(0.1);
        clip_upload(&mut short, norm).unwrap();
        assert!((short["a"][0] - 0.3).abs() < 1e-4, "{short:?}");
        let error = clip_upload(&mut upload(f32::NAN), norm).unwrap_err().to_string();
        assert!(error.contains("not finite"), "{error}");
    }
}

//! Memory of tensors, used again from step to step.
//!
//! A training step asks for the same few hundred megabytes again and again. From the allocator they
//! come as fresh pages, and a fault for each of them costs more than many a kernel; here a buffer that
//! is dropped waits for the next one of its size. Dropping a model empties the store.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

/// Scalars below which the allocator is as good.
const SMALL: usize = 2_048;
/// A waiting buffer is taken if no more than this share of it stays unused: 1 / SLACK.
const SLACK: usize = 8;

/// Buffers that wait, shortest first.
static STORE: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());

/// Scalars in contiguous memory that goes back to the store when dropped.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Buffer(Vec<f32>);

impl Buffer {
    /// `length` scalars of any value: for results that are written in full.
    pub(super) fn any(length: usize) -> Self {
        if length < SMALL {
            return Self(vec![0.0; length]);
        }
        let waiting = {
            let mut store = STORE.lock().unwrap_or_else(PoisonError::into_inner);
            let at = store.partition_point(|buffer| buffer.capacity() < length);
            let fits = store.get(at).is_some_and(|buffer| buffer.capacity() - length <= length / SLACK);
            fits.then(|| store.remove(at))
        };
        let Some(mut values) = waiting else { return Self(vec![0.0; length]) };
        values.resize(length, 0.0);
        Self(values)
    }

    /// `length` zeros.
    pub(super) fn zeros(length: usize) -> Self {
        let mut buffer = Self::any(length);
        buffer.fill(0.0);
        buffer
    }

    /// A copy of `values`.
    pub(super) fn copy(values: &[f32]) -> Self {
        let mut buffer = Self::any(values.len());
        buffer.copy_from_slice(values);
        buffer
    }

    /// Gives what waits back to the system.
    pub(super) fn forget_all() {
        let waiting = std::mem::take(&mut *STORE.lock().unwrap_or_else(PoisonError::into_inner));
        drop(waiting);
    }
}

impl From<Vec<f32>> for Buffer {
    fn from(values: Vec<f32>) -> Self {
        Self(values)
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.0.capacity() >= SMALL {
            let values = std::mem::take(&mut self.0);
            let mut store = STORE.lock().unwrap_or_else(PoisonError::into_inner);
            let at = store.partition_point(|other| other.capacity() < values.capacity());
            store.insert(at, values);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_contents_hold() {
        for length in [0, 1, SMALL - 1, SMALL, 5_000, 5_300, 40_000] {
            let mut buffer = Buffer::zeros(length);
            assert!(buffer.len() == length && buffer.iter().all(|v| *v == 0.0));
            buffer.fill(3.0);
            drop(buffer);
            assert_eq!(Buffer::any(length).len(), length);
            assert!(Buffer::zeros(length).iter().all(|v| *v == 0.0));
        }
        assert_eq!(*Buffer::copy(&[1.0, 2.0]), [1.0, 2.0]);
    }
}

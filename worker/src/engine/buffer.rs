//! Memory of tensors, used again from step to step.
//!
//! A training step asks for the same few hundred megabytes again and again. From the allocator they
//! come as fresh pages, and a fault for each of them costs more than many a kernel; here a buffer that
//! is dropped waits for the next one of its size. Dropping a model empties the store.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

/// Scalars below which the allocator is as good.
const SMALL: usize = 2_048;
/// A waiting buffer is taken if no more than this share of it stays unused: 1 / SLACK.
const SLACK: usize = 8;

/// Buffers that wait, shortest first.
static STORE: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());

/// Scalars in contiguous memory that goes back to the store when dropped, or that is lent.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    own: Vec<f32>,
    lent: Option<lent::Part>,
}

impl Buffer {
    /// `length` scalars of any value: for results that are written in full.
    pub(super) fn any(length: usize) -> Self {
        if length < SMALL {
            return Self::from(vec![0.0; length]);
        }
        let waiting = {
            let mut store = STORE.lock().unwrap_or_else(PoisonError::into_inner);
            let at = store.partition_point(|buffer| buffer.capacity() < length);
            let fits = store.get(at).is_some_and(|buffer| buffer.capacity() - length <= length / SLACK);
            fits.then(|| store.remove(at))
        };
        let Some(mut values) = waiting else { return Self::from(vec![0.0; length]) };
        values.resize(length, 0.0);
        Self::from(values)
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
    fn from(own: Vec<f32>) -> Self {
        Self { own, lent: None }
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &self.lent {
            None => &self.own,
            Some(part) => part.values(),
        }
    }
}

impl DerefMut for Buffer {
    /// What is lent is copied first.
    fn deref_mut(&mut self) -> &mut [f32] {
        if self.lent.is_some() {
            *self = Self::copy(self);
        }
        &mut self.own
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.own.capacity() >= SMALL {
            let values = std::mem::take(&mut self.own);
            let mut store = STORE.lock().unwrap_or_else(PoisonError::into_inner);
            let at = store.partition_point(|other| other.capacity() < values.capacity());
            store.insert(at, values);
        }
    }
}

pub(super) use lent::{Lender, lend};

/// Memory that tensors read where it lies, such as the weights, which are larger than all else in a step on a few
/// examples and would have to be copied for each.
#[allow(unsafe_code, reason = "tensors have no lifetime: that they are gone is checked when a loan ends")]
mod lent {
    use super::{Arc, Buffer};
    use std::{ops::Range, ptr::NonNull};

    /// Lends parts of a slice.
    #[derive(Debug)]
    pub(in super::super) struct Lender<'a> {
        values: &'a [f32],
        lease: Arc<()>,
    }

    /// Part of a slice; exists only while [`lend`] runs.
    #[derive(Debug)]
    pub(super) struct Part {
        start: NonNull<f32>,
        length: usize,
        _lease: Arc<()>,
    }

    // SAFETY: shared reading of scalars.
    unsafe impl Send for Part {}
    // SAFETY: shared reading of scalars.
    unsafe impl Sync for Part {}

    impl Part {
        pub(super) fn values(&self) -> &[f32] {
            // SAFETY: a borrowed slice; `lend` does not let go of it while a part with the lease exists.
            unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
        }
    }

    impl Lender<'_> {
        /// All of it.
        pub(in super::super) fn values(&self) -> &[f32] {
            self.values
        }

        /// Some of it, to be read where it lies.
        pub(in super::super) fn part(&self, range: Range<usize>) -> Buffer {
            let values = &self.values[range];
            let part = Part {
                start: NonNull::from(values).cast(),
                length: values.len(),
                _lease: self.lease.clone(),
            };
            Buffer { own: Vec::new(), lent: Some(part) }
        }
    }

    impl Drop for Lender<'_> {
        fn drop(&mut self) {
            if Arc::get_mut(&mut self.lease).is_none() {
                // Going on would let a buffer read what is not there any more.
                std::process::abort();
            }
        }
    }

    /// Calls `f` with somebody who lends parts of `values`. None of them may be left when it returns or panics:
    /// that ends the process.
    pub(in super::super) fn lend<R>(values: &[f32], f: impl FnOnce(&Lender<'_>) -> R) -> R {
        f(&Lender { values, lease: Arc::default() })
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

    #[test]
    fn what_is_lent_is_read_in_place_and_never_written() {
        let values: Vec<f32> = (0..3_000).map(|i| i as f32).collect();
        let sum = lend(&values, |lender| {
            let part = lender.part(10..2_900);
            assert_eq!((part.as_ptr(), part.len()), (values[10..].as_ptr(), 2_890));
            let mut changed = lender.part(0..2);
            changed[1] = 7.0;
            assert_eq!(*changed, [0.0, 7.0]);
            assert!(lender.part(5..5).is_empty());
            std::thread::scope(|scope| scope.spawn(|| part.iter().sum::<f32>()).join().unwrap())
        });
        assert_eq!(sum, values[10..2_900].iter().sum::<f32>());
        assert_eq!(values[1], 1.0);
    }

    #[test]
    fn a_panic_gives_back_what_was_lent() {
        let values = [1.0; 4];
        let caught = std::panic::catch_unwind(|| {
            lend(&values, |lender| {
                let part = lender.part(0..4);
                assert!(part.is_empty(), "on purpose");
            });
        });
        assert!(caught.is_err());
    }
}

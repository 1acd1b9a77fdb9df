//! Memory for vectors of a run that is used again, upload after upload and round after round: fresh
//! pages cost more than receiving into them does.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Vectors whose content nobody needs any more; at most as many as uploads are received at the same time.
#[derive(Debug)]
pub(crate) struct Buffers {
    spare: Mutex<Vec<Vec<f32>>>,
    most: usize,
}

impl Buffers {
    /// Keeps at most so many.
    pub(crate) fn new(most: usize) -> Self {
        Self { spare: Mutex::default(), most }
    }

    /// A vector of that length, with any content.
    pub(crate) fn take(&self, length: usize) -> Vec<f32> {
        match self.spare().pop() {
            Some(mut used) if used.capacity() >= length => {
                used.resize(length, 0.0);
                used
            }
            _ => vec![0.0; length],
        }
    }

    /// Hands a vector over for the next [`Self::take`].
    pub(crate) fn give(&self, vector: Vec<f32>) {
        let mut spare = self.spare();
        if spare.len() < self.most {
            spare.push(vector);
        }
    }

    /// Gives the memory back to the system.
    pub(crate) fn clear(&self) {
        *self.spare() = Vec::new();
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Vec<f32>>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_back_in_the_wanted_length() {
        let buffers = Buffers::new(1);
        let given = vec![1.0; 10];
        let at = given.as_ptr();
        buffers.give(given);
        buffers.give(vec![2.0; 99]);
        let taken = buffers.take(7);
        assert_eq!((taken.len(), taken.as_ptr()), (7, at), "one is kept, the second was dropped");
        buffers.give(taken);
        assert_eq!(buffers.take(11).len(), 11, "a short one is of no use");
        buffers.give(vec![0.0; 5]);
        buffers.clear();
        assert!(buffers.spare().is_empty());
    }
}

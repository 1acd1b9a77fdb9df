//! Digests of the vectors that somebody still holds, so that what is stored, sent and reported is hashed once.

use proto::digest::Digest;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Digests by the place of their vector. While it is known here no other vector can come to lie there, and one that
/// is changed moves away.
#[derive(Debug, Default)]
pub(super) struct Digests(Mutex<Vec<(Weak<Vec<f32>>, Digest)>>);

impl Digests {
    /// The digest of a vector.
    pub(super) fn of(&self, vector: &Arc<Vec<f32>>) -> Digest {
        let here = |(of, _): &&(Weak<Vec<f32>>, Digest)| std::ptr::eq(of.as_ptr(), Arc::as_ptr(vector));
        let found = self.lock().iter().find(here).map(|(_, digest)| *digest);
        found.unwrap_or_else(|| {
            let digest = Digest::of_vector(vector);
            self.know(vector, digest);
            digest
        })
    }

    /// Notes a digest that was found out in another way.
    pub(super) fn know(&self, vector: &Arc<Vec<f32>>, digest: Digest) {
        let mut known = self.lock();
        known.retain(|(of, _)| of.strong_count() > 0);
        known.push((Arc::downgrade(vector), digest));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Weak<Vec<f32>>, Digest)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_vector_has_another_digest() {
        let digests = Digests::default();
        let mut vector = Arc::new(vec![1.0; 100]);
        let before = digests.of(&vector);
        assert_eq!((before, digests.of(&vector)), (Digest::of_vector(&vector), before));
        Arc::make_mut(&mut vector)[7] = 2.0;
        assert_eq!(digests.of(&vector), Digest::of_vector(&vector));
        assert_ne!(digests.of(&vector), before);
        drop(vector);
        // Its place may be taken by another one.
        for value in 0..50 {
            let other = Arc::new(vec![value as f32; 100]);
            assert_eq!(digests.of(&other), Digest::of_vector(&other));
        }
        assert!(digests.lock().len() <= 2, "those that nobody holds are forgotten");
    }
}

//! Buffers of one chunk, used again by all that is sent: fresh memory for each would be page faults.

use bytes::Bytes;
use proto::limits::CHUNK_BYTES;
use std::sync::{Arc, Mutex, PoisonError};

/// Buffers that are kept; more than these are made and dropped.
const KEPT: usize = 32;

/// Buffers that nobody reads any more.
#[derive(Debug, Default)]
pub(super) struct Pool(Mutex<Vec<Box<[u8]>>>);

/// A buffer that goes back when it has been sent.
struct Lent {
    buffer: Box<[u8]>,
    size: usize,
    pool: Arc<Pool>,
}

impl Pool {
    /// At most a chunk of bytes, as `fill` writes them.
    pub(super) fn fill<E>(
        self: &Arc<Self>,
        size: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Bytes, E> {
        let spare = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let buffer = spare.unwrap_or_else(|| vec![0; CHUNK_BYTES].into());
        let mut lent = Lent { buffer, size, pool: Arc::clone(self) };
        fill(&mut lent.buffer[..size])?;
        Ok(Bytes::from_owner(lent))
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.size]
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut spare = self.pool.0.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < KEPT {
            spare.push(std::mem::take(&mut self.buffer));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_and_bytes_in_use_do_not_change() {
        let pool = Arc::new(Pool::default());
        let fill = |value: u8, size| {
            let filled = pool.fill(size, |buffer| {
                buffer.fill(value);
                Ok::<_, ()>(())
            });
            filled.unwrap()
        };
        let first = fill(1, 10);
        let second = fill(2, 5);
        assert_eq!((first.as_ref(), second.as_ref()), ([1; 10].as_slice(), [2; 5].as_slice()));
        let at = second.as_ptr();
        drop(second);
        let third = fill(3, 7);
        assert_eq!((third.as_ptr(), third.len()), (at, 7));
        assert_eq!(first.as_ref(), [1; 10]);
        assert_eq!(pool.fill(1, |_| Err(())), Err(()));
        assert_eq!(pool.0.lock().unwrap().len(), 1, "also after a failure");
    }
}

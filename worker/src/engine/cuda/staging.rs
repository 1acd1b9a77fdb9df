//! Memory of the host that a GPU reads and writes by itself.
//!
//! From any other the driver copies through a piece of its own, one lane at a time.

use super::device::DeviceError;
use bytemuck::Pod;
use cudarc::driver::{CudaContext, result};
use std::sync::Arc;

/// Below this the driver takes the bytes with the command; above, so much memory shall not be pinned.
const STAGED: std::ops::RangeInclusive<usize> = (64 << 10)..=(256 << 20);

/// Pinned memory, as much as was asked for at most.
#[derive(Debug)]
pub(super) struct Staging {
    context: Arc<CudaContext>,
    address: usize,
    bytes: usize,
}

impl Staging {
    pub(super) fn new(context: &Arc<CudaContext>) -> Self {
        Self { context: Arc::clone(context), address: 0, bytes: 0 }
    }

    /// Whether so many bytes should go this way.
    pub(super) fn suits(bytes: usize) -> bool {
        STAGED.contains(&bytes)
    }

    /// Memory for so many values; the GPU must be done with what was there.
    #[allow(unsafe_code, reason = "memory by address")]
    pub(super) fn room<T: Pod>(&mut self, values: usize) -> Result<&mut [T], DeviceError> {
        let bytes = values * size_of::<T>();
        if bytes > self.bytes {
            self.release();
            self.context.bind_to_thread()?;
            // SAFETY: a plain allocation; the context is bound.
            self.address = unsafe { result::malloc_host(bytes, 0) }? as usize;
            self.bytes = bytes;
            // SAFETY: just allocated, so long; any bytes will do from here on.
            unsafe { std::ptr::write_bytes(self.address as *mut u8, 0, bytes) };
        }
        assert!(bytes > 0, "only what suits is staged");
        // SAFETY: allocated, initialised and so long, aligned to a page; any bytes are a `Pod`; borrowed
        // from `self`.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.address as *mut T, values) })
    }

    #[allow(unsafe_code, reason = "memory by address")]
    fn release(&mut self) {
        if self.bytes > 0 && self.context.bind_to_thread().is_ok() {
            // SAFETY: allocated by `room`, freed once. A failure leaves nothing to do.
            let _ = unsafe { result::free_host(self.address as *mut _) };
        }
        (self.address, self.bytes) = (0, 0);
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        self.release();
    }
}

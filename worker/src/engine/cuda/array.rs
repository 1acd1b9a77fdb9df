//! Values on a device.

use super::device::DeviceError;
use super::lane::Lane;
use crate::engine::EngineError;
use cudarc::driver::{CudaContext, result};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Scratch memory comes in multiples of this; arrays are aligned to it.
const GRAIN: usize = 512;
/// Elements that the kernels' 32-bit indices reach.
const ELEMENTS_MAX: usize = 1 << 31;

/// Scratch memory that waits, by its size.
#[derive(Debug)]
pub(super) struct Pool {
    context: Arc<CudaContext>,
    waiting: Mutex<BTreeMap<usize, Vec<u64>>>,
}

impl Pool {
    pub(super) fn new(context: &Arc<CudaContext>) -> Self {
        Self { context: Arc::clone(context), waiting: Mutex::default() }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let waiting = self.waiting.get_mut().unwrap_or_else(PoisonError::into_inner);
        for pointer in std::mem::take(waiting).into_values().flatten() {
            free(&self.context, pointer);
        }
    }
}

#[allow(unsafe_code, reason = "memory by address")]
fn free(context: &CudaContext, pointer: u64) {
    if context.bind_to_thread().is_ok() {
        // SAFETY: allocated by `Memory::fresh`, freed once; the driver waits for work that uses it. A
        // failure leaves nothing to do.
        let _ = unsafe { result::free_sync(pointer) };
    }
}

/// A piece of a device's memory.
#[derive(Debug)]
pub(super) struct Memory {
    pool: Arc<Pool>,
    pointer: u64,
    bytes: usize,
    scratch: bool,
}

impl Memory {
    /// From the driver.
    pub(super) fn fresh(pool: &Arc<Pool>, bytes: usize) -> Result<Self, DeviceError> {
        Self::allocate(pool, bytes.next_multiple_of(GRAIN).max(GRAIN), false)
    }

    #[allow(unsafe_code, reason = "memory by address")]
    fn allocate(pool: &Arc<Pool>, bytes: usize, scratch: bool) -> Result<Self, DeviceError> {
        pool.context.bind_to_thread()?;
        // SAFETY: the result is not read before it is written.
        let pointer = unsafe { result::malloc_sync(bytes) }?;
        Ok(Self { pool: Arc::clone(pool), pointer, bytes, scratch })
    }

    fn scratch(pool: &Arc<Pool>, bytes: usize) -> Result<Self, DeviceError> {
        let bytes = bytes.next_multiple_of(GRAIN).max(GRAIN);
        let waiting = {
            let mut waiting = pool.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.get_mut(&bytes).and_then(Vec::pop)
        };
        match waiting {
            Some(pointer) => Ok(Self { pool: Arc::clone(pool), pointer, bytes, scratch: true }),
            None => Self::allocate(pool, bytes, true),
        }
    }

    pub(super) fn pointer(&self) -> u64 {
        self.pointer
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.scratch {
            let mut waiting = self.pool.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.entry(self.bytes).or_default().push(self.pointer);
        } else {
            free(&self.pool.context, self.pointer);
        }
    }
}

/// Where a parameter's gradient goes, and its copy in bfloat16.
#[derive(Debug)]
struct Leaf {
    gradient: Option<Array>,
    narrow: Option<Array>,
}

/// Equal values side by side on a device. A clone is the same memory.
#[derive(Debug, Clone)]
pub(in crate::engine) struct Array {
    lane: Arc<Lane>,
    memory: Arc<Memory>,
    /// In elements.
    offset: usize,
    length: usize,
    size: usize,
    leaf: Option<Arc<Leaf>>,
}

impl Array {
    fn of<T>(
        lane: &Arc<Lane>,
        length: usize,
        memory: impl FnOnce(usize) -> Result<Memory, DeviceError>,
    ) -> Result<Self, EngineError> {
        if length >= ELEMENTS_MAX {
            return Err(EngineError::Device(format!("{length} values in one array; at most {ELEMENTS_MAX}")));
        }
        let size = size_of::<T>();
        let memory = Arc::new(memory(length * size)?);
        Ok(Self { lane: Arc::clone(lane), memory, offset: 0, length, size, leaf: None })
    }

    pub(super) fn scratch<T>(lane: &Arc<Lane>, pool: &Arc<Pool>, length: usize) -> Result<Self, EngineError> {
        Self::of::<T>(lane, length, |bytes| Memory::scratch(pool, bytes))
    }

    pub(super) fn fresh<T>(lane: &Arc<Lane>, pool: &Arc<Pool>, length: usize) -> Result<Self, EngineError> {
        Self::of::<T>(lane, length, |bytes| Memory::fresh(pool, bytes))
    }

    /// `length` elements from `offset` on.
    pub(in crate::engine) fn part(&self, offset: usize, length: usize) -> Self {
        assert!(offset + length <= self.length, "a part beyond the end");
        Self { offset: self.offset + offset, length, leaf: None, ..self.clone() }
    }

    /// The same as a parameter; without a place for its gradient none is wanted.
    pub(in crate::engine) fn with_leaf(self, gradient: Option<Self>, narrow: Option<Self>) -> Self {
        Self { leaf: Some(Arc::new(Leaf { gradient, narrow })), ..self }
    }

    /// Where its gradient goes, if it is a parameter whose gradient is wanted.
    pub(in crate::engine) fn gradient(&self) -> Option<&Self> {
        self.leaf.as_ref()?.gradient.as_ref()
    }

    /// Whether it is a parameter whose gradient is wanted.
    pub(in crate::engine) fn is_parameter(&self) -> bool {
        self.gradient().is_some()
    }

    /// Its copy in bfloat16, if it is a parameter that has one.
    pub(super) fn narrow(&self) -> Option<&Self> {
        self.leaf.as_ref()?.narrow.as_ref()
    }

    pub(super) fn lane(&self) -> &Arc<Lane> {
        &self.lane
    }

    pub(in crate::engine) fn len(&self) -> usize {
        self.length
    }

    pub(super) fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Bytes of an element.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn bytes(&self) -> usize {
        self.length * self.size
    }

    pub(super) fn pointer(&self) -> u64 {
        self.memory.pointer() + (self.offset * self.size) as u64
    }
}

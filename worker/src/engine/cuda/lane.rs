//! A stream of a GPU with what training needs on it: kernels, matrix products, memory that is used again.
//!
//! A lane works in the order in which it is asked, one thread at a time; several lanes share a GPU. Memory
//! of a step (`scratch`) goes back to the lane's pool when dropped, and whoever is asked next may overwrite
//! it: what is asked later runs later. A captured step therefore finds its addresses valid as long as the
//! lane lives; what must outlast a step is `fresh`.

use super::array::{Array, Memory, Pool};
use super::device::{Device, DeviceError, cublas};
use super::nvrtc::Source;
use super::placement::Precision;
use super::staging::Staging;
use crate::engine::EngineError;
use bytemuck::Pod;
use cudarc::cublas::{result as blas, sys as blas_sys};
use cudarc::driver::{
    CudaFunction, CudaGraph, CudaModule, CudaStream, LaunchConfig, PushKernelArg, result, sys,
};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The training kernels as one module.
pub(super) const KERNELS: Source = Source {
    name: "training",
    text: concat!(
        include_str!("kernels/common.cuh"),
        include_str!("kernels/layers.cu"),
        include_str!("kernels/norm.cu"),
        include_str!("kernels/sequence.cu"),
        include_str!("kernels/steps.cu"),
    ),
};

/// Threads of a block, as in `common.cuh`.
pub(super) const THREADS: usize = 256;
/// Blocks of a kernel that loops.
const BLOCKS: usize = 4_096;
/// Bytes that cuBLAS may use, what NVIDIA advises for Hopper.
const WORKSPACE: usize = 32 << 20;

/// An argument of a kernel.
#[derive(Debug, Clone, Copy)]
pub(super) enum Arg {
    Pointer(u64),
    Word(u32),
    Float(f32),
}

impl From<&Array> for Arg {
    fn from(array: &Array) -> Self {
        Self::Pointer(array.pointer())
    }
}

impl From<Option<&Array>> for Arg {
    fn from(array: Option<&Array>) -> Self {
        Self::Pointer(array.map_or(0, Array::pointer))
    }
}

impl From<usize> for Arg {
    /// Sizes are checked where arrays are made.
    fn from(word: usize) -> Self {
        Self::Word(word as u32)
    }
}

impl From<bool> for Arg {
    fn from(flag: bool) -> Self {
        Self::Word(u32::from(flag))
    }
}

impl From<f32> for Arg {
    fn from(value: f32) -> Self {
        Self::Float(value)
    }
}

/// The arguments of a kernel from mixed values.
macro_rules! args {
    ($($value:expr),* $(,)?) => { &[$($crate::engine::cuda::lane::Arg::from($value)),*] };
}
pub(super) use args;

/// A stream of a GPU.
pub(in crate::engine) struct Lane {
    pub(super) stream: Arc<CudaStream>,
    module: Arc<CudaModule>,
    functions: Mutex<BTreeMap<&'static str, Arc<CudaFunction>>>,
    pub(super) handle: Handle,
    pool: Arc<Pool>,
    staging: Mutex<Staging>,
    precision: Precision,
    _workspace: Arc<Memory>,
}

pub(super) struct Handle(pub(super) blas_sys::cublasHandle_t);

#[allow(
    unsafe_code,
    reason = "a handle is an address; cuBLAS allows one thread at a time, which the lock is for"
)]
// SAFETY: a lane is used by one thread at a time (sessions are checked out), and handles may move.
unsafe impl Send for Handle {}
#[allow(unsafe_code, reason = "as above")]
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Drop for Handle {
    #[allow(unsafe_code, reason = "the handle is destroyed once")]
    fn drop(&mut self) {
        // SAFETY: made by `create_handle`, never destroyed before. A failure leaves nothing to do.
        let _ = unsafe { blas::destroy_handle(self.0) };
    }
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane").field("precision", &self.precision).finish_non_exhaustive()
    }
}

pub(super) fn blas_error(error: blas::CublasError) -> DeviceError {
    DeviceError(format!("cuBLAS refuses: {:?}", error.0))
}

impl Lane {
    /// # Errors
    /// If a library is missing or the GPU refuses.
    #[allow(unsafe_code, reason = "cuBLAS has no safe form for a workspace")]
    pub(super) fn new(device: &Device, precision: Precision) -> Result<Arc<Self>, DeviceError> {
        cublas().map_err(DeviceError)?;
        let context = device.context();
        context.bind_to_thread()?;
        let stream = context.new_stream()?;
        let module = device.module(&KERNELS)?;
        let pool = Arc::new(Pool::new(context));
        let workspace = Arc::new(Memory::fresh(&pool, WORKSPACE)?);
        let handle = Handle(blas::create_handle().map_err(blas_error)?);
        // SAFETY: handle and stream are alive and on the bound context; the workspace lives as long as the lane.
        unsafe {
            blas::set_stream(handle.0, stream.cu_stream().cast()).map_err(blas_error)?;
            blas_sys::cublasSetWorkspace_v2(handle.0, workspace.pointer() as *mut _, WORKSPACE)
                .result()
                .map_err(blas_error)?;
        }
        let (functions, staging) = (Mutex::default(), Mutex::new(Staging::new(context)));
        let own = Self { stream, module, functions, handle, pool, staging, precision, _workspace: workspace };
        Ok(Arc::new(own))
    }

    pub(super) fn precision(&self) -> Precision {
        self.precision
    }

    /// `length` values of any content, for this step.
    pub(super) fn scratch<T>(self: &Arc<Self>, length: usize) -> Result<Array, EngineError> {
        Array::scratch::<T>(self, &self.pool, length)
    }

    /// `length` zeros that nobody else will use.
    pub(super) fn fresh<T>(self: &Arc<Self>, length: usize) -> Result<Array, EngineError> {
        let array = Array::fresh::<T>(self, &self.pool, length)?;
        self.clear(&array)?;
        Ok(array)
    }

    fn function(&self, name: &'static str) -> Result<Arc<CudaFunction>, EngineError> {
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = functions.get(name) {
            return Ok(Arc::clone(function));
        }
        let function = Arc::new(self.module.load_function(name).map_err(DeviceError::from)?);
        functions.insert(name, Arc::clone(&function));
        Ok(function)
    }

    /// A kernel that loops over `n` elements.
    pub(super) fn each(&self, name: &'static str, n: usize, args: &[Arg]) -> Result<(), EngineError> {
        self.grid(name, (n.div_ceil(THREADS).clamp(1, BLOCKS), 1), args)
    }

    /// A kernel with [`THREADS`] threads a block.
    #[allow(unsafe_code, reason = "kernels are launched by address")]
    pub(super) fn grid(
        &self,
        name: &'static str,
        (x, y): (usize, usize),
        args: &[Arg],
    ) -> Result<(), EngineError> {
        let function = self.function(name)?;
        let mut launch = self.stream.launch_builder(&function);
        for arg in args {
            match arg {
                Arg::Pointer(pointer) => launch.arg(pointer),
                Arg::Word(word) => launch.arg(word),
                Arg::Float(value) => launch.arg(value),
            };
        }
        let config = LaunchConfig {
            grid_dim: (x as u32, y as u32, 1),
            block_dim: (THREADS as u32, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: number and types of the arguments are those of the kernel, and their arrays as long as it
        // goes: each caller, checked against the CPU's operations (`check.rs`).
        unsafe { launch.launch(config) }.map_err(DeviceError::from)?;
        Ok(())
    }

    /// Zeroes.
    #[allow(unsafe_code, reason = "memory by address")]
    pub(super) fn clear(&self, array: &Array) -> Result<(), EngineError> {
        self.stream.context().bind_to_thread().map_err(DeviceError::from)?;
        // SAFETY: the array is alive and so long.
        unsafe { result::memset_d8_async(array.pointer(), 0, array.bytes(), self.stream.cu_stream()) }
            .map_err(DeviceError::from)?;
        Ok(())
    }

    /// Copies to the front of an array.
    pub(super) fn upload<T: Pod>(&self, array: &Array, values: &[T]) -> Result<(), EngineError> {
        assert!(size_of_val(values) <= array.bytes(), "upload: longer than the array");
        if !Staging::suits(size_of_val(values)) {
            return self.put(array, values);
        }
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        // What was staged before has left.
        self.wait()?;
        let room = staging.room::<T>(values.len())?;
        room.copy_from_slice(values);
        self.put(array, room)
    }

    /// Asks for a copy; pinned values must stay until it is done.
    #[allow(unsafe_code, reason = "memory by address")]
    fn put<T>(&self, array: &Array, values: &[T]) -> Result<(), EngineError> {
        self.stream.context().bind_to_thread().map_err(DeviceError::from)?;
        // SAFETY: the array is alive and long enough; from pageable memory the copy has left `values` when
        // the call returns, and staged values stay until the next wait.
        unsafe { result::memcpy_htod_async(array.pointer(), values, self.stream.cu_stream()) }
            .map_err(DeviceError::from)?;
        Ok(())
    }

    /// Copies one array over another of its length.
    #[allow(unsafe_code, reason = "memory by address")]
    pub(super) fn copy(&self, to: &Array, from: &Array) -> Result<(), EngineError> {
        assert!(to.bytes() == from.bytes(), "copy: lengths differ");
        self.stream.context().bind_to_thread().map_err(DeviceError::from)?;
        // SAFETY: both arrays are alive and of that length.
        unsafe {
            result::memcpy_dtod_async(to.pointer(), from.pointer(), to.bytes(), self.stream.cu_stream())
        }
        .map_err(DeviceError::from)?;
        Ok(())
    }

    /// Waits, and copies the front of an array.
    pub(super) fn download<T: Pod>(&self, values: &mut [T], array: &Array) -> Result<(), EngineError> {
        assert!(size_of_val(values) <= array.bytes(), "download: longer than the array");
        if !Staging::suits(size_of_val(values)) {
            return self.take(values, array);
        }
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        self.wait()?;
        let room = staging.room::<T>(values.len())?;
        self.take(room, array)?;
        values.copy_from_slice(room);
        Ok(())
    }

    #[allow(unsafe_code, reason = "memory by address")]
    fn take<T>(&self, values: &mut [T], array: &Array) -> Result<(), EngineError> {
        self.stream.context().bind_to_thread().map_err(DeviceError::from)?;
        // SAFETY: the array is alive and long enough; the copy is waited for.
        unsafe { result::memcpy_dtoh_async(values, array.pointer(), self.stream.cu_stream()) }
            .map_err(DeviceError::from)?;
        self.wait()
    }

    /// Waits until all is done that was asked for.
    pub(super) fn wait(&self) -> Result<(), EngineError> {
        Ok(self.stream.synchronize().map_err(DeviceError::from)?)
    }

    /// What `f` asks for as one graph, which is not done yet.
    pub(super) fn capture(
        &self,
        f: impl FnOnce() -> Result<(), EngineError>,
    ) -> Result<CudaGraph, EngineError> {
        // Relaxed: other lanes may allocate meanwhile.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        self.stream.begin_capture(mode).map_err(DeviceError::from)?;
        let asked = f();
        let graph = self.stream.end_capture(sys::CUgraphInstantiate_flags(0)).map_err(DeviceError::from);
        asked?;
        graph?.ok_or_else(|| EngineError::Device("nothing was captured".into()))
    }
}

impl From<DeviceError> for EngineError {
    fn from(error: DeviceError) -> Self {
        Self::Device(error.0)
    }
}

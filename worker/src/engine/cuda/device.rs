//! One GPU: its context, a stream of work and the modules that were loaded into it.

use super::{cache, gpus, library::CUBLAS, nvrtc};
use cudarc::driver::{CudaContext, CudaModule, CudaStream, DriverError, result, sys};
use cudarc::nvrtc::Ptx;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// Why a GPU cannot be used, or failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DeviceError(pub String);

impl From<DriverError> for DeviceError {
    fn from(error: DriverError) -> Self {
        let name = error.error_name().map_or("an unknown error".into(), |name| name.to_string_lossy());
        let text = error.error_string().map_or("".into(), |text| text.to_string_lossy());
        Self(format!("the CUDA driver refuses: {name}: {text}"))
    }
}

/// A GPU that is open, with one stream: work on it is done in the order in which it is asked for.
///
/// Memory is to be used on the stream that it was allocated on; what another stream shall see needs a
/// `synchronize` between.
#[derive(Debug)]
pub struct Device {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    name: String,
    capability: (u32, u32),
    multiprocessors: u32,
    compiler: nvrtc::Compiler,
    folder: Option<PathBuf>,
    modules: Mutex<BTreeMap<String, Arc<CudaModule>>>,
}

impl Device {
    /// Opens the GPU with this number. Compiled kernels are kept in `folder`, if one is given (see
    /// [`cache::default_folder`]).
    ///
    /// # Errors
    /// What is missing, and what to do.
    pub fn open(ordinal: usize, folder: Option<PathBuf>) -> Result<Arc<Self>, DeviceError> {
        let gpus = gpus().map_err(DeviceError)?;
        let gpu = gpus.into_iter().nth(ordinal).ok_or_else(|| {
            DeviceError(format!("there is no GPU {ordinal}: `starling worker devices` lists those there are"))
        })?;
        let compiler = nvrtc::Compiler::open().map_err(DeviceError)?;
        let context = CudaContext::new(ordinal)?;
        sleep_in_waits(&context)?;
        keep_memory(&context)?;
        let multiprocessors =
            context.attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        own_streams(&context);
        Ok(Arc::new(Self {
            stream: context.new_stream()?,
            context,
            name: gpu.name,
            capability: gpu.capability,
            multiprocessors: multiprocessors.unsigned_abs(),
            compiler,
            folder,
            modules: Mutex::default(),
        }))
    }

    /// As the driver calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number of multiprocessors.
    pub fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }

    /// The context, for more streams.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// The device's own stream.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// The kernels of `source`, compiled for this GPU unless memory or disk has them.
    ///
    /// # Errors
    /// The compiler's log, or what the driver says.
    pub fn module(&self, source: &nvrtc::Source) -> Result<Arc<CudaModule>, DeviceError> {
        let (major, minor) = self.capability;
        let (of, by) = (format!("sm_{major}{minor}"), format!("{:?}", self.compiler.version()));
        let parts = [[source.text, of.as_str(), by.as_str()].as_slice(), &nvrtc::OPTIONS].concat();
        let key = cache::key(source.name, &parts);
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = modules.get(&key) {
            return Ok(Arc::clone(module));
        }
        let compile = || self.compiler.compile(source, self.capability);
        let code = cache::cached(self.folder.as_deref(), &key, compile).map_err(DeviceError)?;
        let module = self.context.load_module(Ptx::from_binary(code))?;
        modules.insert(key, Arc::clone(&module));
        Ok(module)
    }

    /// Waits until all that was asked of the stream is done.
    ///
    /// # Errors
    /// What went wrong meanwhile.
    pub fn synchronize(&self) -> Result<(), DeviceError> {
        Ok(self.stream.synchronize()?)
    }
}

/// cuBLAS, if it can be opened; it stays open, so that cudarc finds it.
///
/// # Errors
/// What is missing, and what to install.
pub fn cublas() -> Result<PathBuf, String> {
    let (library, path) = CUBLAS.open()?;
    std::mem::forget(library);
    Ok(path)
}

/// Whoever waits shall not take a core from those that work.
#[allow(unsafe_code, reason = "the driver's version has no safe form")]
fn sleep_in_waits(context: &CudaContext) -> Result<(), DeviceError> {
    /// The first driver that takes a context's flags when it is there.
    const SINCE: i32 = 12_010;
    let mut version = 0;
    // SAFETY: the driver writes a number to a live local.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result()?;
    if version >= SINCE {
        context.set_blocking_synchronize()?;
    }
    Ok(())
}

/// Freed memory stays with the process instead of going back to the driver at each synchronisation.
#[allow(unsafe_code, reason = "the driver's pools have no safe form")]
fn keep_memory(context: &CudaContext) -> Result<(), DeviceError> {
    if !context.has_async_alloc() {
        return Ok(());
    }
    let mut all = u64::MAX;
    let key = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the device is open; this attribute is a 64-bit number, which outlives the call.
    unsafe {
        let pool = result::device::get_default_mem_pool(context.cu_device())?;
        sys::cuMemPoolSetAttribute(pool, key, (&raw mut all).cast()).result()?;
    }
    Ok(())
}

/// Turns off cudarc's events for each vector, which cost more than many a kernel.
#[allow(unsafe_code, reason = "the promise that cudarc wants")]
fn own_streams(context: &CudaContext) {
    // SAFETY: memory is used on the stream it was allocated on, as `Device` says.
    unsafe { context.disable_event_tracking() };
}

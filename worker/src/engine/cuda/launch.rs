//! Kernels of one module, by name, with arguments of the few kinds that they take.

use super::{Device, DeviceError, Source};
use cudarc::driver::{CudaFunction, LaunchConfig, PushKernelArg};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// An argument of a kernel.
#[derive(Debug, Clone, Copy)]
pub(super) enum Arg {
    /// An address in the GPU's memory.
    Pointer(u64),
    Long(u64),
    Int(u32),
    Float(f32),
    Double(f64),
}

impl Arg {
    pub(super) const NULL: Self = Self::Pointer(0);
}

/// What was loaded, and the first thing that went wrong since.
#[derive(Debug)]
pub(super) struct Kernels {
    device: Arc<Device>,
    functions: BTreeMap<&'static str, CudaFunction>,
    fault: Mutex<Option<DeviceError>>,
}

impl Kernels {
    /// Threads of a block.
    pub(super) const BLOCK: u64 = 256;

    /// All kernels of `source`: what stands after `extern "C" __global__ void `.
    ///
    /// # Errors
    /// As of [`Device::module`].
    pub(super) fn load(device: &Arc<Device>, source: &Source) -> Result<Self, DeviceError> {
        let module = device.module(source)?;
        let load = |name: &'static str| Ok((name, module.load_function(name)?));
        let functions = source.kernels().map(load).collect::<Result<_, DeviceError>>()?;
        Ok(Self { device: Arc::clone(device), functions, fault: Mutex::default() })
    }

    /// Launches so many blocks of [`Kernels::BLOCK`] threads; none if there are no blocks.
    pub(super) fn launch(&self, name: &'static str, blocks: u64, arguments: &[Arg]) {
        self.note(self.try_launch(name, (blocks, Self::BLOCK), arguments));
    }

    /// The same with 1,024 threads.
    pub(super) fn launch_wide(&self, name: &'static str, blocks: u64, arguments: &[Arg]) {
        self.note(self.try_launch(name, (blocks, 1_024), arguments));
    }

    /// The same with as many threads as the second number says, and what went wrong at once.
    ///
    /// # Errors
    /// What the driver says.
    #[allow(unsafe_code, reason = "a kernel launch")]
    pub(super) fn try_launch(
        &self,
        name: &str,
        (blocks, threads): (u64, u64),
        arguments: &[Arg],
    ) -> Result<(), DeviceError> {
        if blocks == 0 {
            return Ok(());
        }
        let refused = || DeviceError(format!("{name}: {blocks} blocks are more than a launch takes"));
        let blocks = u32::try_from(blocks).ok().filter(|blocks| *blocks < 1 << 31).ok_or_else(refused)?;
        let kernel =
            self.functions.get(name).ok_or_else(|| DeviceError(format!("there is no kernel {name}")))?;
        let mut launch = self.device.stream().launch_builder(kernel);
        for argument in arguments {
            match argument {
                Arg::Pointer(value) | Arg::Long(value) => launch.arg(value),
                Arg::Int(value) => launch.arg(value),
                Arg::Float(value) => launch.arg(value),
                Arg::Double(value) => launch.arg(value),
            };
        }
        let shape =
            LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (threads as u32, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: the callers, beside the kernels' text, give each kernel arguments of its types, addresses of
        // memory on this stream that is as long as they say, and nothing else that is written.
        unsafe { launch.launch(shape) }?;
        Ok(())
    }

    /// Remembers an error.
    pub(super) fn note<T, E: Into<DeviceError>>(&self, result: Result<T, E>) {
        if let Err(error) = result {
            self.fail(error.into());
        }
    }

    /// Remembers an error, unless there was one before.
    pub(super) fn fail(&self, error: DeviceError) {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    /// The first error since the last time that somebody asked.
    ///
    /// # Errors
    /// That error.
    pub(super) fn check(&self) -> Result<(), DeviceError> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
    }
}

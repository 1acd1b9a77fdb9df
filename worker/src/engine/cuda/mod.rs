//! GPUs: which there are, asked of a driver that may be absent, and how work gets there.
//!
//! The driver's library is opened when somebody asks, so that one program runs on machines with and
//! without it, and so are NVIDIA's compiler and matrix libraries. Kernels are text (`*.cu` here), which
//! [`Device::module`] compiles for the GPU that it finds and keeps on disk.

mod array;
mod cache;
mod check;
mod device;
mod feed;
mod gaussian;
mod lane;
mod lanes;
mod launch;
mod library;
mod nvrtc;
#[cfg(test)]
mod nvrtc_tests;
pub(in crate::engine) mod ops;
mod placement;
mod product;
mod session;
mod staging;
mod survey;
mod vectors;
mod walk;

pub use cache::default_folder;
pub use check::{Finding, check};
pub use device::{Device, DeviceError, cublas};
pub use gaussian::Gaussian;
pub use lanes::{Batches, DeviceJob, DeviceRun};
pub use nvrtc::{Compiler, Source};
pub use placement::{Choice, Placement, Precision};
pub use survey::Survey;
pub use vectors::{Cuda, Vector};

pub(super) use array::Array;
pub(super) use feed::Feed;
pub(super) use lanes::Lanes;

use libloading::Library;
use std::ffi::{CStr, c_char, c_int, c_uint};

/// A GPU that the driver sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// As the driver calls it.
    pub name: String,
    /// Major and minor compute capability, e.g. (9, 0).
    pub capability: (u32, u32),
    /// Bytes of memory.
    pub memory: u64,
}

/// Asks the driver for its GPUs.
///
/// # Errors
/// Why there are none, for people.
pub fn gpus() -> Result<Vec<Gpu>, String> {
    gpus_of("libcuda.so.1")
}

const CAPABILITY_MAJOR: c_int = 75;
const CAPABILITY_MINOR: c_int = 76;

#[allow(unsafe_code, reason = "a C library: signatures are those of the CUDA driver API 12 and 13")]
fn gpus_of(library: &str) -> Result<Vec<Gpu>, String> {
    // SAFETY: loading the driver runs its initialisers, which are made to be run by any process.
    let driver = unsafe { Library::new(library) }
        .map_err(|error| format!("the CUDA driver is not there ({library}: {})", library::reason(&error)))?;
    let call = |name: &str, code: c_int| match code {
        0 => Ok(()),
        100 => Err("the CUDA driver sees no device".to_owned()),
        code => Err(format!("the CUDA driver refuses: {name} gives error {code}")),
    };
    let missing = |error: libloading::Error| format!("the CUDA driver is too old: {error}");
    // SAFETY: the signatures are those of the driver's headers; every pointer is to a live local of the
    // size that the function writes, and the name's buffer is as long as it is told.
    unsafe {
        let init = driver.get::<unsafe extern "C" fn(c_uint) -> c_int>(b"cuInit").map_err(missing)?;
        let count = driver.get::<unsafe extern "C" fn(*mut c_int) -> c_int>(b"cuDeviceGetCount");
        let get = driver.get::<unsafe extern "C" fn(*mut c_int, c_int) -> c_int>(b"cuDeviceGet");
        let name = driver.get::<unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int>(b"cuDeviceGetName");
        let ask =
            driver.get::<unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int>(b"cuDeviceGetAttribute");
        let total = driver.get::<unsafe extern "C" fn(*mut usize, c_int) -> c_int>(b"cuDeviceTotalMem_v2");
        let (count, get, name) = (count.map_err(missing)?, get.map_err(missing)?, name.map_err(missing)?);
        let (ask, total) = (ask.map_err(missing)?, total.map_err(missing)?);

        call("cuInit", init(0))?;
        let mut devices = 0;
        call("cuDeviceGetCount", count(&raw mut devices))?;
        (0..devices)
            .map(|ordinal| {
                let (mut device, mut major, mut minor, mut memory): (c_int, c_int, c_int, usize) =
                    (0, 0, 0, 0);
                let mut text = [0 as c_char; 256];
                call("cuDeviceGet", get(&raw mut device, ordinal))?;
                call("cuDeviceGetName", name(text.as_mut_ptr(), 255, device))?;
                call("cuDeviceGetAttribute", ask(&raw mut major, CAPABILITY_MAJOR, device))?;
                call("cuDeviceGetAttribute", ask(&raw mut minor, CAPABILITY_MINOR, device))?;
                call("cuDeviceTotalMem", total(&raw mut memory, device))?;
                Ok(Gpu {
                    name: CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned(),
                    capability: (major.unsigned_abs(), minor.unsigned_abs()),
                    memory: memory as u64,
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_driver_there_is_a_reason_and_no_panic() {
        let reason = gpus_of("libno-such-driver.so.1").unwrap_err();
        assert!(reason.contains("libno-such-driver.so.1"), "{reason}");
        // A library that is not the driver.
        let reason = gpus_of("libc.so.6").unwrap_err();
        assert!(reason.contains("too old"), "{reason}");
        match gpus() {
            Ok(gpus) => assert!(gpus.iter().all(|gpu| !gpu.name.is_empty() && gpu.memory > 0)),
            Err(reason) => assert!(reason.contains("driver"), "{reason}"),
        }
    }
}

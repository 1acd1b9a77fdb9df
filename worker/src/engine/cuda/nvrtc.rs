//! CUDA C++ to machine code at run time, by NVIDIA's compiler library.
//!
//! An own binding rather than cudarc's, whose loader panics where the library is missing, and which
//! gives PTX only: PTX of a compiler newer than the driver is refused by it, machine code of the same
//! major version is not.

use super::library::NVRTC;
use libloading::Library;
use std::ffi::{CString, c_char, c_int, c_void};
use std::path::PathBuf;
use std::ptr::{null, null_mut};

/// A file of kernels, compiled as one module.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    /// The file's name.
    pub name: &'static str,
    /// CUDA C++ without `#include`s of files.
    pub text: &'static str,
}

impl Source {
    /// The names of its kernels: what stands after `extern "C" __global__ void `, and after launch bounds if
    /// there are any.
    pub(super) fn kernels(&self) -> impl Iterator<Item = &'static str> {
        self.text.split("extern \"C\" __global__ void ").skip(1).map(|rest| {
            let bounds = rest.strip_prefix("__launch_bounds__(").and_then(|rest| rest.split_once(')'));
            let rest = bounds.map_or(rest, |(_, rest)| rest);
            rest.split('(').next().unwrap_or_default().trim()
        })
    }
}

/// What all kernels are compiled with. Products and sums are rounded one by one, as on the CPU; a kernel
/// that wants them fused says `fmaf`.
pub(super) const OPTIONS: [&str; 2] = ["--std=c++17", "--fmad=false"];

/// The library, open.
#[derive(Debug)]
pub struct Compiler {
    library: Library,
    path: PathBuf,
    version: (u32, u32),
}

type Program = *mut c_void;
type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type Text = unsafe extern "C" fn(Program, *mut c_char) -> c_int;

#[allow(unsafe_code, reason = "a C library: signatures are those of nvrtc.h of CUDA 12 and 13")]
impl Compiler {
    /// Opens the library.
    ///
    /// # Errors
    /// Why it cannot be used, and what to install.
    pub fn open() -> Result<Self, String> {
        let (library, path) = NVRTC.open()?;
        let (mut major, mut minor) = (0, 0);
        // SAFETY: the signature of nvrtc.h; both pointers are to live integers.
        let code = unsafe {
            let version: libloading::Symbol<'_, unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int> =
                library.get(b"nvrtcVersion").map_err(|_| format!("{} is not NVRTC", path.display()))?;
            version(&raw mut major, &raw mut minor)
        };
        if code != 0 || major < 12 {
            return Err(format!("{} is NVRTC {major}.{minor}; expected 12 or newer", path.display()));
        }
        Ok(Self { library, path, version: (major.unsigned_abs(), minor.unsigned_abs()) })
    }

    /// Where the library lies, as it was found.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Major and minor.
    pub fn version(&self) -> (u32, u32) {
        self.version
    }

    /// Machine code (cubin) of `source` for a compute capability.
    ///
    /// # Errors
    /// The compiler's log.
    pub fn compile(&self, source: &Source, (major, minor): (u32, u32)) -> Result<Vec<u8>, String> {
        let architecture = format!("--gpu-architecture=sm_{major}{minor}");
        let options = [OPTIONS.as_slice(), &[&architecture]].concat();
        let options: Vec<CString> = options.into_iter().map(text).collect::<Result<_, _>>()?;
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let program = self.program(source)?;
        // SAFETY: as in nvrtc.h; the options are strings that end in 0 and outlive the call.
        let code = unsafe {
            type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
            self.get::<Compile>(b"nvrtcCompileProgram")?(
                program.program,
                pointers.len() as c_int,
                pointers.as_ptr(),
            )
        };
        if code == 0 {
            return self.read(&program, b"nvrtcGetCUBINSize", b"nvrtcGetCUBIN");
        }
        let log = self.read(&program, b"nvrtcGetProgramLogSize", b"nvrtcGetProgramLog")?;
        let log = String::from_utf8_lossy(&log);
        Err(format!("{} for sm_{major}{minor}: error {code}\n{}", source.name, log.trim_end_matches('\0')))
    }

    fn program(&self, source: &Source) -> Result<Open<'_>, String> {
        type Create = unsafe extern "C" fn(
            *mut Program,
            *const c_char,
            *const c_char,
            c_int,
            *const *const c_char,
            *const *const c_char,
        ) -> c_int;
        let (body, name) = (text(source.text)?, text(source.name)?);
        let mut program: Program = null_mut();
        // SAFETY: as in nvrtc.h, which copies the strings; no headers are given.
        let code = unsafe {
            let create = self.get::<Create>(b"nvrtcCreateProgram")?;
            create(&raw mut program, body.as_ptr(), name.as_ptr(), 0, null(), null())
        };
        if code == 0 { Ok(Open { compiler: self, program }) } else { Err(format!("NVRTC: error {code}")) }
    }

    fn read(&self, program: &Open<'_>, size: &[u8], bytes: &[u8]) -> Result<Vec<u8>, String> {
        let mut length = 0;
        // SAFETY: as in nvrtc.h; the buffer has the size that NVRTC itself gave.
        unsafe {
            let code = self.get::<Size>(size)?(program.program, &raw mut length);
            let mut buffer = vec![0u8; length];
            let code = code | self.get::<Text>(bytes)?(program.program, buffer.as_mut_ptr().cast());
            if code == 0 { Ok(buffer) } else { Err(format!("NVRTC: error {code}")) }
        }
    }

    /// # Safety
    /// `F` must be the function's type.
    unsafe fn get<F>(&self, name: &[u8]) -> Result<libloading::Symbol<'_, F>, String> {
        // SAFETY: the caller's.
        unsafe { self.library.get(name) }.map_err(|error| format!("NVRTC is too old: {error}"))
    }
}

/// A program that NVRTC holds.
struct Open<'a> {
    compiler: &'a Compiler,
    program: Program,
}

#[allow(unsafe_code, reason = "a C library")]
impl Drop for Open<'_> {
    fn drop(&mut self) {
        type Destroy = unsafe extern "C" fn(*mut Program) -> c_int;
        // SAFETY: as in nvrtc.h; the program is destroyed once.
        unsafe {
            if let Ok(destroy) = self.compiler.get::<Destroy>(b"nvrtcDestroyProgram") {
                destroy(&raw mut self.program);
            }
        }
    }
}

fn text(text: &str) -> Result<CString, String> {
    CString::new(text).map_err(|_| "a source or an option holds a zero byte".to_owned())
}

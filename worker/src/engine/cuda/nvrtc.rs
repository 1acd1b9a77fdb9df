//! Every kernel of `vectors.cu` through NVRTC, for two generations of GPUs, without a GPU.
//!
//! NVRTC is a library of its own: `pip install nvidia-cuda-nvrtc`, then `STARLING_NVRTC` names its
//! `libnvrtc.so.*`. Without it the test says that it was skipped; where `STARLING_NVRTC_NEEDED` is set,
//! as in continuous integration, it fails instead.

#![allow(unsafe_code, reason = "a C library: signatures are those of NVRTC 12 and 13")]

use libloading::Library;
use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr::null;

const SOURCE: &str = include_str!("vectors.cu");

type Program = *mut c_void;

/// PTX of `source` for `architecture`.
fn compile(library: &Library, source: &str, architecture: &str) -> Result<String, String> {
    let text = CString::new(source).unwrap();
    let options = [format!("--gpu-architecture={architecture}"), "--std=c++17".into(), "--fmad=false".into()];
    let options = options.map(|option| CString::new(option).unwrap());
    let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
    // SAFETY: signatures as in nvrtc.h; strings end in 0 and outlive the calls; buffers have the sizes
    // that NVRTC itself gave.
    unsafe {
        type Create = unsafe extern "C" fn(
            *mut Program,
            *const c_char,
            *const c_char,
            c_int,
            *const *const c_char,
            *const *const c_char,
        ) -> c_int;
        type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
        type Text = unsafe extern "C" fn(Program, *mut c_char) -> c_int;
        let create = library.get::<Create>(b"nvrtcCreateProgram").unwrap();
        let compile = library
            .get::<unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int>(
                b"nvrtcCompileProgram",
            )
            .unwrap();
        let mut program: Program = std::ptr::null_mut();
        assert_eq!(create(&raw mut program, text.as_ptr(), c"vectors.cu".as_ptr(), 0, null(), null()), 0);
        let code = compile(program, pointers.len() as c_int, pointers.as_ptr());
        let read = |size: &[u8], text: &[u8]| {
            let (size, text) = (library.get::<Size>(size).unwrap(), library.get::<Text>(text).unwrap());
            let mut length = 0;
            assert_eq!(size(program, &raw mut length), 0);
            let mut bytes = vec![0u8; length + 1];
            assert_eq!(text(program, bytes.as_mut_ptr().cast()), 0);
            String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned()
        };
        let log = read(b"nvrtcGetProgramLogSize", b"nvrtcGetProgramLog");
        let result = if code == 0 { Ok(read(b"nvrtcGetPTXSize", b"nvrtcGetPTX")) } else { Err(log) };
        let destroy =
            library.get::<unsafe extern "C" fn(*mut Program) -> c_int>(b"nvrtcDestroyProgram").unwrap();
        destroy(&raw mut program);
        result
    }
}

#[test]
fn every_kernel_compiles_for_two_generations() {
    let Some(path) = std::env::var_os("STARLING_NVRTC") else {
        assert!(
            std::env::var_os("STARLING_NVRTC_NEEDED").is_none(),
            "STARLING_NVRTC does not name NVRTC's library"
        );
        println!("skipped: STARLING_NVRTC does not name NVRTC's library (pip install nvidia-cuda-nvrtc)");
        return;
    };
    // SAFETY: NVRTC's initialisers are made to be run by any process.
    let library =
        unsafe { Library::new(&path) }.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let names: Vec<&str> = SOURCE
        .split("extern \"C\" __global__ void ")
        .skip(1)
        .map(|rest| rest.split('(').next().unwrap_or_default())
        .collect();
    assert!(names.len() >= 15, "{names:?}");
    for architecture in ["compute_80", "compute_90"] {
        let ptx =
            compile(&library, SOURCE, architecture).unwrap_or_else(|log| panic!("{architecture}:\n{log}"));
        assert!(ptx.contains(&architecture.replace("compute", ".target sm")), "{architecture}");
        for name in &names {
            assert!(ptx.contains(&format!(".entry {name}(")), "{name} is not in the PTX for {architecture}");
        }
    }
    let log = compile(&library, "extern \"C\" __global__ void f() { no }", "compute_80").unwrap_err();
    assert!(log.contains("no"), "{log}");
}

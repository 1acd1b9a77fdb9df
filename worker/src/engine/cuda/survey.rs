//! What of all that a GPU needs is there.

use super::{Compiler, Gpu, cublas, gpus};

/// GPUs and libraries, each found or the reason why not.
#[derive(Debug)]
pub struct Survey {
    /// What the driver sees; never empty.
    pub gpus: Result<Vec<Gpu>, String>,
    /// NVRTC's version and file: it compiles the kernels.
    pub nvrtc: Result<String, String>,
    /// cuBLAS's file: it multiplies matrices.
    pub cublas: Result<String, String>,
}

impl Survey {
    /// Looks for all of it.
    pub fn take() -> Self {
        let compiler = Compiler::open().map(|compiler| {
            let (major, minor) = compiler.version();
            format!("{major}.{minor}, {}", compiler.path().display())
        });
        let none = || "the CUDA driver sees no device".to_owned();
        Self {
            gpus: gpus().and_then(|gpus| if gpus.is_empty() { Err(none()) } else { Ok(gpus) }),
            nvrtc: compiler,
            cublas: cublas().map(|path| path.display().to_string()),
        }
    }

    /// Whether the vector kernels can run on a GPU.
    ///
    /// # Errors
    /// What is missing.
    pub fn vector_kernels(&self) -> Result<(), &str> {
        let missing = self.gpus.as_ref().err().or(self.nvrtc.as_ref().err());
        missing.map_or(Ok(()), |reason| Err(reason.as_str()))
    }
}

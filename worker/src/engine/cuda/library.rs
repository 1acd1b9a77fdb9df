//! NVIDIA's shared libraries, found by name without a panic where they are missing.

use libloading::Library;
use std::path::PathBuf;

/// Folders that a toolkit fills and the loader does not know.
const FOLDERS: [&str; 2] = ["/usr/local/cuda/lib64", "/opt/cuda/lib64"];

/// A library that is not part of the driver.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    /// The file's name between `lib` and `.so`.
    pub(super) stem: &'static str,
    /// The environment variable that names its file.
    pub(super) variable: &'static str,
    /// The Python wheel that brings it.
    pub(super) wheel: &'static str,
}

/// Compiles CUDA C++.
pub(super) const NVRTC: Wanted =
    Wanted { stem: "nvrtc", variable: "STARLING_NVRTC", wheel: "nvidia-cuda-nvrtc" };
/// Multiplies matrices.
pub(super) const CUBLAS: Wanted =
    Wanted { stem: "cublas", variable: "STARLING_CUBLAS", wheel: "nvidia-cublas" };

impl Wanted {
    /// Opens the file that the variable names or, without it, what the loader or a toolkit's folder has.
    /// Once it is open under any path, the loader knows it by name, which is how cudarc asks for it.
    ///
    /// # Errors
    /// What is missing, and how to get it.
    pub(super) fn open(&self) -> Result<(Library, PathBuf), String> {
        if let Some(path) = std::env::var_os(self.variable).map(PathBuf::from) {
            let refused = |error| format!("{} names {}: {error}", self.variable, path.display());
            return load(&path).map(|library| (library, path.clone())).map_err(refused);
        }
        let names = [".so.13", ".so.12", ".so"].map(|end| format!("lib{}{end}", self.stem));
        let in_folders =
            FOLDERS.iter().flat_map(|folder| names.iter().map(move |n| PathBuf::from(folder).join(n)));
        for path in names.iter().map(PathBuf::from).chain(in_folders) {
            if let Ok(library) = load(&path) {
                return Ok((library, path));
            }
        }
        Err(format!(
            "{} is not there: install CUDA 12 or 13 or `pip install {}`, and let LD_LIBRARY_PATH name its \
             folder or {} its file",
            names[0], self.wheel, self.variable
        ))
    }
}

#[allow(unsafe_code, reason = "loading a library runs its initialisers")]
fn load(path: &std::path::Path) -> Result<Library, libloading::Error> {
    // SAFETY: the initialisers of NVIDIA's libraries are made to be run by any process.
    unsafe { Library::new(path) }
}

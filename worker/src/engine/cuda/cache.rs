//! Compiled kernels on disk, so that a machine compiles them once.
//!
//! A file is named by the digest of all that its content follows from, and begins with the digest of that
//! content. What cannot be read is compiled again, what cannot be written is a warning.

use std::path::{Path, PathBuf};

/// Bytes of a digest.
const DIGEST: usize = blake3::OUT_LEN;

/// `$XDG_CACHE_HOME/starling/kernels` or `$HOME/.cache/starling/kernels`; `None` without either variable.
pub fn default_folder() -> Option<PathBuf> {
    let of = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = of("XDG_CACHE_HOME").or_else(|| of("HOME").map(|home| home.join(".cache")));
    base.map(|base| base.join("starling").join("kernels"))
}

/// The file's name for `parts`: all that the code follows from.
pub(super) fn key(name: &str, parts: &[&str]) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
    }
    format!("{name}-{}.cubin", &hasher.finalize().to_hex()[..32])
}

/// What the folder holds under `key`, or what `compile` makes, which is kept there.
///
/// # Errors
/// Those of `compile`.
pub(super) fn cached(
    folder: Option<&Path>,
    key: &str,
    compile: impl FnOnce() -> Result<Vec<u8>, String>,
) -> Result<Vec<u8>, String> {
    let Some(folder) = folder else { return compile() };
    let path = folder.join(key);
    if let Ok(file) = std::fs::read(&path) {
        if let Some((digest, code)) = file.split_at_checked(DIGEST)
            && blake3::hash(code).as_bytes() == digest
        {
            return Ok(code.to_vec());
        }
        tracing::warn!(file = %path.display(), "damaged; the kernels are compiled again");
    }
    let code = compile()?;
    if let Err(error) = write(folder, &path, &code) {
        tracing::warn!(folder = %folder.display(), %error, "compiled kernels cannot be kept");
    }
    Ok(code)
}

fn write(folder: &Path, path: &Path, code: &[u8]) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let draft = path.with_extension(format!("{}.draft", std::process::id()));
    let written = std::fs::write(&draft, [blake3::hash(code).as_bytes(), code].concat())
        .and_then(|()| std::fs::rename(&draft, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&draft);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn kernels_are_compiled_once_and_again_where_the_file_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("a/b");
        let runs = Cell::new(0);
        let get = |key: &str| {
            let compile = || {
                runs.set(runs.get() + 1);
                Ok(vec![7; 100])
            };
            assert_eq!(cached(Some(&inside), key, compile).unwrap(), [7; 100]);
            runs.get()
        };
        let [one, two] = ["9.0", "8.0"].map(|of| key("vectors", &["source", of]));
        assert_ne!(one, two);
        assert_ne!(key("v", &["ab", "c"]), key("v", &["a", "bc"]));
        assert_eq!((get(&one), get(&one), get(&two), get(&one)), (1, 1, 2, 2));
        let path = inside.join(&one);
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!((get(&one), get(&one)), (3, 3));
        std::fs::write(&path, [1, 2]).unwrap();
        assert_eq!((get(&one), get(&one)), (4, 4));
        assert_eq!(std::fs::read_dir(&inside).unwrap().count(), 2, "drafts are renamed");
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_no_failure() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(cached(Some(file.path()), "k", || Ok(vec![1])).unwrap(), [1]);
        assert_eq!(cached(None, "k", || Err("no".into())).unwrap_err(), "no");
    }
}

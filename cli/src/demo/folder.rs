//! The demo's folder: made once, used again by later demos, and never anybody else's.

use crate::exit::{Code, Failure};
use std::{
    fs::File,
    io::ErrorKind,
    path::{Path, PathBuf},
};

/// Marks a folder that a demo made.
const MARK: &str = ".starling-demo";
/// What a demo writes; `worker-*` besides. Nothing else in the folder is touched.
const OURS: [&str; 8] = [
    "coordinator",
    "coordinator.toml",
    "coordinator.address",
    "logs",
    "run.toml",
    "model.safetensors",
    "metrics.jsonl",
    "plot.svg",
];

/// An empty folder that no other demo uses at the same time.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    /// Locked as long as this lives.
    _mark: File,
}

impl Folder {
    /// Creates the folder, or clears away what an earlier demo left in it.
    pub(super) fn open(root: &Path) -> Result<Self, Failure> {
        let cannot =
            |error: std::io::Error| Failure::new(Code::Create, format!("--out {}: {error}", root.display()));
        let refuse = |why: &str| Failure::new(Code::Create, format!("--out {}: {why}", root.display()));
        std::fs::create_dir_all(root).map_err(cannot)?;
        let mark = root.join(MARK);
        let entries = names(root).map_err(cannot)?;
        if !entries.is_empty() && !mark.exists() {
            return Err(refuse("not empty, and not made by a demo; choose another folder"));
        }
        let file = File::create(&mark).map_err(cannot)?;
        file.try_lock().map_err(|_| refuse("another demo is using it; choose another folder"))?;
        for name in entries.iter().filter(|name| OURS.contains(&name.as_str()) || is_worker(name)) {
            remove(&root.join(name)).map_err(cannot)?;
        }
        // Children may be given these paths; logs and messages show them as the person wrote them.
        Ok(Self { root: root.to_owned(), _mark: file })
    }

    /// The folder itself.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// A path in the folder.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }
}

fn is_worker(name: &str) -> bool {
    let number = name.strip_prefix("worker-").map(|rest| rest.strip_suffix(".toml").unwrap_or(rest));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

fn names(root: &Path) -> std::io::Result<Vec<String>> {
    std::fs::read_dir(root)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

fn remove(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if matches!(error.kind(), ErrorKind::IsADirectory | ErrorKind::PermissionDenied) => {
            std::fs::remove_dir_all(path)
        }
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_demo_wrote_is_removed() {
        let parent = tempfile::tempdir().unwrap();
        let root = parent.path().join("out");
        drop(Folder::open(&root).unwrap());
        for folder in ["logs", "worker-12", "worker-x"] {
            std::fs::create_dir(root.join(folder)).unwrap();
        }
        for file in ["logs/a.log", "worker-12.toml", "model.safetensors", "my-notes.txt"] {
            std::fs::write(root.join(file), "x").unwrap();
        }
        let folder = Folder::open(&root).unwrap();
        let mut left = names(folder.root()).unwrap();
        left.sort();
        assert_eq!(left, [MARK, "my-notes.txt", "worker-x"]);
        assert!(Folder::open(&root).unwrap_err().message.contains("another demo"));
    }

    #[test]
    fn a_folder_of_somebody_else_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("thesis.tex"), "x").unwrap();
        let failure = Folder::open(folder.path()).unwrap_err();
        assert_eq!(failure.code, Code::Create);
        assert!(failure.message.contains("not empty"), "{failure}");
    }
}

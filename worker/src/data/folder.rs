//! Image folders: the name of the folder is the class.

use std::path::{Path, PathBuf};

use super::augment::Pixels;
use super::dataset::{KeyColumn, Normalisation};
use super::images::{MAX_CLASSES, RawImages, Reader, cifar_constants};
use super::{DataError, Split, picture};

/// `path/{train,test}/CLASS/*`, or `path/CLASS/*` of which every tenth file is for testing.
#[derive(Debug)]
pub(crate) struct Folder<'a> {
    pub(crate) path: &'a Path,
}

/// File-name endings that count as images.
const ENDINGS: [&str; 3] = ["png", "jpg", "jpeg"];

impl Folder<'_> {
    /// Whether both splits have folders of their own.
    fn divided(&self) -> bool {
        self.path.join("train").is_dir()
    }

    /// Class names, sorted: the folders of the training split.
    fn classes(&self) -> Result<Vec<String>, DataError> {
        let root = if self.divided() { self.path.join("train") } else { self.path.to_owned() };
        let classes: Vec<String> = folders(&root)?;
        if classes.is_empty() || classes.len() > MAX_CLASSES {
            let wanted = format!("a folder of images for each class (1 to {MAX_CLASSES})");
            return Err(DataError::missing(&root, wanted));
        }
        Ok(classes)
    }

    /// Files of a split with their class.
    fn files(&self, split: Split, classes: &[String]) -> Result<Vec<(PathBuf, u32)>, DataError> {
        let root = match (self.divided(), split) {
            (false, _) => self.path.to_owned(),
            (true, Split::Train) => self.path.join("train"),
            (true, Split::Test) => self.path.join("test"),
        };
        if !root.is_dir() {
            return Err(DataError::missing(&root, "a folder of images for each class"));
        }
        if let Some(stranger) = folders(&root)?.into_iter().find(|name| !classes.contains(name)) {
            let problem = format!("has a class folder {stranger}");
            return Err(DataError::malformed(&root, problem, "only classes of the training split"));
        }
        let mut files = Vec::new();
        for (class, name) in classes.iter().enumerate() {
            let folder = root.join(name);
            let found = if folder.is_dir() { images(&folder)? } else { Vec::new() };
            let held_out = |index: usize| index % 10 == 9;
            let wanted = |index: usize| self.divided() || held_out(index) == (split == Split::Test);
            let kept = found.into_iter().enumerate().filter(|(index, _)| wanted(*index));
            files.extend(kept.map(|(_, path)| (path, class as u32)));
        }
        if files.is_empty() {
            let few = "at least one (every tenth image of a class is held out)";
            return Err(DataError::malformed(&root, format!("no image for {split:?}"), few));
        }
        Ok(files)
    }
}

impl Reader for Folder<'_> {
    fn path(&self) -> &Path {
        self.path
    }

    fn images(&self, split: Split) -> Result<RawImages, DataError> {
        let classes = self.classes()?;
        let files = self.files(split, &classes)?;
        let read = |path: &PathBuf| std::fs::read(path).map_err(DataError::read(path));
        let encoded = files.iter().map(|(path, _)| read(path)).collect::<Result<Vec<_>, _>>()?;
        let blame = |index: usize, problem, expected| {
            let path: &Path = files.get(index).map_or(self.path, |(path, _)| path);
            DataError::Malformed { path: path.to_owned(), problem, expected }
        };
        let (shape, pixels) = picture::decode_all(&encoded, &blame)?;
        let labels: Vec<u32> = files.iter().map(|&(_, class)| class).collect();
        let keys = Some(KeyColumn { names: classes, of: labels.clone() });
        Ok(RawImages { shape, pixels, labels, keys })
    }

    fn shape(&self) -> Result<Pixels, DataError> {
        let files = self.files(Split::Train, &self.classes()?)?;
        let (path, _) = files.first().expect("files refuses an empty split");
        let encoded = std::fs::read(path).map_err(DataError::read(path))?;
        let decoded = picture::decode(&encoded);
        Ok(decoded.map_err(|e| DataError::malformed(path, e, "a JPEG or PNG image"))?.0)
    }

    fn fixed_classes(&self) -> Result<Option<usize>, DataError> {
        Ok(Some(self.classes()?.len()))
    }

    fn constants(&self, shape: Pixels, classes: usize) -> Option<Normalisation> {
        cifar_constants(shape, classes)
    }
}

/// Names of the sub-folders, sorted; hidden ones do not count.
pub(crate) fn folders(root: &Path) -> Result<Vec<String>, DataError> {
    let mut names = Vec::new();
    for path in entries(root)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && !name.starts_with('.') {
            names.push(name);
        }
    }
    Ok(names)
}

/// Image files of one folder, sorted.
pub(crate) fn images(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let is_image = |path: &PathBuf| {
        let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase());
        path.is_file() && ending.is_some_and(|e| ENDINGS.contains(&e.as_str()))
    };
    Ok(entries(folder)?.into_iter().filter(is_image).collect())
}

/// Everything in a folder, sorted by name.
pub(crate) fn entries(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let listing = std::fs::read_dir(folder).map_err(DataError::read(folder))?;
    let paths = listing.map(|entry| entry.map(|e| e.path()));
    let mut paths = paths.collect::<Result<Vec<_>, _>>().map_err(DataError::read(folder))?;
    paths.sort();
    Ok(paths)
}

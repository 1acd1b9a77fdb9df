//! CIFAR's binary version: rows of label bytes and three 32×32 planes, no header.

use std::path::{Path, PathBuf};

use super::augment::Pixels;
use super::dataset::Normalisation;
use super::images::{RawImages, Reader, cifar_constants, first_existing};
use super::{DataError, Split};

const SHAPE: Pixels = Pixels { channels: 3, height: 32, width: 32 };

/// A folder with CIFAR-10's or CIFAR-100's `.bin` files.
#[derive(Debug)]
pub(crate) struct Cifar<'a> {
    pub(crate) folder: &'a Path,
    /// 10 or 100; `None`: whichever is there.
    pub(crate) classes: Option<usize>,
}

impl Cifar<'_> {
    fn classes(&self) -> Result<usize, DataError> {
        match self.classes {
            Some(classes @ (10 | 100)) => Ok(classes),
            Some(other) => {
                let expected = "10 or 100".to_owned();
                Err(DataError::Config { key: "classes", value: other.to_string(), expected })
            }
            None if ["train.bin", "test.bin"].iter().any(|n| self.folder.join(n).is_file()) => Ok(100),
            None => Ok(10),
        }
    }

    fn files(&self, split: Split) -> Result<Vec<PathBuf>, DataError> {
        let one = |name: &str| first_existing(self.folder, &[name.to_owned()]);
        match (self.classes()?, split) {
            (100, Split::Train) => Ok(vec![one("train.bin")?]),
            (100, Split::Test) => Ok(vec![one("test.bin")?]),
            (_, Split::Train) => (1..=5).map(|i| one(&format!("data_batch_{i}.bin"))).collect(),
            (_, Split::Test) => Ok(vec![one("test_batch.bin")?]),
        }
    }
}

impl Reader for Cifar<'_> {
    fn path(&self) -> &Path {
        self.folder
    }

    fn images(&self, split: Split) -> Result<RawImages, DataError> {
        let classes = self.classes()?;
        let mut raw = RawImages { shape: SHAPE, pixels: Vec::new(), labels: Vec::new(), keys: None };
        for path in self.files(split)? {
            let bytes = std::fs::read(&path).map_err(DataError::read(&path))?;
            parse(&bytes, classes, &path, &mut raw)?;
        }
        Ok(raw)
    }

    /// Fixed by the format; that the file is there is still checked.
    fn shape(&self) -> Result<Pixels, DataError> {
        self.files(Split::Train).map(|_| SHAPE)
    }

    fn fixed_classes(&self) -> Result<Option<usize>, DataError> {
        self.classes().map(Some)
    }

    fn constants(&self, shape: Pixels, classes: usize) -> Option<Normalisation> {
        cifar_constants(shape, classes)
    }
}

/// Appends the rows of one file; CIFAR-100 rows open with a coarse label, which is passed over.
fn parse(bytes: &[u8], classes: usize, path: &Path, raw: &mut RawImages) -> Result<(), DataError> {
    let label_at = usize::from(classes == 100);
    let row = label_at + 1 + SHAPE.len();
    if bytes.is_empty() || !bytes.len().is_multiple_of(row) {
        let expected = format!("a multiple of {row}, the row of a {classes}-class file");
        return Err(DataError::malformed(path, format!("{} bytes", bytes.len()), expected));
    }
    for (index, row) in bytes.chunks_exact(row).enumerate() {
        let label = row[label_at];
        if usize::from(label) >= classes {
            let problem = format!("label {label} in row {index}");
            return Err(DataError::malformed(path, problem, format!("a label below {classes}")));
        }
        raw.labels.push(u32::from(label));
        raw.pixels.extend_from_slice(&row[label_at + 1..]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse_bytes(bytes: &[u8], classes: usize) -> Result<RawImages, DataError> {
        let mut raw = RawImages { shape: SHAPE, pixels: Vec::new(), labels: Vec::new(), keys: None };
        parse(bytes, classes, Path::new("batch.bin"), &mut raw).map(|()| raw)
    }

    #[test]
    fn rows_of_both_versions_are_read() {
        let mut ten = vec![3];
        ten.extend(std::iter::repeat_n(200, 3072));
        let raw = parse_bytes(&ten.repeat(2), 10).unwrap();
        assert_eq!((raw.labels, raw.pixels.len(), raw.pixels[0]), (vec![3, 3], 6144, 200));
        let mut hundred = vec![7, 99];
        hundred.extend(std::iter::repeat_n(1, 3072));
        assert_eq!(parse_bytes(&hundred, 100).unwrap().labels, [99]);
        hundred[1] = 100;
        let message = parse_bytes(&hundred, 100).unwrap_err().to_string();
        assert!(message.contains("batch.bin: label 100 in row 0"), "{message}");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..40),
            rows in 0usize..3,
            hundred in any::<bool>(),
        ) {
            let (classes, row) = if hundred { (100, 3074) } else { (10, 3073) };
            let mut long = bytes.repeat(row);
            long.truncate(row * rows + bytes.len() % 2);
            let outcome = parse_bytes(&long, classes);
            prop_assert!(outcome.is_err() || outcome.unwrap().labels.len() == rows);
        }
    }
}

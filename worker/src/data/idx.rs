//! IDX files: MNIST, Fashion-MNIST, EMNIST and their like, plain or gzipped.
//!
//! A header declares sizes; nothing is allocated from them. The payload is read as far as it goes and
//! then compared with the declaration.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;

use super::augment::Pixels;
use super::dataset::Normalisation;
use super::images::{RawImages, Reader, first_existing};
use super::{DataError, Split};

/// Largest payload that is taken seriously, bytes (MNIST has 47 million).
const MAX_PAYLOAD: u64 = 1 << 32;

/// A folder with `{train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz]`.
#[derive(Debug)]
pub(crate) struct Idx<'a> {
    pub(crate) folder: &'a Path,
}

impl Reader for Idx<'_> {
    fn path(&self) -> &Path {
        self.folder
    }

    fn images(&self, split: Split) -> Result<RawImages, DataError> {
        let path = first_existing(self.folder, &names(split, "images", 3))?;
        let array = read(&path, 3)?;
        let shape = shape_of(&path, &array.dims)?;
        let labels = self.labels(split)?;
        if labels.len() != array.dims[0] {
            let problem = format!("{} images for {} labels", array.dims[0], labels.len());
            return Err(DataError::malformed(&path, problem, "one label per image"));
        }
        Ok(RawImages { shape, pixels: array.values, labels, keys: None })
    }

    fn labels(&self, split: Split) -> Result<Vec<u32>, DataError> {
        let path = first_existing(self.folder, &names(split, "labels", 1))?;
        let labels = read(&path, 1)?.values;
        if labels.is_empty() {
            return Err(DataError::malformed(&path, "no label", "at least one"));
        }
        Ok(labels.into_iter().map(u32::from).collect())
    }

    fn shape(&self) -> Result<Pixels, DataError> {
        let path = first_existing(self.folder, &names(Split::Train, "images", 3))?;
        shape_of(&path, &header(&mut open(&path)?, &path, 3)?)
    }

    /// MNIST's constants: the usual choice for its relatives too, and the same on every worker.
    fn constants(&self, _: Pixels, _: usize) -> Option<Normalisation> {
        Some(Normalisation { mean: vec![0.1307], std: vec![0.3081] })
    }
}

/// Names under which distributors ship the same file.
pub(crate) fn names(split: Split, what: &str, rank: u8) -> Vec<String> {
    let split = match split {
        Split::Train => "train",
        Split::Test => "t10k",
    };
    let forms = ["-", "."].map(|mark| format!("{split}-{what}{mark}idx{rank}-ubyte"));
    forms.iter().flat_map(|form| [form.clone(), format!("{form}.gz")]).collect()
}

#[derive(Debug, PartialEq)]
struct Array {
    dims: Vec<usize>,
    values: Vec<u8>,
}

fn open(path: &Path) -> Result<Box<dyn Read>, DataError> {
    let file = BufReader::new(File::open(path).map_err(DataError::read(path))?);
    let zipped = path.extension().is_some_and(|e| e == "gz");
    Ok(if zipped { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) })
}

fn read(path: &Path, rank: u8) -> Result<Array, DataError> {
    parse(&mut open(path)?, path, rank)
}

fn parse(reader: &mut dyn Read, path: &Path, rank: u8) -> Result<Array, DataError> {
    let dims = header(reader, path, rank)?;
    let declared = dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64)).filter(|&n| n <= MAX_PAYLOAD);
    let Some(declared) = declared else {
        let problem = format!("header declares {dims:?} values");
        return Err(DataError::malformed(path, problem, format!("at most {MAX_PAYLOAD} bytes")));
    };
    let mut values = Vec::new();
    let outcome = reader.take(declared + 1).read_to_end(&mut values);
    let found = values.len() as u64;
    let expected = || format!("{declared} bytes of values, as the header's {dims:?} says");
    match outcome {
        Err(source) => {
            let problem = format!("unreadable after {found} bytes of values ({source})");
            Err(DataError::malformed(path, problem, expected()))
        }
        Ok(_) if found < declared => {
            Err(DataError::malformed(path, format!("ends after {found}"), expected()))
        }
        Ok(_) if found > declared => Err(DataError::malformed(path, "more follows", expected())),
        Ok(_) => Ok(Array { dims, values }),
    }
}

/// Checks the magic number (unsigned bytes, `rank` dimensions) and returns the declared sizes.
fn header(reader: &mut dyn Read, path: &Path, rank: u8) -> Result<Vec<usize>, DataError> {
    let expected = || format!("an IDX header: 00 00 08 {rank:02x}, then {rank} sizes of 4 bytes");
    let mut word = || {
        let mut bytes = [0; 4];
        let outcome = reader.read_exact(&mut bytes);
        outcome.map_err(|e| DataError::malformed(path, format!("no complete header ({e})"), expected()))?;
        Ok(bytes)
    };
    let magic = word()?;
    if magic != [0, 0, 8, rank] {
        let [a, b, c, d] = magic;
        let problem = format!("starts with {a:02x} {b:02x} {c:02x} {d:02x}");
        return Err(DataError::malformed(path, problem, expected()));
    }
    (0..rank).map(|_| Ok(u32::from_be_bytes(word()?) as usize)).collect()
}

fn shape_of(path: &Path, dims: &[usize]) -> Result<Pixels, DataError> {
    match *dims {
        [_, height, width] if (1..=4096).contains(&height) && (1..=4096).contains(&width) => {
            Ok(Pixels { channels: 1, height, width })
        }
        _ => Err(DataError::malformed(
            path,
            format!("sizes {dims:?}"),
            "count, rows, columns; 1 to 4096 each way",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse_bytes(bytes: &[u8], rank: u8) -> Result<Array, DataError> {
        parse(&mut &*bytes, Path::new("file"), rank)
    }

    #[test]
    fn a_sound_file_is_read() {
        let array = parse_bytes(&[0, 0, 8, 1, 0, 0, 0, 2, 7, 9], 1).unwrap();
        assert_eq!(array, Array { dims: vec![2], values: vec![7, 9] });
    }

    #[test]
    fn faults_are_named() {
        let cases: [(&[u8], u8, &str); 5] = [
            (&[0, 0, 9, 1, 0, 0, 0, 0], 1, "starts with 00 00 09 01"),
            (&[0, 0, 8], 1, "no complete header"),
            (&[0, 0, 8, 1, 0, 0, 0, 3, 7, 9], 1, "ends after 2"),
            (&[0, 0, 8, 1, 0, 0, 0, 1, 7, 9], 1, "more follows"),
            (&[0, 0, 8, 3, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255], 3, "declares"),
        ];
        for (bytes, rank, words) in cases {
            let message = parse_bytes(bytes, rank).unwrap_err().to_string();
            assert!(message.contains(words) && message.contains("file"), "{message}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), rank in 0u8..5) {
            let _ = parse_bytes(&bytes, rank);
        }

        #[test]
        fn arbitrary_sizes_and_payload_never_panic(dims in any::<[u8; 4]>(), payload in 0usize..40) {
            let mut bytes = vec![0, 0, 8, 1];
            bytes.extend(dims);
            bytes.extend(vec![1; payload]);
            let declared = u32::from_be_bytes(dims) as usize;
            prop_assert_eq!(parse_bytes(&bytes, 1).is_ok(), declared == payload);
        }
    }
}

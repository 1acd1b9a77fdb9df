//! Parquet in the Hugging Face image layout: a struct column with encoded images, a label column.
//!
//! Two columns are read, so the plain column reader does; arrow would be a large dependency for that.

use std::fs::File;
use std::path::{Path, PathBuf};

use parquet::basic::Type;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, DataType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::augment::Pixels;
use super::dataset::Normalisation;
use super::images::{MAX_CLASSES, RawImages, Reader, cifar_constants};
use super::{DataError, Split, folder, picture};

/// A folder with `train-*.parquet` and `test-*.parquet`.
#[derive(Debug)]
pub(crate) struct Parquet<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) image: Option<&'a str>,
    pub(crate) label: Option<&'a str>,
}

/// Records that one call to the column reader asks for.
const CHUNK: usize = 1024;

impl Parquet<'_> {
    /// The files of a split, in order.
    fn files(&self, split: Split) -> Result<Vec<PathBuf>, DataError> {
        let files = files(self.folder, split)?;
        if files.is_empty() {
            return Err(DataError::missing(self.folder, format!("{}-*.parquet", prefix(split))));
        }
        Ok(files)
    }

    fn image_column(&self, file: &Table) -> Result<usize, DataError> {
        let names = self.image.map_or_else(|| vec!["img", "image"], |name| vec![name]);
        let paths = names.iter().flat_map(|n| [format!("{n}.bytes"), (*n).to_owned()]);
        file.column(&paths.collect::<Vec<_>>(), &[Type::BYTE_ARRAY])
    }

    fn label_column(&self, file: &Table) -> Result<usize, DataError> {
        let names = self.label.map_or_else(|| vec!["label", "labels", "fine_label"], |name| vec![name]);
        let paths: Vec<String> = names.into_iter().map(str::to_owned).collect();
        file.column(&paths, &[Type::INT64, Type::INT32])
    }
}

impl Reader for Parquet<'_> {
    fn path(&self) -> &Path {
        self.folder
    }

    fn images(&self, split: Split) -> Result<RawImages, DataError> {
        let labels = self.labels(split)?;
        let mut encoded = Vec::with_capacity(labels.len());
        // First row of each file, to say where a faulty image is.
        let mut origins = Vec::new();
        for path in self.files(split)? {
            let file = Table::open(&path)?;
            let bytes = file.bytes(self.image_column(&file)?, usize::MAX)?;
            origins.push((encoded.len(), path));
            encoded.extend(bytes);
        }
        if encoded.len() != labels.len() {
            let problem = format!("{} images for {} labels", encoded.len(), labels.len());
            return Err(DataError::malformed(self.folder, problem, "columns of equal length"));
        }
        let blame = |index: usize, problem: String, expected| {
            let origin = origins.iter().rfind(|(first, _)| *first <= index).expect("a split has a file");
            DataError::malformed(&origin.1, format!("row {}: {problem}", index - origin.0), expected)
        };
        let encoded: Vec<&[u8]> = encoded.iter().map(ByteArray::data).collect();
        let (shape, pixels) = picture::decode_all(&encoded, &blame)?;
        Ok(RawImages { shape, pixels, labels, keys: None })
    }

    fn labels(&self, split: Split) -> Result<Vec<u32>, DataError> {
        let mut labels = Vec::new();
        for path in self.files(split)? {
            let file = Table::open(&path)?;
            labels.extend(file.labels(self.label_column(&file)?)?);
        }
        Ok(labels)
    }

    fn shape(&self) -> Result<Pixels, DataError> {
        for path in self.files(Split::Train)? {
            let file = Table::open(&path)?;
            if let Some(first) = file.bytes(self.image_column(&file)?, 1)?.first() {
                let fault = |e| DataError::malformed(&path, format!("row 0: {e}"), "a JPEG or PNG image");
                return Ok(picture::decode(first.data()).map_err(fault)?.0);
            }
        }
        Err(DataError::malformed(self.folder, "no training row", "at least one"))
    }

    fn constants(&self, shape: Pixels, classes: usize) -> Option<Normalisation> {
        cifar_constants(shape, classes)
    }
}

fn prefix(split: Split) -> &'static str {
    match split {
        Split::Train => "train",
        Split::Test => "test",
    }
}

/// Parquet files of a split in `folder`, possibly none.
pub(crate) fn files(folder: &Path, split: Split) -> Result<Vec<PathBuf>, DataError> {
    let belongs = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(&format!("{}-", prefix(split))) && path.extension().is_some_and(|e| e == "parquet")
    };
    Ok(folder::entries(folder)?.into_iter().filter(belongs).collect())
}

/// One open file.
struct Table {
    path: PathBuf,
    reader: SerializedFileReader<File>,
}

impl Table {
    fn open(path: &Path) -> Result<Self, DataError> {
        let file = File::open(path).map_err(DataError::read(path))?;
        let reader = SerializedFileReader::new(file);
        let reader = reader.map_err(|e| DataError::malformed(path, e.to_string(), "a Parquet file"))?;
        Ok(Self { path: path.to_owned(), reader })
    }

    fn broken(&self, error: &ParquetError) -> DataError {
        DataError::malformed(&self.path, error.to_string(), "a sound Parquet file")
    }

    /// Index of the leaf column with one of the `paths` and `types`.
    fn column(&self, paths: &[String], types: &[Type]) -> Result<usize, DataError> {
        let columns = self.reader.metadata().file_metadata().schema_descr().columns();
        let suits = |path: &String| {
            columns.iter().position(|column| {
                let typed = types.contains(&column.physical_type()) && column.max_rep_level() == 0;
                typed && column.path().string() == *path
            })
        };
        paths.iter().find_map(suits).ok_or_else(|| {
            let found: Vec<String> =
                columns.iter().map(|c| format!("{} ({})", c.path().string(), c.physical_type())).collect();
            let types: Vec<String> = types.iter().map(Type::to_string).collect();
            let expected = format!("a column {} of type {}", paths.join(" or "), types.join(" or "));
            DataError::malformed(&self.path, format!("columns {}", found.join(", ")), expected)
        })
    }

    /// Up to `most` values of a byte column.
    fn bytes(&self, column: usize, most: usize) -> Result<Vec<ByteArray>, DataError> {
        let mut values = Vec::new();
        for group in 0..self.reader.num_row_groups() {
            if values.len() < most
                && let ColumnReader::ByteArrayColumnReader(reader) = self.chunk(group, column)?
            {
                self.drain(reader, most, &mut values)?;
            }
        }
        Ok(values)
    }

    fn labels(&self, column: usize) -> Result<Vec<u32>, DataError> {
        let mut labels: Vec<i64> = Vec::new();
        for group in 0..self.reader.num_row_groups() {
            match self.chunk(group, column)? {
                ColumnReader::Int64ColumnReader(reader) => self.drain(reader, usize::MAX, &mut labels)?,
                ColumnReader::Int32ColumnReader(reader) => {
                    let mut narrow = Vec::new();
                    self.drain(reader, usize::MAX, &mut narrow)?;
                    labels.extend(narrow.into_iter().map(i64::from));
                }
                _ => {}
            }
        }
        let check = |(row, label): (usize, i64)| {
            let valid = u32::try_from(label).ok().filter(|&l| (l as usize) < MAX_CLASSES);
            valid.ok_or_else(|| {
                let expected = format!("a label from 0 to {}", MAX_CLASSES - 1);
                DataError::malformed(&self.path, format!("row {row}: label {label}"), expected)
            })
        };
        labels.into_iter().enumerate().map(check).collect()
    }

    fn chunk(&self, group: usize, column: usize) -> Result<ColumnReader, DataError> {
        let group = self.reader.get_row_group(group);
        group.and_then(|g| g.get_column_reader(column)).map_err(|e| self.broken(&e))
    }

    /// Appends the values of one column chunk until there are `most`; a null is an error.
    fn drain<T: DataType>(
        &self,
        mut reader: ColumnReaderImpl<T>,
        most: usize,
        values: &mut Vec<T::T>,
    ) -> Result<(), DataError> {
        while values.len() < most {
            let wanted = CHUNK.min(most - values.len());
            let mut levels = Vec::new();
            let outcome = reader.read_records(wanted, Some(&mut levels), None, values);
            let (records, present, _) = outcome.map_err(|e| self.broken(&e))?;
            if records == 0 {
                break;
            }
            if present != records {
                let problem = format!("a null among the {records} rows before value {}", values.len());
                return Err(DataError::malformed(&self.path, problem, "an image and a label in each row"));
            }
        }
        Ok(())
    }
}

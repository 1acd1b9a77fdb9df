//! Tables of numbers: one row per example, one integer label column.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::augment::Augment;
use super::dataset::{Dataset, KeyColumn, Normalisation, Parts, Store};
use super::images::{MAX_CLASSES, Overrides, check_labels};
use super::{DataError, DataInfo, Split};

/// How a table is to be read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Table<'a> {
    pub(crate) path: &'a Path,
    pub(crate) test: Option<&'a Path>,
    pub(crate) label: &'a str,
    pub(crate) key: Option<&'a str>,
    pub(crate) header: bool,
}

/// Rows as they were read.
#[derive(Debug, Default)]
struct Rows {
    /// Names of the feature columns, in order.
    features: Vec<String>,
    values: Vec<f32>,
    labels: Vec<u32>,
    keys: Vec<String>,
}

pub(crate) fn load(table: &Table<'_>, overrides: Overrides<'_>, split: Split) -> Result<Dataset, DataError> {
    let all = read(table, table.path)?;
    let (train, test) = match table.test {
        None => all.divide(),
        Some(path) => (all, if split == Split::Test { read(table, path)? } else { Rows::default() }),
    };
    let dimension = train.features.len();
    let classes = overrides.classes(table.path, || Ok(train.labels.clone()))?;
    let normalisation = match overrides.normalisation(dimension)? {
        Some(configured) => configured,
        None => train.measure(),
    };
    let (rows, path) = match split {
        Split::Train => (train, table.path),
        Split::Test => {
            let path = table.test.unwrap_or(table.path);
            if test.features != train.features {
                let problem = format!("feature columns {:?}", test.features);
                return Err(DataError::malformed(
                    path,
                    problem,
                    format!("{:?}, as for training", train.features),
                ));
            }
            (test, path)
        }
    };
    if rows.labels.is_empty() {
        return Err(DataError::malformed(path, format!("no row for {split:?}"), "at least one"));
    }
    check_labels(path, &rows.labels, classes)?;
    Ok(Dataset::new(Parts {
        info: DataInfo::Features { dimension, classes },
        store: Store::Features { dimension, values: rows.values },
        labels: rows.labels,
        keys: table.key.map(|_| intern(&rows.keys)),
        normalisation,
        augment: Augment::NONE,
    }))
}

impl Rows {
    /// Training rows, and every tenth row for testing.
    fn divide(self) -> (Self, Self) {
        let dimension = self.features.len();
        let mut parts = [Self::default(), Self::default()];
        for (index, &label) in self.labels.iter().enumerate() {
            let part = &mut parts[usize::from(index % 10 == 9)];
            part.labels.push(label);
            part.values.extend_from_slice(&self.values[index * dimension..][..dimension]);
            part.keys.extend(self.keys.get(index).cloned());
        }
        let [train, test] = parts;
        (Self { features: self.features.clone(), ..train }, Self { features: self.features, ..test })
    }

    fn measure(&self) -> Normalisation {
        let (dimension, count) = (self.features.len(), self.labels.len() as f64);
        let mean_of = |value: &dyn Fn(usize, f32) -> f64| {
            let mut sums = vec![0.0; dimension];
            for row in self.values.chunks_exact(dimension) {
                row.iter().enumerate().for_each(|(column, &x)| sums[column] += value(column, x));
            }
            sums.into_iter().map(|sum| sum / count).collect::<Vec<f64>>()
        };
        let mean = mean_of(&|_, x| f64::from(x));
        let variance = mean_of(&|column, x| (f64::from(x) - mean[column]).powi(2));
        // A constant feature carries nothing; dividing by 1 keeps it at 0.
        let std = variance.iter().map(|v| v.sqrt() as f32).map(|s| if s > 0.0 { s } else { 1.0 });
        Normalisation { std: std.collect(), mean: mean.iter().map(|&m| m as f32).collect() }
    }
}

fn intern(keys: &[String]) -> KeyColumn {
    let mut index: BTreeMap<String, u32> = keys.iter().map(|key| (key.clone(), 0)).collect();
    index.values_mut().enumerate().for_each(|(i, number)| *number = i as u32);
    let of = keys.iter().map(|key| index[key]).collect();
    KeyColumn { names: index.into_keys().collect(), of }
}

/// The names in a table's first line.
pub(crate) fn columns(path: &Path) -> Result<Vec<String>, DataError> {
    let file = File::open(path).map_err(DataError::read(path))?;
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(file);
    let names = reader.headers().map_err(|error| malformed(path, &error))?;
    Ok(names.iter().map(str::to_owned).collect())
}

fn malformed(path: &Path, error: &csv::Error) -> DataError {
    DataError::malformed(path, error.to_string(), "rows of equal length in UTF-8")
}

fn read(table: &Table<'_>, path: &Path) -> Result<Rows, DataError> {
    parse(table, path, File::open(path).map_err(DataError::read(path))?)
}

fn parse(table: &Table<'_>, path: &Path, content: impl Read) -> Result<Rows, DataError> {
    let broken = |error: csv::Error| malformed(path, &error);
    let mut reader =
        csv::ReaderBuilder::new().has_headers(table.header).trim(csv::Trim::All).from_reader(content);
    let first = reader.headers().map_err(broken)?;
    let columns: Vec<String> = if table.header {
        first.iter().map(str::to_owned).collect()
    } else {
        (0..first.len()).map(|i| i.to_string()).collect()
    };
    let find = |name: &str| {
        let found = columns.iter().position(|column| column == name);
        found.ok_or_else(|| {
            DataError::malformed(path, format!("columns {columns:?}"), format!("a column {name}"))
        })
    };
    let label = find(table.label)?;
    let key = table.key.map(find).transpose()?;
    let is_feature = |column: usize| column != label && Some(column) != key;
    let names = columns.iter().enumerate().filter(|(column, _)| is_feature(*column));
    let mut rows = Rows { features: names.map(|(_, name)| name.clone()).collect(), ..Rows::default() };
    if rows.features.is_empty() {
        return Err(DataError::malformed(
            path,
            format!("columns {columns:?}"),
            "at least one feature column",
        ));
    }
    for record in reader.into_records() {
        let record = record.map_err(broken)?;
        let line = record.position().map_or(0, csv::Position::line);
        for (column, field) in record.iter().enumerate() {
            let fault = |expected: &str| {
                let problem = format!("line {line}, column {}: {field:?}", columns[column]);
                DataError::malformed(path, problem, expected)
            };
            if column == label {
                rows.labels.push(class(field).ok_or_else(|| fault("a class, a whole number from 0"))?);
            } else if Some(column) == key {
                rows.keys.push(field.to_owned());
            } else {
                let value = field.parse().ok().filter(|v: &f32| v.is_finite());
                rows.values.push(value.ok_or_else(|| fault("a finite number"))?);
            }
        }
    }
    if rows.labels.is_empty() {
        return Err(DataError::malformed(path, "no row", "at least one"));
    }
    Ok(rows)
}

/// A class number; `3.0` counts as 3, since some exporters write all columns alike.
fn class(field: &str) -> Option<u32> {
    let value: f64 = field.parse().ok()?;
    ((0.0..MAX_CLASSES as f64).contains(&value) && value.fract() == 0.0).then_some(value as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table<'a>(label: &'a str, key: Option<&'a str>, header: bool) -> Table<'a> {
        Table { path: Path::new("t.csv"), test: None, label, key, header }
    }

    fn parse_text(text: &str) -> Result<Rows, DataError> {
        parse(&table("y", Some("who"), true), Path::new("t.csv"), text.as_bytes())
    }

    #[test]
    fn columns_find_their_place() {
        let rows = parse_text("a,y,who,b\n1.5,2,eve,-3\n0,0.0,bob,4e1\n").unwrap();
        assert_eq!(rows.features, ["a", "b"]);
        assert_eq!(rows.values, [1.5, -3.0, 0.0, 40.0]);
        assert_eq!(rows.labels, [2, 0]);
        let keys = intern(&rows.keys);
        assert_eq!((keys.names, keys.of), (vec!["bob".to_owned(), "eve".to_owned()], vec![1, 0]));
    }

    #[test]
    fn faults_are_named() {
        let cases = [
            ("a,y,who\n1,0,x\nred,1,x\n", "line 3, column a: \"red\""),
            ("a,y,who\nNaN,0,x\n", "line 2, column a"),
            ("a,y,who\n1,-1,x\n", "line 2, column y"),
            ("a,y,who\n1,0\n", "line: 2"),
            ("a,z,who\n1,0,x\n", "expected a column y"),
            ("y,who\n1,x\n", "at least one feature"),
            ("a,y,who\n", "no row"),
            ("", "expected a column y"),
        ];
        for (text, words) in cases {
            let message = parse_text(text).unwrap_err().to_string();
            assert!(message.contains(words) && message.starts_with("t.csv"), "{text:?}: {message}");
        }
    }

    #[test]
    fn constant_features_become_zero_not_nan() {
        let rows =
            Rows { features: vec!["a".into()], values: vec![3.0, 3.0], labels: vec![0, 1], keys: vec![] };
        assert_eq!(rows.measure(), Normalisation { mean: vec![3.0], std: vec![1.0] });
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), header: bool) {
            let _ = parse(&table("0", None, header), Path::new("t.csv"), bytes.as_slice());
        }

        #[test]
        fn arbitrary_rows_never_panic(rows in "([0-9a-z.,\"-]{0,12}\n){0,6}") {
            let _ = parse_text(&format!("a,y,who\n{rows}"));
        }
    }
}

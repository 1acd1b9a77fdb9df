//! The data of simulations and evaluations: found, loaded once, shared by all points.

use crate::exit::{Code, Failure};
use proto::spec::RunSpec;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    str::FromStr,
};
use worker::data::{self, Dataset, Source, Split};

/// `--data PATH` or `--data NAME=PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DataArg {
    name: Option<String>,
    path: PathBuf,
}

impl DataArg {
    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl FromStr for DataArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("expected PATH or NAME=PATH".into());
        }
        let named = text.split_once('=').filter(|(name, _)| !name.contains(['/', '.']) && !name.is_empty());
        Ok(match named {
            Some((name, path)) => Self { name: Some(name.to_owned()), path: path.into() },
            None => Self { name: None, path: text.into() },
        })
    }
}

/// Data set, characters in a sequence, seed of drawn digits.
type Key = (String, usize, u64);

/// Data sets by the name that runs have for them.
#[derive(Debug)]
pub(crate) struct Library {
    places: Vec<DataArg>,
    examples: u32,
    loaded: BTreeMap<Key, (Dataset, Dataset)>,
}

impl Library {
    /// `examples`: how many digits are drawn.
    pub(crate) fn new(places: &[DataArg], examples: u32) -> Self {
        Self { places: places.to_vec(), examples, loaded: BTreeMap::new() }
    }

    fn source(&self, spec: &RunSpec) -> Result<Source, Failure> {
        let name = &spec.data.name;
        let own = self.places.iter().find(|place| place.name.as_deref() == Some(name));
        if let Some(place) = own.or_else(|| self.places.iter().find(|place| place.name.is_none())) {
            let path = place.path.canonicalize().map_err(|error| {
                Failure::new(Code::NotFound, format!("--data {}: {error}", place.path.display()))
            })?;
            let (_, source) =
                data::detect(&path).map_err(|error| Failure::usage(format!("--data: {error}")))?;
            return Ok(source);
        }
        if name == "digits" {
            // As the demo draws them.
            let train = self.examples as usize;
            return Ok(Source::Digits { train, test: (train / 5).clamp(10, 2_000), seed: spec.seed });
        }
        Err(Failure::usage(format!(
            "where is the data set `{name}`? Give its folder or file with --data PATH"
        )))
    }

    /// What is trained on and what is held out.
    pub(crate) fn load(&mut self, spec: &RunSpec) -> Result<(Dataset, Dataset), Failure> {
        let source = self.source(spec)?;
        let drawn = matches!(source, Source::Digits { .. });
        let key = (spec.data.name.clone(), spec.data.sequence, if drawn { spec.seed } else { 0 });
        if let Some(known) = self.loaded.get(&key) {
            return Ok(known.clone());
        }
        let load = |split| {
            source.load(split, spec.data.sequence).map_err(|error| {
                Failure::new(Code::NotFound, format!("data set `{}`: {error}", spec.data.name))
            })
        };
        let both = (load(Split::Train)?, load(Split::Test)?);
        if drawn {
            // One for each seed of a sweep would fill the memory.
            self.loaded.retain(|(name, ..), _| *name != key.0);
        }
        self.loaded.insert(key, both.clone());
        Ok(both)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_no_path() {
        let read = |text: &str| text.parse::<DataArg>().unwrap();
        assert_eq!(read("mnist=/d"), DataArg { name: Some("mnist".into()), path: "/d".into() });
        assert_eq!(read("/d/a=b").name, None);
        assert!("".parse::<DataArg>().is_err());
    }

    #[test]
    fn a_missing_place_is_asked_for() {
        let spec =
            RunSpec::from_toml("name='x'\nrounds=1\n[model]\nkind='linear'\n[data]\nname='mnist'").unwrap();
        let failure = Library::new(&[], 100).load(&spec).unwrap_err();
        assert!(failure.message.contains("`mnist`") && failure.message.contains("--data"), "{failure}");
    }
}

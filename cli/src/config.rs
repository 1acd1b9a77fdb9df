//! Configuration in layers: the file, then the environment, then flags; each later one wins.
//!
//! A key that nothing reads is an error, wherever it comes from, because a misspelt key that is
//! silently ignored is found weeks later. The message says where the key stands and which known one
//! is nearest.

use crate::exit::Failure;
use figment::{
    Figment, Metadata, Provider,
    error::Kind,
    providers::{Env, Format, Serialized, Toml},
    value::Dict,
};
use proto::nearest::nearest;
use serde::{Serialize, de::DeserializeOwned};
use std::path::Path;

/// Prefix of environment variables; `__` also separates the parts of a key.
pub(crate) const ENV_PREFIX: &str = "STARLING__";

/// The layers of one configuration.
#[derive(Debug, Clone)]
pub(crate) struct Layers(Figment);

impl Layers {
    /// The file, then the environment. The file must exist.
    pub(crate) fn read(file: &Path) -> Result<Self, Failure> {
        Self::with_environment(file, Env::prefixed(ENV_PREFIX).split("__"))
    }

    fn with_environment(file: &Path, environment: impl Provider) -> Result<Self, Failure> {
        // figment takes a missing file for an empty one.
        crate::output::read_text(file)?;
        Ok(Self(Figment::from(Toml::file_exact(file)).merge(environment)))
    }

    /// A flag, if it was given.
    pub(crate) fn flag<T: Serialize>(self, key: &str, value: Option<T>) -> Self {
        match value {
            Some(value) => Self(self.0.merge(Serialized::default(key, value))),
            None => self,
        }
    }

    /// Everything as `T`, which must refuse unknown keys.
    pub(crate) fn extract<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        self.0.extract().map_err(|error| self.failure(error, &[]))
    }

    /// The keys `own` as `A`, all others as `B`, which both must refuse unknown keys: serde cannot
    /// flatten one such struct into another.
    pub(crate) fn extract_split<A, B>(&self, own: &[&'static str]) -> Result<(A, B), Failure>
    where
        A: DeserializeOwned,
        B: DeserializeOwned,
    {
        let all: Dict = self.0.extract().map_err(|error| self.failure(error, own))?;
        let (first, second): (Dict, Dict) = all.into_iter().partition(|(key, _)| own.contains(&key.as_str()));
        let part = |dict: Dict| figment::value::Value::from(dict);
        // Unknown keys end up here: they come first, because a misspelt key is missing too.
        let b = part(second).deserialize().map_err(|error| self.failure(error, own))?;
        let a = part(first).deserialize().map_err(|error| self.failure(error, own))?;
        Ok((a, b))
    }

    /// Every mistake in a configuration, in one sentence each.
    fn failure(&self, error: figment::Error, also_known: &[&'static str]) -> Failure {
        let sentences: Vec<String> = error.into_iter().map(|one| self.sentence(&one, also_known)).collect();
        Failure::usage(sentences.join("\n       "))
    }

    fn sentence(&self, error: &figment::Error, also_known: &[&'static str]) -> String {
        let mut path: Vec<&str> = error.path.iter().map(String::as_str).collect();
        let text = match &error.kind {
            Kind::UnknownField(field, known) => {
                if path.last() != Some(&field.as_str()) {
                    path.push(field);
                }
                let at_root = path.len() == 1;
                let all = known.iter().copied().chain(also_known.iter().copied().filter(|_| at_root));
                let all: Vec<&str> = all.collect();
                format!("unknown key{}", suggest(field, &all))
            }
            Kind::UnknownVariant(given, known) => format!("`{given}` is not known{}", suggest(given, known)),
            Kind::MissingField(field) => format!("the key `{field}` is missing"),
            Kind::InvalidType(found, wanted) | Kind::InvalidValue(found, wanted) => {
                format!("found {found}, expected {wanted}")
            }
            Kind::Message(message) => proto::nearest::explain(message),
            other => other.to_string(),
        };
        let key = path.join(".");
        let place = error.metadata.as_ref().or_else(|| self.0.find_metadata(&key));
        match (place.map(|metadata| origin(metadata, &path)), key.is_empty()) {
            (Some(place), false) => format!("{place}: `{key}`: {text}"),
            (Some(place), true) => format!("{place}: {text}"),
            (None, false) => format!("configuration: `{key}`: {text}"),
            (None, true) => format!("configuration: {text}"),
        }
    }
}

fn suggest(given: &str, known: &[&str]) -> String {
    match nearest(given, known.iter().copied()) {
        Some(near) => format!("; did you mean `{near}`?"),
        None => format!("; expected one of {}", known.join(", ")),
    }
}

/// The file, the variable or the flags that a value came from.
fn origin(metadata: &Metadata, path: &[&str]) -> String {
    if let Some(file) = metadata.source.as_ref().and_then(|source| source.file_path()) {
        return file.display().to_string();
    }
    if metadata.name.contains("environment") {
        return format!("environment variable {ENV_PREFIX}{}", path.join("__").to_uppercase());
    }
    "command line".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Code;
    use serde::Deserialize;
    use std::collections::BTreeMap;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Own {
        listen: String,
        #[serde(default)]
        data: BTreeMap<String, worker::data::Source>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Rest {
        data_dir: String,
        #[serde(default)]
        uploads_in_flight: usize,
    }

    const GOOD: &str =
        "listen = \"a\"\ndata_dir = \"d\"\nuploads_in_flight = 1\n[data.x]\nkind = \"digits\"\ntrain = 5\n";

    fn read(text: &str, environment: &[(&str, &str)]) -> Result<(Own, Rest), Failure> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("c.toml");
        std::fs::write(&file, text).unwrap();
        let given = environment
            .iter()
            .fold(Figment::new(), |all, (key, value)| all.merge(Serialized::default(key, value)));
        Layers::with_environment(&file, given)?
            .flag("uploads_in_flight", Some(7))
            .extract_split(&["listen", "data"])
    }

    #[test]
    fn later_layers_win() {
        let (own, rest) = read(GOOD, &[("data_dir", "from-environment")]).unwrap();
        assert_eq!(own.listen, "a");
        assert_eq!(rest, Rest { data_dir: "from-environment".into(), uploads_in_flight: 7 });
        assert!(own.data.contains_key("x"));
    }

    #[test]
    fn mistakes_name_the_file_the_key_and_the_nearest_known_one() {
        for (from, to, wants) in [
            ("listen", "lisen", ["c.toml", "`lisen`", "did you mean `listen`"]),
            ("data_dir", "data_dri", ["c.toml", "`data_dri`", "did you mean `data_dir`"]),
            ("data_dir = \"d\"", "data_dir = 3", ["c.toml", "`data_dir`", "expected a string"]),
            ("train", "trian", ["c.toml", "trian", "did you mean `train`"]),
            ("digits", "digit", ["c.toml", "digit", "did you mean `digits`"]),
            ("listen = \"a\"", "listen = ", ["c.toml", "TOML", "string"]),
        ] {
            let error = read(&GOOD.replacen(from, to, 1), &[]).unwrap_err();
            assert_eq!(error.code, Code::Usage);
            for want in wants {
                assert!(error.message.contains(want), "{to}: {error}");
            }
        }
    }

    #[test]
    fn a_missing_file_is_not_an_empty_one() {
        let error = Layers::read(Path::new("no/such/file.toml")).unwrap_err();
        assert_eq!(error.code, Code::NotFound);
        assert!(error.message.contains("no/such/file.toml"), "{error}");
    }
}

//! Names that people choose and machines store: checked once, at the border.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A name is malformed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{given}` is not a valid {what}: expected 1 to 64 letters, digits, `-`, `_` or `.`, not starting with `.`"
)]
pub struct NameError {
    what: &'static str,
    given: String,
}

fn check(what: &'static str, text: &str) -> Result<(), NameError> {
    let valid = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if (1..=64).contains(&text.len()) && text.chars().all(valid) && !text.starts_with('.') {
        return Ok(());
    }
    Err(NameError { what, given: text.chars().take(80).collect() })
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                check($what, text).map(|()| Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A worker's name, unique in the fleet.
    WorkerName,
    "worker name"
);
name!(
    /// A run's id: its name and a number that the coordinator gave it.
    RunId,
    "run id"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_name() {
        for good in ["a", "worker-1", "w_2.lan", "A"] {
            assert!(good.parse::<WorkerName>().is_ok(), "{good}");
        }
        for bad in ["", ".x", "a/b", "ü", "a b", &"x".repeat(65)] {
            assert!(bad.parse::<RunId>().unwrap_err().to_string().contains("run id"), "{bad}");
        }
    }

    #[test]
    fn serde_checks_too() {
        assert!(serde_json::from_str::<WorkerName>("\"../x\"").is_err());
    }
}

//! Where training runs, and in which precision: what people write, and what comes of it.

use super::device::Device;
use super::feed::Resident;
use super::lane::Lane;
use super::{cache, gpus};
use crate::data::Parts;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// `auto`, `cpu`, `cuda` or `cuda:N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// The first GPU where one can be used, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of this number, or an error.
    Cuda(usize),
}

/// What products are computed in; sums, weights and everything else are `f32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// `f32`.
    #[default]
    F32,
    /// Factors rounded to 10 bits of mantissa inside the matrix units.
    Tf32,
    /// Factors rounded to bfloat16 (an LSTM's recurrence: tf32).
    Bf16,
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no device; expected auto, cpu, cuda or cuda:N");
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => {
                let number = text.strip_prefix("cuda:").ok_or_else(wrong)?;
                number.parse().map(Self::Cuda).map_err(|_| wrong())
            }
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(0) => f.write_str("cuda"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

impl Serialize for Choice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Choice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "f32" => Ok(Self::F32),
            "tf32" => Ok(Self::Tf32),
            "bf16" => Ok(Self::Bf16),
            _ => Err(format!("`{text}` is no precision; expected f32, tf32 or bf16")),
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
        })
    }
}

/// Where a model works.
#[derive(Debug, Clone, Default)]
pub struct Placement {
    /// `None`: the CPU.
    pub device: Option<Arc<Device>>,
    /// On a GPU.
    pub precision: Precision,
    /// What models that are placed one after the other need not make anew.
    pub(super) shared: Arc<Shared>,
}

/// Lanes that no model uses at present, and examples that lie on the device.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) lanes: Mutex<Vec<Arc<Lane>>>,
    pub(super) data: Mutex<Vec<(Weak<Parts>, Arc<Resident>)>>,
}

impl Placement {
    /// What was chosen.
    ///
    /// # Errors
    /// Why the GPU that was asked for cannot be used.
    pub fn open(choice: Choice, precision: Precision) -> Result<Self, String> {
        Ok(Self { device: choice.open()?, precision, ..Self::default() })
    }

    /// On this GPU.
    pub fn on(device: &Arc<Device>, precision: Precision) -> Self {
        Self { device: Some(Arc::clone(device)), precision, ..Self::default() }
    }

    /// For people: the GPU and the precision; `None` for the CPU.
    pub fn label(&self) -> Option<String> {
        let device = self.device.as_ref()?;
        Some(format!("{}, {}", device.name(), self.precision))
    }
}

/// GPUs that are open; one of each for the process.
static OPEN: Mutex<BTreeMap<usize, Weak<Device>>> = Mutex::new(BTreeMap::new());

impl Choice {
    /// The GPU, or `None` for the CPU; for `auto` the reason is in the log.
    ///
    /// # Errors
    /// Why the GPU that was asked for cannot be used.
    pub fn open(self) -> Result<Option<Arc<Device>>, String> {
        match self {
            Self::Cpu => Ok(None),
            Self::Cuda(ordinal) => open(ordinal).map(Some),
            Self::Auto if gpus().is_err() => {
                tracing::info!(reason = gpus().err(), "training on the CPU");
                Ok(None)
            }
            Self::Auto => match open(0) {
                Ok(device) => Ok(Some(device)),
                Err(reason) => {
                    tracing::warn!(reason, "the GPU cannot be used; training on the CPU");
                    Ok(None)
                }
            },
        }
    }
}

fn open(ordinal: usize) -> Result<Arc<Device>, String> {
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(device) = open.get(&ordinal).and_then(Weak::upgrade) {
        return Ok(device);
    }
    let device = Device::open(ordinal, cache::default_folder()).map_err(|error| error.to_string())?;
    super::device::cublas()?;
    open.insert(ordinal, Arc::downgrade(&device));
    tracing::info!(gpu = device.name(), "training on a GPU");
    Ok(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_and_precisions_are_read_as_written() {
        for text in ["auto", "cpu", "cuda", "cuda:3"] {
            assert_eq!(text.parse::<Choice>().unwrap().to_string(), text);
        }
        assert_eq!("cuda:0".parse(), Ok(Choice::Cuda(0)));
        for text in ["gpu", "cuda:", "cuda:-1", "CPU", ""] {
            assert!(text.parse::<Choice>().unwrap_err().contains("cuda:N"), "{text}");
        }
        for text in ["f32", "tf32", "bf16"] {
            assert_eq!(text.parse::<Precision>().unwrap().to_string(), text);
            assert_eq!(
                serde_json::to_string(&text.parse::<Precision>().unwrap()).unwrap(),
                format!("\"{text}\"")
            );
        }
        assert!("fp16".parse::<Precision>().unwrap_err().contains("bf16"));
        assert_eq!(Choice::Cpu.open().unwrap().map(|_| ()), None);
        assert!(Choice::Cuda(4_000).open().is_err());
    }
}

//! What is asked of a data set: all that an answer depends on beside the records and the noise, so that the
//! same name can never mean two questions.

use crate::{
    exit::{Code, Failure},
    run,
};
use clap::ValueEnum;
use privacy::{Mechanism, Positive, Probability};
use proto::spec::RunSpec;
use serde::{Deserialize, Serialize};
use std::{
    num::NonZeroU64,
    path::{Path, PathBuf},
};

use super::super::setting::bounded;

/// Quanta of one record in a sum of numbers that are no counts.
pub(super) const SCALE: i64 = 1 << 10;

/// What is asked, as it is typed.
#[derive(Debug, clap::Args)]
pub(super) struct Asked {
    /// What is told
    #[arg(long, value_enum)]
    what: What,
    /// For quantiles and metrics: the run file, which names the network
    #[arg(long, value_name = "FILE", required_if_eq_any = [("what", "quantiles"), ("what", "metrics")])]
    run: Option<PathBuf>,
    /// The model; the run's first one without it
    #[arg(long, value_name = "FILE", requires = "run")]
    model: Option<PathBuf>,
    /// Quantiles of what
    #[arg(long, value_enum, default_value = "gradient-norm")]
    of: Of,
    /// Which, in rising order
    #[arg(long, value_name = "P,...", value_delimiter = ',', default_value = "0.5", value_parser = bounded::<Probability>)]
    quantiles: Vec<Probability>,
    /// A record's loss or norm counts as at most this; must not follow from the records
    #[arg(long, value_name = "BOUND", value_parser = bounded::<Positive>,
          required_if_eq_any = [("what", "quantiles"), ("what", "metrics")])]
    up_to: Option<Positive>,
    /// Equal parts of the axis from 0 to --up-to in which quantiles are looked for
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(2..=4_096))]
    bins: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// The number of records
    Records,
    /// The number of records of each class
    Classes,
    /// Quantiles of --of over the records, for example to choose a clipping norm by
    Quantiles,
    /// Number of records, accuracy and mean loss of a model on them
    Metrics,
}

/// A number that a model makes of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Of {
    /// L2 norm of the gradient of its loss
    GradientNorm,
    /// Its loss
    Loss,
}

/// What is asked, as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub(super) enum Question {
    Records,
    Classes,
    Quantiles { of: Of, model: String, quantiles: Vec<Probability>, up_to: Positive, bins: u32 },
    Metrics { model: String, up_to: Positive },
}

/// A question and the model that it is about.
pub(super) struct Read {
    pub(super) question: Question,
    pub(super) about: Option<About>,
}

/// Of a model: the run, and the bytes of the file if it is not the run's first one.
pub(super) struct About {
    pub(super) spec: RunSpec,
    pub(super) file: Option<(PathBuf, Vec<u8>)>,
}

impl Asked {
    /// Reads the files that are named.
    pub(super) fn read(&self) -> Result<Read, Failure> {
        let about = self.run.as_ref().map(|path| self.about(path)).transpose()?;
        let (model, about) = about.map_or((String::new(), None), |(model, about)| (model, Some(about)));
        let bound = || self.up_to.ok_or_else(|| Failure::usage("`--up-to` is missing"));
        let question = match self.what {
            What::Records => Question::Records,
            What::Classes => Question::Classes,
            What::Quantiles => {
                let rising = self.quantiles.windows(2).all(|two| two[0].get() < two[1].get());
                if !rising {
                    return Err(Failure::usage("`--quantiles`: expected rising numbers"));
                }
                let (quantiles, up_to) = (self.quantiles.clone(), bound()?);
                Question::Quantiles { of: self.of, model, quantiles, up_to, bins: self.bins }
            }
            What::Metrics => Question::Metrics { model, up_to: bound()? },
        };
        Ok(Read { question, about })
    }

    fn about(&self, path: &Path) -> Result<(String, About), Failure> {
        let (_, spec) = run::read_spec(path)?;
        let read = |file: &PathBuf| {
            let bytes = std::fs::read(file)
                .map_err(|error| Failure::new(Code::NotFound, format!("{}: {error}", file.display())))?;
            Ok::<_, Failure>((file.clone(), bytes))
        };
        let file = self.model.as_ref().map(read).transpose()?;
        let kind = serde_json::to_string(&spec.model).map_err(Failure::internal)?;
        let digest = match &file {
            Some((_, bytes)) => blake3::hash(bytes).to_string(),
            None => format!("first of seed {} of {kind}", spec.seed),
        };
        Ok((digest, About { spec, file }))
    }
}

impl Question {
    /// Quanta in one record's largest contribution to a number, and the L2 norm of its contribution to all.
    pub(super) fn grid(&self) -> (i64, NonZeroU64) {
        match self {
            // Counts: a record is in one of them.
            Self::Records | Self::Classes | Self::Quantiles { .. } => (1, NonZeroU64::MIN),
            // Three numbers of at most one record each: √3 · SCALE, rounded up.
            Self::Metrics { .. } => {
                let norm = (3.0_f64.sqrt() * SCALE as f64).ceil() as u64;
                (SCALE, NonZeroU64::new(norm).unwrap_or(NonZeroU64::MIN))
            }
        }
    }

    /// What it costs with noise of this deviation, in records.
    pub(super) fn mechanism(
        &self,
        deviation: Positive,
        dimensions: NonZeroU64,
    ) -> Result<Mechanism, Failure> {
        let (scale, sensitivity) = self.grid();
        let deviation = Positive::new(deviation.get() * scale as f64).map_err(Failure::usage)?;
        Ok(Mechanism::DiscreteGaussian { deviation, sensitivity, dimensions })
    }

    /// It in words.
    pub(super) fn words(&self) -> String {
        serde_json::to_string(self).unwrap_or_default().replace('"', "")
    }
}

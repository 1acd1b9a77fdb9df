//! The draw: noise by `opendp`, and the file in which it is kept.

use super::question::Question;
use crate::exit::{Code, Failure};
use opendp::{
    domains::{AtomDomain, VectorDomain},
    measurements::make_gaussian,
    measures::ZeroConcentratedDivergence,
    metrics::L2Distance,
};
use privacy::Positive;
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// The directory of draws within the state directory.
const FOLDER: &str = "releases";

/// What was drawn, as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Drawn {
    pub(super) dataset: String,
    pub(super) name: String,
    #[serde(flatten)]
    pub(super) question: Question,
    pub(super) deviation: Positive,
    /// In quanta of the question's grid.
    pub(super) values: Vec<i64>,
}

impl Drawn {
    pub(super) fn file(state_dir: &Path, dataset: &str, name: &str) -> PathBuf {
        state_dir.join(FOLDER).join(format!("{dataset}.{name}.json"))
    }

    pub(super) fn text(&self) -> Result<String, Failure> {
        serde_json::to_string(self).map_err(Failure::internal)
    }

    /// Durable before anybody is told, and for the owner's eyes only.
    pub(super) fn keep(&self, file: &Path) -> Result<(), Failure> {
        let text = self.text()?;
        let folder = file.parent().unwrap_or(Path::new("."));
        let write = || -> io::Result<()> {
            fs::create_dir_all(folder)?;
            let beside = file.with_extension("tmp");
            let mut options = OpenOptions::new();
            options.create(true).truncate(true).write(true);
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            let mut out = options.open(&beside)?;
            out.write_all(text.as_bytes())?;
            out.sync_all()?;
            fs::rename(&beside, file)?;
            File::open(folder)?.sync_all()?;
            folder.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
        };
        write().map_err(|error| Failure::new(Code::Failed, format!("{}: {error}", file.display())))
    }
}

/// What was drawn under that name before.
pub(super) fn kept(file: &Path, question: &Question, deviation: Positive) -> Result<Option<Drawn>, Failure> {
    let text = match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(|error| Failure::new(Code::Data, format!("{}: {error}", file.display())))?,
    };
    let drawn: Drawn = serde_json::from_str(&text)
        .map_err(|error| Failure::new(Code::Data, format!("{}: {error}", file.display())))?;
    if drawn.question != *question || drawn.deviation != deviation {
        return Err(Failure::usage(format!(
            "`{}` was drawn as {} with deviation {}: ask for that, or choose another --name",
            drawn.name,
            drawn.question.words(),
            drawn.deviation.get()
        )));
    }
    Ok(Some(drawn))
}

/// The numbers with noise of this deviation, in records.
pub(super) fn noised(exact: &[i64], question: &Question, deviation: Positive) -> Result<Vec<i64>, Failure> {
    let (scale, sensitivity) = question.grid();
    let deviation = deviation.get() * scale as f64;
    let domain = VectorDomain::new(AtomDomain::<i64>::default());
    let noise = make_gaussian::<_, _, ZeroConcentratedDivergence>(
        domain,
        L2Distance::<f64>::default(),
        deviation,
        None,
    );
    let noise = noise.map_err(|error| Failure::usage(format!("--deviation: {error:?}")))?;
    let sensitivity = sensitivity.get() as f64;
    let rho = noise.map(&sensitivity).map_err(|error| Failure::internal(format!("{error:?}")))?;
    let ours = 0.5 * (sensitivity / deviation).powi(2);
    if rho > ours * (1.0 + 1e-9) {
        return Err(Failure::internal(format!("opendp says that this costs ρ = {rho}, the ledger {ours}")));
    }
    noise.invoke(&exact.to_vec()).map_err(|error| Failure::internal(format!("{error:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::privacy::release::question::SCALE;

    #[test]
    fn noise_has_its_deviation_and_a_draw_is_kept_as_it_was() {
        let deviation = Positive::new(20.0).unwrap();
        let metrics = Question::Metrics { model: "m".into(), up_to: deviation };
        for (question, scale) in [(Question::Records, 1), (metrics, SCALE)] {
            let values = noised(&[1000; 400], &question, deviation).unwrap();
            let square = values.iter().map(|x| ((*x - 1000) as f64 / scale as f64).powi(2)).sum::<f64>();
            assert!(((square / 400.0).sqrt() / 20.0 - 1.0).abs() < 0.2, "{square}");
        }
        let folder = tempfile::tempdir().unwrap();
        let file = Drawn::file(folder.path(), "d", "n");
        let question = Question::Records;
        let drawn = Drawn { dataset: "d".into(), name: "n".into(), question, deviation, values: vec![7] };
        drawn.keep(&file).unwrap();
        // The format of the first version, by whose digest ledgers name what was drawn then.
        let text = r#"{"dataset":"d","name":"n","what":"records","deviation":20.0,"values":[7]}"#;
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
        assert_eq!(kept(&file, &Question::Records, deviation).unwrap(), Some(drawn));
        let other = kept(&file, &Question::Classes, deviation).unwrap_err().to_string();
        assert!(other.contains("drawn as {what:records} with deviation 20"), "{other}");
    }
}

//! What the coordinator says, as values that cannot be malformed.
//!
//! Converted once, here. A message of an unknown kind is ignored (a newer coordinator may send it);
//! an order that this worker does not understand is declined with the reason, since silence would
//! leave the round waiting for its deadline.

use crate::trainer::{Judged, Scores};
use algorithms::evaluation::{Cell, Details, Part};
use privacy::ClipNorm;
use proto::{
    digest::Digest,
    names::RunId,
    spec::RunSpec,
    v1::{self, DeclineReason, ErrorCode, coordinator_message::Body},
};
use std::{sync::Arc, time::Duration};

/// A message of the coordinator.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// The worker is accepted.
    Welcome {
        /// Version that both sides speak from now on.
        version: u32,
        /// A heartbeat is due so often; zero: not said.
        heartbeat: Duration,
        /// A peer that was silent for so long is dead; zero: not said.
        silence: Duration,
    },
    /// The worker is not accepted.
    Refusal {
        /// Why.
        code: ErrorCode,
        /// In words.
        detail: String,
    },
    /// A sign of life.
    Heartbeat,
    /// Train one round.
    Assign(Box<Assignment>),
    /// Evaluate a model on held-out data.
    Evaluate(Box<Evaluation>),
    /// A round was committed.
    Closed {
        /// The run.
        run: RunId,
        /// The committed round.
        round: u64,
        /// Whether this worker's update was counted.
        included: bool,
    },
    /// Stop working on a run.
    Abandon {
        /// The run.
        run: RunId,
        /// The round up to which work is void.
        round: u64,
        /// Why.
        reason: v1::AbandonReason,
    },
    /// For the worker's operator.
    Notice(String),
    /// An order that this worker cannot understand: it is declined.
    Unusable {
        /// The run.
        run: RunId,
        /// The round.
        round: u64,
        /// What was wrong and what was expected.
        detail: String,
    },
}

/// A vector that is to be fetched.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// Its name among the server's vectors.
    pub name: String,
    /// What it contains.
    pub digest: Digest,
    /// Number of elements, as announced: decides no allocation before it is checked.
    pub length: u64,
}

/// Train one round.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    /// The run.
    pub run: RunId,
    /// The round.
    pub round: u64,
    /// What is trained, and how.
    pub spec: Arc<RunSpec>,
    /// Learning rate of this round.
    pub lr: f32,
    /// The last round of the run in which an update of this worker was counted.
    pub committed: Option<u64>,
    /// The model and the algorithm's other vectors.
    pub vectors: Vec<Wanted>,
    /// Largest norm of all that is uploaded together, in a run that promises privacy.
    pub clip_norm: Option<ClipNorm>,
    /// Time until the round's deadline.
    pub remaining: Duration,
}

impl Assignment {
    /// Names everything that the upload is a function of: equal bases, equal bytes. A pending upload
    /// of the same round but another basis belongs to a coordinator that was set back.
    pub fn basis(&self) -> Digest {
        let mut text = format!("{}\n{}\n{:08x}\n", self.run, self.round, self.lr.to_bits());
        text.push_str(&self.spec.to_json());
        if let Some(norm) = self.clip_norm {
            text.extend(["\nclip ".to_owned(), format!("{:016x}", norm.get().to_bits())]);
        }
        for vector in &self.vectors {
            text.push_str(&["\n", &vector.name, " ", &vector.digest.to_string()].concat());
        }
        Digest::of(text.as_bytes())
    }

    /// Whether `other` orders the same work: the remaining time and what is known to be committed
    /// may differ.
    pub fn same_work(&self, other: &Self) -> bool {
        self.run == other.run && self.round == other.round && self.basis() == other.basis()
    }
}

/// Evaluate a committed model.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// The run.
    pub run: RunId,
    /// The committed round.
    pub round: u64,
    /// Names model and data.
    pub spec: Arc<RunSpec>,
    /// The model.
    pub model: Wanted,
    /// From which the algorithm makes it, if there is something shorter.
    pub packed: Option<Wanted>,
}

/// A message that is no valid message and cannot be answered either.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed {what} of the coordinator: {problem}")]
pub struct MessageError {
    what: &'static str,
    problem: String,
}

/// Reads a message; `None` if this version does not know its kind.
pub fn read(message: v1::CoordinatorMessage) -> Result<Option<Command>, MessageError> {
    let Some(body) = message.body else { return Ok(None) };
    let millis = |ms: u32| Duration::from_millis(u64::from(ms));
    let command = match body {
        Body::Welcome(m) => Command::Welcome {
            version: m.protocol_version,
            heartbeat: millis(m.heartbeat_ms),
            silence: millis(m.silence_ms),
        },
        Body::Refusal(m) => Command::Refusal { code: m.code(), detail: m.detail },
        Body::Heartbeat(_) => Command::Heartbeat,
        Body::Assignment(m) => assignment(&m)?,
        Body::Evaluate(m) => evaluation(&m)?,
        Body::Closed(m) => {
            Command::Closed { run: run("round closure", &m.run)?, round: m.round, included: m.included }
        }
        Body::Abandon(m) => {
            let reason = m.reason();
            Command::Abandon { run: run("abandon", &m.run)?, round: m.round, reason }
        }
        Body::Notice(m) => Command::Notice(m.text),
    };
    Ok(Some(command))
}

fn run(what: &'static str, text: &str) -> Result<RunId, MessageError> {
    text.parse::<RunId>().map_err(|error| MessageError { what, problem: error.to_string() })
}

fn wanted(vector: &v1::VectorRef) -> Result<Wanted, String> {
    let digest =
        Digest::from_bytes(&vector.digest).map_err(|error| format!("vector `{}`: {error}", vector.name))?;
    Ok(Wanted { name: vector.name.clone(), digest, length: vector.length })
}

fn assignment(m: &v1::Assignment) -> Result<Command, MessageError> {
    let run = run("assignment", &m.run)?;
    let parts = || -> Result<Assignment, String> {
        let spec = RunSpec::from_json(&m.spec).map_err(|error| error.to_string())?;
        if !(m.lr.is_finite() && m.lr >= 0.0) {
            return Err(format!("learning rate {}, expected a finite number of at least 0", m.lr));
        }
        let clip_norm = m.clip_norm.map(ClipNorm::new).transpose().map_err(|error| error.to_string())?;
        if spec.has_central_noise() != clip_norm.is_some() {
            let text = "a clipping norm belongs to a run whose coordinator adds noise, and only there";
            return Err(text.to_owned());
        }
        Ok(Assignment {
            run: run.clone(),
            round: m.round,
            spec: Arc::new(spec),
            lr: m.lr,
            committed: m.committed,
            vectors: m.vectors.iter().map(wanted).collect::<Result<_, _>>()?,
            clip_norm,
            remaining: Duration::from_millis(m.remaining_ms),
        })
    };
    Ok(match parts() {
        Ok(assignment) => Command::Assign(Box::new(assignment)),
        Err(detail) => Command::Unusable { run, round: m.round, detail },
    })
}

fn evaluation(m: &v1::EvaluationRequest) -> Result<Command, MessageError> {
    let run = run("evaluation request", &m.run)?;
    let parts = || -> Result<Evaluation, String> {
        let spec = RunSpec::from_json(&m.spec).map_err(|error| error.to_string())?;
        let model = wanted(m.model.as_ref().ok_or("no model, expected a vector")?)?;
        let packed = m.packed.as_ref().map(wanted).transpose()?;
        Ok(Evaluation { run: run.clone(), round: m.round, spec: Arc::new(spec), model, packed })
    };
    parts()
        .map(|evaluation| Command::Evaluate(Box::new(evaluation)))
        .map_err(|problem| MessageError { what: "evaluation request", problem })
}

/// What a worker tells of its evaluation, as it goes over the wire.
pub fn report(run: &RunId, round: u64, judged: Judged) -> v1::EvaluationReport {
    let Judged { shared, personal, details } = judged;
    let Details { confusion, parts } = details.unwrap_or_default();
    let cell = |Cell { label, prediction, count }: Cell| v1::ConfusionCell { label, prediction, count };
    let part = |sums: Part| v1::CalibrationPart {
        part: sums.part,
        count: sums.count,
        residual: sums.residual,
        squares: sums.squares,
        spread: sums.spread,
        spread_squares: sums.spread_squares,
    };
    let scores = |Scores { predictions, correct, loss_sum }: Scores| v1::PersonalScores {
        predictions,
        correct,
        loss_sum,
    };
    v1::EvaluationReport {
        run: run.to_string(),
        round,
        predictions: shared.predictions,
        correct: shared.correct,
        loss_sum: shared.loss_sum,
        personal: personal.map(scores),
        confusion: confusion.into_iter().map(cell).collect(),
        calibration: parts.into_iter().map(part).collect(),
    }
}

/// A message to the coordinator.
#[derive(Debug, Clone, PartialEq)]
pub enum Say {
    /// The first message.
    Hello,
    /// A sign of life.
    Heartbeat {
        /// Counts up from 0 in each session.
        sequence: u64,
    },
    /// The worker cannot take part in a round.
    Decline {
        /// The run.
        run: RunId,
        /// The round.
        round: u64,
        /// Why.
        reason: DeclineReason,
        /// In words.
        detail: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: &str =
        r#"{"name":"r","rounds":1,"model":{"kind":"flat","parameters":3},"data":{"name":"d"}}"#;

    fn wire(spec: &str, digest: Vec<u8>) -> v1::CoordinatorMessage {
        let vectors = vec![v1::VectorRef { name: "w".into(), digest, length: 3 }];
        let assignment = v1::Assignment {
            run: "r-1".into(),
            round: 4,
            spec: spec.into(),
            lr: 0.5,
            committed: Some(2),
            vectors,
            remaining_ms: 10,
            clip_norm: None,
        };
        v1::CoordinatorMessage { body: Some(Body::Assignment(assignment)) }
    }

    #[test]
    fn an_assignment_is_read_and_its_basis_ignores_time() {
        let Ok(Some(Command::Assign(a))) = read(wire(SPEC, vec![7; 32])) else { panic!("not read") };
        assert_eq!((a.round, a.committed, a.vectors.len()), (4, Some(2), 1));
        let later = Assignment { remaining: Duration::ZERO, committed: None, ..(*a).clone() };
        assert!(a.same_work(&later));
        assert!(!a.same_work(&Assignment { lr: 0.25, ..later }));
    }

    #[test]
    fn what_cannot_be_understood_is_declined_or_named() {
        for message in [wire("{}", vec![7; 32]), wire(SPEC, vec![7; 31]), wire("nonsense", vec![7; 32])] {
            let Ok(Some(Command::Unusable { run, round: 4, detail })) = read(message) else {
                panic!("not refused")
            };
            assert_eq!(run.as_str(), "r-1");
            assert!(!detail.is_empty());
        }
        let closed = v1::RoundClosed { run: "../x".into(), round: 1, included: true };
        let error = read(v1::CoordinatorMessage { body: Some(Body::Closed(closed)) }).unwrap_err();
        assert!(error.to_string().contains("../x"), "{error}");
        assert_eq!(read(v1::CoordinatorMessage { body: None }), Ok(None));
    }
}

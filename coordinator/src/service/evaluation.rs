//! A worker's evaluation as it comes over the wire. Whether it is possible is the machine's question.

use crate::machine::{Evaluated, Federated};
use algorithms::evaluation::{Cell, Details, Part};
use proto::v1::{CalibrationPart, ConfusionCell, EvaluationReport, PersonalScores};

/// What the machine takes.
pub(super) fn read(report: EvaluationReport) -> Evaluated {
    let EvaluationReport { predictions, correct, loss_sum, personal, confusion, calibration, .. } = report;
    let personal = personal.map(|PersonalScores { predictions, correct, loss_sum }| Federated {
        predictions,
        correct,
        loss_sum,
    });
    let cell = |ConfusionCell { label, prediction, count }: ConfusionCell| Cell { label, prediction, count };
    let part = |told: CalibrationPart| Part {
        part: told.part,
        count: told.count,
        residual: told.residual,
        squares: told.squares,
        spread: told.spread,
        spread_squares: told.spread_squares,
    };
    let told = !(confusion.is_empty() && calibration.is_empty());
    let details = told.then(|| {
        let confusion = confusion.into_iter().map(cell).collect();
        Box::new(Details { confusion, parts: calibration.into_iter().map(part).collect() })
    });
    Evaluated { shared: Federated { predictions, correct, loss_sum }, personal, details }
}

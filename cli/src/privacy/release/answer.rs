//! What is told of a draw: a function of the noisy numbers alone, so that it costs nothing.

use super::{
    draw::Drawn,
    question::{Question, SCALE},
};
use crate::table;
use privacy::Probability;
use serde_json::{Value, json};

/// As `--json` has it.
pub(super) fn json(drawn: &Drawn) -> Value {
    match &drawn.question {
        Question::Records | Question::Classes => json!(drawn.values),
        Question::Quantiles { quantiles, up_to, .. } => {
            let found = found(&drawn.values, quantiles, up_to.get());
            let rows = quantiles.iter().zip(found);
            json!(rows.map(|(p, value)| json!({ "quantile": p, "value": value })).collect::<Vec<_>>())
        }
        Question::Metrics { up_to, .. } => {
            let (examples, accuracy, loss) = metrics(&drawn.values, up_to.get());
            json!({ "examples": examples, "accuracy": accuracy, "loss": loss })
        }
    }
}

/// As people read it.
pub(super) fn text(drawn: &Drawn) -> String {
    match &drawn.question {
        Question::Records => table::table(&["records", "count"], &counts(drawn, |_| "all".to_owned())),
        Question::Classes => table::table(&["class", "count"], &counts(drawn, |at| at.to_string())),
        Question::Quantiles { quantiles, up_to, .. } => {
            let found = found(&drawn.values, quantiles, up_to.get());
            let row = |(p, value): (&Probability, Option<f64>)| {
                vec![p.get().to_string(), table::or_dash(value, |value| format!("{value:.4}"))]
            };
            let rows: Vec<Vec<String>> = quantiles.iter().zip(found).map(row).collect();
            table::table(&["quantile", "value"], &rows)
        }
        Question::Metrics { up_to, .. } => {
            let (examples, accuracy, loss) = metrics(&drawn.values, up_to.get());
            table::pairs(&[
                ("examples", examples.to_string()),
                ("accuracy", table::or_dash(accuracy, table::percent)),
                ("loss", table::or_dash(loss, |loss| format!("{loss:.4}"))),
            ])
        }
    }
}

fn counts(drawn: &Drawn, name: impl Fn(usize) -> String) -> Vec<Vec<String>> {
    drawn.values.iter().enumerate().map(|(at, value)| vec![name(at), value.to_string()]).collect()
}

/// Where the noisy counts reach each share of their sum, between the edges of its part of the axis. The counts
/// up to a part are at least those up to an earlier one, which noise may have denied. `None`: nothing is left
/// under the noise.
fn found(counts: &[i64], quantiles: &[Probability], up_to: f64) -> Vec<Option<f64>> {
    let mut sum = 0;
    let running = counts.iter().scan(0_i64, |most, count| {
        sum += count;
        *most = (*most).max(sum);
        Some(*most)
    });
    let below: Vec<i64> = running.collect();
    let (all, width) = (below.last().copied().unwrap_or(0), up_to / counts.len().max(1) as f64);
    let at = |p: &Probability| {
        let wanted = p.get() * all as f64;
        let bin = below.iter().position(|below| *below as f64 >= wanted)?;
        let before = if bin == 0 { 0 } else { below[bin - 1] };
        let inside = (wanted - before as f64) / (below[bin] - before).max(1) as f64;
        Some((bin as f64 + inside.clamp(0.0, 1.0)) * width)
    };
    quantiles.iter().map(|p| at(p).filter(|_| all > 0)).collect()
}

/// Records, accuracy and mean loss.
fn metrics(sums: &[i64], up_to: f64) -> (i64, Option<f64>, Option<f64>) {
    let at = |index: usize| sums.get(index).copied().unwrap_or(0) as f64 / SCALE as f64;
    let records = at(0);
    let mean = |sum: f64, most: f64| (records >= 1.0).then(|| (sum / records).clamp(0.0, 1.0) * most);
    (records.round().max(0.0) as i64, mean(at(1), 1.0), mean(at(2), up_to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_where_the_counts_say_and_noise_cannot_turn_them_round() {
        let p = |p: f64| Probability::new(p).unwrap();
        let at = |counts: &[i64], of: f64| found(counts, &[p(of)], 4.0)[0];
        assert_eq!(at(&[10, 10, 10, 10], 0.5), Some(2.0));
        assert_eq!(at(&[0, 0, 40, 0], 0.25), Some(2.25));
        assert_eq!(at(&[0, 20, -30, 20], 1.0), Some(2.0));
        assert_eq!(at(&[-3, -5, 1, 0], 0.5), None);
        let many = found(&[5, -9, 8, 3, -1, 7], &[p(0.1), p(0.5), p(0.9)], 1.0);
        assert!(many.windows(2).all(|two| two[0] <= two[1]), "{many:?}");
    }

    #[test]
    fn metrics_are_means_and_stay_in_their_bounds() {
        let (examples, accuracy, loss) = metrics(&[100 * SCALE, 75 * SCALE, 20 * SCALE], 5.0);
        assert_eq!((examples, accuracy, loss), (100, Some(0.75), Some(1.0)));
        assert_eq!(metrics(&[SCALE / 3, 9 * SCALE, 0], 5.0), (0, None, None));
        assert_eq!(metrics(&[2 * SCALE, -SCALE, 9 * SCALE], 5.0), (2, Some(0.0), Some(5.0)));
    }
}

//! What theory says of runs with and without a coordinator before anybody measures, and where all of them are
//! after as many rounds, and as many bytes, as the shortest of them has.
//!
//! The bound on the generalisation of decentralised training grows with `(1 + 6 √n κ)/n`, where κ is the constant
//! of the consensus lemma; with a coordinator and everybody the same place holds `n^a/n` with `0 < a < 1`, which
//! is at most 1 and below that for every graph (after Sun, Shen and Tao, arXiv:2310.03461; the constants are not
//! checked against the paper's text). So it says which of two settings has the smaller bound, and no accuracy.

use super::{group::Row, read::Line};
use gossip::report::{Mode, Report};
use proto::spec::RunSpec;
use serde_json::{Value, json};

/// Of a run without a coordinator.
#[derive(Debug, Clone)]
pub(super) struct Theory {
    topology: String,
    nodes: usize,
    gap: f64,
    factor: Option<f64>,
    doubling: Option<f64>,
    /// `γ/(δ (1 − λ))`, for push-sum (Liang et al., arXiv:2602.20567).
    stability: Option<f64>,
}

impl Theory {
    /// `None` for a run with a coordinator.
    pub(super) fn of(spec: &RunSpec) -> Option<Self> {
        let mixing = spec.mixing().ok()?;
        let Report { topology, gap, topology_factor, doubling, analysis, plan, .. } =
            mixing.report(spec.rounds);
        let imbalance = analysis.delta.inf_w * gap;
        let stability =
            (plan.mode == Mode::Push && imbalance > 0.0).then(|| f64::from(spec.local.lr) / imbalance);
        Some(Self { topology, nodes: mixing.nodes, gap, factor: topology_factor, doubling, stability })
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "topology": self.topology, "nodes": self.nodes, "gap": self.gap, "topology_factor": self.factor,
            "doubling": self.doubling, "stability_term": self.stability,
        })
    }

    fn text(&self, label: &str) -> String {
        let number = |value: Option<f64>| value.map_or_else(|| "infinite".to_owned(), |v| format!("{v:.3}"));
        let push = self.stability.map_or_else(String::new, |term| format!(", γ/(δ (1 − λ)) {term:.3}"));
        format!(
            "{label}: {} over {}: gap {:.4}, (1 + 6·sqrt(n)·κ)/n {}, with twice the nodes ×{}{push}",
            self.topology,
            self.nodes,
            self.gap,
            number(self.factor),
            number(self.doubling)
        )
    }
}

/// What all runs have: rounds and bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    pub(super) rounds: u64,
    pub(super) bytes: u64,
}

impl Budget {
    pub(super) fn of(rows: &[Row]) -> Self {
        let runs = || rows.iter().flat_map(|row| &row.runs);
        let rounds = runs().map(|run| run.lines.last().map_or(0, |line| line.round + 1)).min();
        let bytes = runs().map(|run| run.lines.iter().map(|line| line.bytes).sum()).min();
        Self { rounds: rounds.unwrap_or(0), bytes: bytes.unwrap_or(0) }
    }

    /// The last accuracy within the rounds.
    pub(super) fn by_rounds(self, lines: &[Line]) -> Option<f64> {
        lines.iter().take_while(|line| line.round < self.rounds).filter_map(|line| line.eval_accuracy).last()
    }

    /// The last accuracy within the bytes.
    pub(super) fn by_bytes(self, lines: &[Line]) -> Option<f64> {
        let mut sent = 0;
        let within = lines.iter().take_while(|line| {
            sent += line.bytes;
            sent <= self.bytes
        });
        within.filter_map(|line| line.eval_accuracy).last()
    }
}

/// Rows by what theory puts first: those with a coordinator, then by the topology's factor.
fn predicted(rows: &[Row]) -> Vec<&str> {
    let factor = |row: &Row| row.theory().map_or(0.0, |theory| theory.factor.unwrap_or(f64::INFINITY));
    let mut order: Vec<&Row> = rows.iter().collect();
    order.sort_by(|a, b| factor(a).total_cmp(&factor(b)));
    order.into_iter().map(|row| row.label.as_str()).collect()
}

/// For people: what was predicted, and what came out at equal rounds.
pub(super) fn told(rows: &[Row], budget: Budget) -> String {
    let mut lines: Vec<String> = rows.iter().filter_map(|row| Some(row.theory()?.text(&row.label))).collect();
    if lines.is_empty() {
        return String::new();
    }
    let accuracy = |row: &&Row| row.over(|lines| budget.by_rounds(lines)).map_or(f64::NAN, |over| over.mean);
    let mut measured: Vec<&Row> = rows.iter().collect();
    measured.sort_by(|a, b| accuracy(b).total_cmp(&accuracy(a)));
    let measured: Vec<&str> = measured.into_iter().map(|row| row.label.as_str()).collect();
    lines.push(format!(
        "predicted at equal rounds, the smallest bound first: {}",
        predicted(rows).join(" > ")
    ));
    lines.push(format!("measured after {} rounds: {}", budget.rounds, measured.join(" > ")));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(round: u64, accuracy: f64, bytes: u64) -> Line {
        let (federated_accuracy, personal_accuracy) = (None, None);
        let eval_accuracy = Some(accuracy);
        Line { round, eval_accuracy, bytes, seconds: 0.0, federated_accuracy, personal_accuracy }
    }

    #[test]
    fn budgets_cut_at_rounds_and_bytes() {
        let lines = [line(0, 0.2, 10), line(1, 0.5, 10), line(2, 0.6, 10)];
        let by = |rounds, bytes| {
            let budget = Budget { rounds, bytes };
            (budget.by_rounds(&lines), budget.by_bytes(&lines))
        };
        assert_eq!(by(2, 30), (Some(0.5), Some(0.6)));
        assert_eq!(by(9, 9), (Some(0.6), None));
    }

    #[test]
    fn theory_knows_the_graph_of_a_run() {
        let spec = |mode: &str, graph: &str| {
            let text =
                format!("name='a'\nrounds=5\n{mode}\n[model]\nkind='linear'\n[data]\nname='d'\n{graph}");
            RunSpec::from_toml(&text).unwrap()
        };
        assert!(Theory::of(&spec("", "")).is_none());
        let of = |graph: &str, algorithm: &str| {
            let graph = format!("[algorithm]\nkind='{algorithm}'\n[topology]\nkind='{graph}'\nnodes=16\n");
            Theory::of(&spec("mode='decentralised'", &graph)).unwrap()
        };
        // The design's table.
        assert!((of("ring", "dpsgd").factor.unwrap() - 62.0).abs() < 0.5);
        assert!((of("static-exponential", "sgp").factor.unwrap() - 5.38).abs() < 0.01);
        assert!(of("static-exponential", "sgp").stability.is_some());
        assert!(of("ring", "dpsgd").text("ring").contains("ring over 16"));
    }
}

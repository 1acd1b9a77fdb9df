//! A graph as SVG: nodes on a circle, an arrow for each edge with its weight, the rounds of a schedule
//! side by side.

use gossip::Schedule;
use std::{
    f64::consts::{FRAC_PI_2, TAU},
    fmt::Write,
};

/// Side of the square of one round.
const SIDE: f64 = 420.0;
const MARGIN: f64 = 46.0;
/// Rounds that are drawn: those of a longer period look alike.
const ROUNDS: u64 = 8;
/// Rounds in a row.
const ACROSS: u64 = 4;
/// With more edges than this in a round, weights would hide the graph.
const LABELLED: usize = 72;

/// Draws the graphs of one period, or the first rounds of it.
pub(super) fn svg(schedule: &Schedule) -> String {
    let rounds = schedule.period().unwrap_or(ROUNDS).min(ROUNDS);
    let (across, down) = (rounds.min(ACROSS), rounds.div_ceil(ACROSS));
    let (width, height) = (across as f64 * SIDE, down as f64 * SIDE);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\">\n\
         <defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"7\" \
         markerHeight=\"7\" orient=\"auto-start-reverse\"><path d=\"M0,0.6 L8,4 L0,7.4 z\" \
         fill=\"#1f64b4\"/></marker></defs>\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for round in 0..rounds {
        let (column, row) = (round % ACROSS, round / ACROSS);
        panel(&mut out, schedule, round, (column as f64 * SIDE, row as f64 * SIDE));
    }
    out.push_str("</svg>\n");
    out
}

fn panel(out: &mut String, schedule: &Schedule, round: u64, (left, top): (f64, f64)) {
    let mixing = schedule.mixing(round);
    let nodes = mixing.nodes();
    let size = (150.0 / nodes as f64).clamp(4.0, 13.0);
    let name = schedule.topology().name();
    let title = match schedule.period() {
        Some(1) => format!("{name}, {nodes} nodes"),
        Some(period) if period > ROUNDS => format!("{name}, {nodes} nodes: round {round} of {period}"),
        _ => format!("{name}, {nodes} nodes: round {round}"),
    };
    let _ = writeln!(
        out,
        "<g transform=\"translate({left},{top})\">\n<text x=\"{}\" y=\"22\" font-size=\"14\" \
         text-anchor=\"middle\" fill=\"#3c4048\">{title}</text>",
        SIDE / 2.0
    );
    let edges: usize = mixing.graph().iter().map(Vec::len).sum();
    for from in 0..nodes {
        for share in mixing.column(from).iter().filter(|share| share.to != from) {
            let mutual = mixing.column(share.to).iter().find(|back| back.to == from);
            let same = mutual.is_some_and(|back| back.weight == share.weight);
            // One line with two tips stands for an edge that is the same in both directions.
            if same && from > share.to {
                continue;
            }
            let ends = (place(from, nodes), place(share.to, nodes));
            let label = (edges <= LABELLED).then(|| decimal(share.weight));
            arrow(out, ends, size, (same, mutual.is_some() && !same, label));
        }
    }
    for node in 0..nodes {
        let (x, y) = place(node, nodes);
        let own = mixing.column(node).iter().find(|share| share.to == node).map_or(0.0, |share| share.weight);
        let _ = writeln!(
            out,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{size:.1}\" fill=\"#f4f6f9\" stroke=\"#3c4048\"><title>node {node} keeps \
             {}</title></circle>",
            decimal(own)
        );
        if size > 6.0 {
            let _ = writeln!(
                out,
                "<text x=\"{x:.1}\" y=\"{:.1}\" font-size=\"{:.1}\" text-anchor=\"middle\" \
                 fill=\"#3c4048\">{node}</text>",
                y + size * 0.35,
                size
            );
        }
    }
    out.push_str("</g>\n");
}

/// Where a node stands: clockwise from the top.
fn place(node: usize, nodes: usize) -> (f64, f64) {
    let angle = TAU * node as f64 / nodes as f64 - FRAC_PI_2;
    let radius = SIDE / 2.0 - MARGIN;
    (SIDE / 2.0 + radius * angle.cos(), SIDE / 2.0 + 8.0 + radius * angle.sin())
}

/// An edge; `bent` when another one goes back beside it.
fn arrow(
    out: &mut String,
    ((x0, y0), (x1, y1)): ((f64, f64), (f64, f64)),
    size: f64,
    (both, bent, label): (bool, bool, Option<String>),
) {
    let (dx, dy) = (x1 - x0, y1 - y0);
    let length = dx.hypot(dy).max(1.0);
    let (ux, uy) = (dx / length, dy / length);
    let gap = size + 2.0;
    let bow = if bent { 0.12 * length } else { 0.0 };
    let (mx, my) = (x0 + dx / 2.0 - uy * bow, y0 + dy / 2.0 + ux * bow);
    let start = if both { " marker-start=\"url(#tip)\"" } else { "" };
    let _ = writeln!(
        out,
        "<path d=\"M{:.1},{:.1} Q{mx:.1},{my:.1} {:.1},{:.1}\" fill=\"none\" stroke=\"#1f64b4\" \
         stroke-opacity=\"0.75\" marker-end=\"url(#tip)\"{start}/>",
        x0 + ux * gap,
        y0 + uy * gap,
        x1 - ux * gap,
        y1 - uy * gap
    );
    let Some(label) = label else { return };
    // A third of the way, so that the labels of crossing edges do not meet in the middle.
    let (lx, ly) = (x0 + dx / 3.0 - uy * (bow + 5.0), y0 + dy / 3.0 + ux * (bow + 5.0));
    let _ = writeln!(
        out,
        "<text x=\"{lx:.1}\" y=\"{ly:.1}\" font-size=\"9\" text-anchor=\"middle\" \
         fill=\"#b05a10\">{label}</text>"
    );
}

/// Two digits, without zeros that say nothing.
fn decimal(value: f64) -> String {
    format!("{value:.2}").trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use gossip::{Params, make};
    use std::sync::Arc;

    fn drawn(kind: &str, nodes: usize) -> String {
        let topology = make(kind, &Params::new()).unwrap();
        svg(&Schedule::new(Arc::from(topology), nodes, 0).unwrap())
    }

    #[test]
    fn every_edge_and_every_round_is_drawn() {
        let ring = drawn("ring", 5);
        assert_eq!((ring.matches("<circle").count(), ring.matches("<path d=\"M").count()), (5, 5 + 1));
        assert_eq!(ring.matches("marker-start").count(), 5, "both ways");
        assert!(ring.contains(">0.33</text>"), "{ring}");
        let schedule = drawn("one-peer-exponential", 8);
        assert_eq!((schedule.matches("<g ").count(), schedule.matches("<circle").count()), (3, 24));
        // In the last round the partner is 4 away, so both send to each other.
        assert_eq!(schedule.matches("marker-start").count(), 4);
        assert!(!drawn("full", 32).contains("font-size=\"9\""), "weights would hide the graph");
    }
}

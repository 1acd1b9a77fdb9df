//! Accuracy over rounds of several runs: the mean over seeds as a line, one standard deviation as a band.

use super::{
    group::{Comparison, Over, Row},
    read::Line,
};
use crate::{
    exit::{Code, Failure},
    output,
};
use plotters::prelude::*;
use std::{collections::BTreeMap, path::Path};

const SIZE: (u32, u32) = (960, 600);
const INK: RGBColor = RGBColor(60, 64, 72);
const GRID: RGBColor = RGBColor(226, 228, 232);
/// Told apart by most people, also with impaired colour vision (after Okabe and Ito), then darker ones.
const COLOURS: [RGBColor; 10] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(40, 40, 40),
    RGBColor(120, 80, 30),
    RGBColor(110, 60, 160),
    RGBColor(150, 150, 150),
];

/// Whose accuracy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum What {
    /// The model's, on the held-out set.
    HeldOut,
    /// The shared model's, on what clients hold out.
    Clients,
    /// The clients' own models', there.
    Personal,
}

impl What {
    fn of(self, line: &Line) -> Option<f64> {
        match self {
            Self::HeldOut => line.eval_accuracy,
            Self::Clients => line.federated_accuracy,
            Self::Personal => line.personal_accuracy,
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::HeldOut => "held-out accuracy, %",
            Self::Clients => "accuracy at clients, %",
            Self::Personal => "accuracy of personal models, %",
        }
    }
}

type Point = (f64, Over);
type Drawn = Result<(), Box<dyn std::error::Error>>;

impl Comparison {
    /// Draws into a file, which is replaced.
    pub(crate) fn draw(&self, file: &Path, what: What, target: Option<f64>) -> Result<(), Failure> {
        let all = self.rows.iter().map(|row| (row.label.as_str(), curve(row, what)));
        // Without personal models there is nothing of them.
        let curves: Vec<(&str, Vec<Point>)> = all.filter(|(_, points)| !points.is_empty()).collect();
        if curves.is_empty() {
            let text = "no run was evaluated, so there is nothing to draw";
            return Err(Failure::new(Code::Failed, text));
        }
        let mut text = String::new();
        draw(&mut text, (&curves, what), target)
            .map_err(|error| Failure::internal(format!("cannot draw: {error}")))?;
        output::write_file(file, true, &[text.as_bytes()])
    }
}

/// Rounds done, and accuracy in % over the seeds that were evaluated there.
fn curve(row: &Row, what: What) -> Vec<Point> {
    let mut at: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    for line in row.runs.iter().flat_map(|run| &run.lines) {
        if let Some(accuracy) = what.of(line) {
            at.entry(line.round + 1).or_default().push(accuracy * 100.0);
        }
    }
    at.into_iter().filter_map(|(round, values)| Some((round as f64, Over::of(&values)?))).collect()
}

fn draw(text: &mut String, (curves, what): (&[(&str, Vec<Point>)], What), target: Option<f64>) -> Drawn {
    let root = SVGBackend::with_string(text, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let points = || curves.iter().flat_map(|(_, points)| points);
    let last = points().map(|(round, _)| *round).fold(1.0, f64::max);
    let band = |over: &Over| over.sd.unwrap_or(0.0);
    let low = points().map(|(_, over)| over.mean - band(over)).fold(f64::INFINITY, f64::min);
    let high = points().map(|(_, over)| over.mean + band(over)).fold(f64::NEG_INFINITY, f64::max);
    let air = ((high - low) * 0.05).max(0.5);
    let mut chart = ChartBuilder::on(&root)
        .margin(12)
        .x_label_area_size(38)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..last * 1.02, (low - air).max(0.0)..(high + air).min(101.0))?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(INK)
        .label_style(("sans-serif", 14).into_font().color(&INK))
        .x_desc("rounds")
        .y_desc(what.label())
        .x_label_formatter(&|round| format!("{round:.0}"))
        .draw()?;
    if let Some(target) = target {
        let ends = [(0.0, target * 100.0), (last, target * 100.0)];
        chart.draw_series(LineSeries::new(ends, INK.mix(0.5).stroke_width(1)))?;
    }
    for ((label, points), colour) in curves.iter().zip(COLOURS.iter().cycle()) {
        let upper = points.iter().map(|(round, over)| (*round, over.mean + band(over)));
        let lower = points.iter().rev().map(|(round, over)| (*round, over.mean - band(over)));
        if points.iter().any(|(_, over)| over.sd.is_some()) {
            let outline: Vec<(f64, f64)> = upper.chain(lower).collect();
            chart.draw_series([Polygon::new(outline, colour.mix(0.12).filled())])?;
        }
        let style = colour.stroke_width(2);
        chart
            .draw_series(LineSeries::new(points.iter().map(|(round, over)| (*round, over.mean)), style))?
            .label(*label)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.85))
        .border_style(GRID)
        .label_font(("sans-serif", 13).into_font().color(&INK))
        .draw()?;
    root.present()?;
    Ok(())
}

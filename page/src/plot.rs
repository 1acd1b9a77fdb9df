//! Accuracy, loss and ε over the rounds as an SVG: the one picture that everybody wants of a run.

use plotters::{coord::Shift, prelude::*};
use proto::event::Metrics;
use serde::Serialize;

const WIDTH: u32 = 900;
const PANEL_HEIGHT: u32 = 320;
/// A curve of more points is a line without dots.
const DOTS: usize = 100;
/// Axes and text.
pub const INK: RGBColor = RGBColor(60, 64, 72);
/// Lines of the mesh.
pub const GRID: RGBColor = RGBColor(226, 228, 232);
/// The first curve.
pub const BLUE: RGBColor = RGBColor(31, 100, 180);
const ORANGE: RGBColor = RGBColor(214, 108, 20);
const GREEN: RGBColor = RGBColor(30, 132, 84);
const PURPLE: RGBColor = RGBColor(120, 70, 170);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// What a picture shows of a round; each value in the units of [`Metrics`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Point {
    /// The round, from 0.
    pub round: u64,
    /// On the coordinator's held-out set.
    pub eval_accuracy: Option<f64>,
    /// On the workers' held-out sets.
    pub federated_accuracy: Option<f64>,
    /// The worst tenth of the workers.
    pub worst_decile: Option<f64>,
    /// Of personal models.
    pub personal_accuracy: Option<f64>,
    /// On the coordinator's held-out set.
    pub eval_loss: Option<f64>,
    /// On the workers' held-out sets.
    pub federated_loss: Option<f64>,
    /// Of the counted updates.
    pub train_loss: Option<f64>,
    /// Of all that was released from the data.
    pub epsilon: Option<f64>,
}

impl From<&Metrics> for Point {
    fn from(line: &Metrics) -> Self {
        let finite = |value: Option<f64>| value.filter(|value| value.is_finite());
        let clients = line.clients.as_deref();
        Self {
            round: line.round,
            eval_accuracy: finite(line.eval_accuracy),
            federated_accuracy: finite(line.federated_accuracy),
            worst_decile: finite(clients.map(|clients| clients.accuracy.worst_decile)),
            personal_accuracy: finite(clients.and_then(|c| c.personal.as_ref()).map(|own| own.mean_accuracy)),
            eval_loss: finite(line.eval_loss),
            federated_loss: finite(line.federated_loss),
            train_loss: finite(line.train_loss),
            epsilon: finite(line.epsilon),
        }
    }
}

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub enum PlotError {
    /// Nothing was measured yet.
    #[error("{0}: no round has an accuracy or a loss yet, so there is nothing to draw")]
    Nothing(String),
    /// The library failed.
    #[error("cannot draw: {0}")]
    Library(String),
}

/// A named line; points are (rounds done, value).
struct Curve {
    name: &'static str,
    colour: RGBColor,
    points: Vec<(f64, f64)>,
}

/// Draws a run's metrics.
///
/// # Errors
/// If no round has a value that could be drawn.
pub fn svg(title: &str, metrics: &[Metrics]) -> Result<String, PlotError> {
    of_points(title, &metrics.iter().map(Point::from).collect::<Vec<_>>())
}

/// Draws what is remembered of a run's metrics.
///
/// # Errors
/// As for [`svg`].
pub fn of_points(title: &str, points: &[Point]) -> Result<String, PlotError> {
    let curve = |name, colour, value: fn(&Point) -> Option<f64>, unit: f64| {
        let points = points.iter().filter_map(|point| Some(((point.round + 1) as f64, value(point)? * unit)));
        Curve { name, colour, points: points.collect() }
    };
    let accuracy = [
        curve("held-out accuracy", BLUE, |point| point.eval_accuracy, 100.0),
        curve("workers' held-out accuracy", GREEN, |point| point.federated_accuracy, 100.0),
        curve("worst tenth of the workers", ORANGE, |point| point.worst_decile, 100.0),
        curve("personal models, on average", PURPLE, |point| point.personal_accuracy, 100.0),
    ];
    let loss = [
        curve("held-out loss", BLUE, |point| point.eval_loss, 1.0),
        curve("workers' held-out loss", GREEN, |point| point.federated_loss, 1.0),
        curve("training loss", ORANGE, |point| point.train_loss, 1.0),
    ];
    let epsilon = [curve("ε of all that was released from the data", ORANGE, |point| point.epsilon, 1.0)];
    let panels = [("accuracy, %", &accuracy[..]), ("loss", &loss[..]), ("ε", &epsilon[..])];
    let panels: Vec<(&str, &[Curve])> = panels
        .into_iter()
        .filter(|(_, curves)| curves.iter().any(|curve| !curve.points.is_empty()))
        .collect();
    if panels.is_empty() {
        return Err(PlotError::Nothing(title.to_owned()));
    }
    let mut text = String::new();
    draw(&mut text, title, &panels).map_err(|error| PlotError::Library(error.to_string()))?;
    Ok(text)
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

fn draw(text: &mut String, title: &str, panels: &[(&str, &[Curve])]) -> Drawn {
    let height = PANEL_HEIGHT * panels.len().max(2) as u32;
    let root = SVGBackend::with_string(text, (WIDTH, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let root = root.titled(title, ("sans-serif", 22).into_font().color(&INK))?;
    for (area, (label, curves)) in root.split_evenly((panels.len(), 1)).iter().zip(panels) {
        panel(area, label, curves)?;
    }
    root.present()?;
    Ok(())
}

fn panel(area: &Area<'_>, label: &str, curves: &[Curve]) -> Drawn {
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let last = points().map(|point| point.0).fold(1.0, f64::max);
    let rises = label != "loss";
    let (low, high) = range(points().map(|point| point.1));
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .x_label_area_size(38)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..last * 1.02, low..high)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(INK)
        .label_style(("sans-serif", 14).into_font().color(&INK))
        .x_desc("rounds")
        .y_desc(label)
        .x_label_formatter(&|round| format!("{round:.0}"))
        .x_labels((last as usize + 1).min(11))
        .y_labels(6)
        .draw()?;
    for Curve { name, colour, points } in curves.iter().filter(|curve| !curve.points.is_empty()) {
        let style = colour.stroke_width(2);
        chart
            .draw_series(LineSeries::new(points.iter().copied(), style))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], style));
        if points.len() <= DOTS {
            chart.draw_series(points.iter().map(|&point| Circle::new(point, 3, colour.filled())))?;
        }
    }
    chart
        .configure_series_labels()
        // Where the curves of a run that learns are not: loss falls, the others rise.
        .position(if rises { SeriesLabelPosition::LowerRight } else { SeriesLabelPosition::UpperRight })
        .background_style(WHITE.mix(0.85))
        .border_style(GRID)
        .label_font(("sans-serif", 14).into_font().color(&INK))
        .draw()?;
    Ok(())
}

/// The values with a little air around them; never empty.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    let air = ((high - low) * 0.08).max(high.abs() * 0.01).max(1e-3);
    (low - air, high + air)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::tests::metrics;

    #[test]
    fn the_picture_has_a_point_for_every_value() {
        let lines: Vec<Metrics> = (0..5).map(|round| metrics(round, 0.5 + 0.1 * round as f64)).collect();
        let text = svg("digits-1", &lines).unwrap();
        // Five of the accuracy, five of each of the two losses.
        assert_eq!(text.matches("<circle").count(), 15);
        for want in ["digits-1", "accuracy, %", "held-out loss", "training loss", "rounds", "</svg>"] {
            assert!(text.contains(want), "{want}");
        }
        assert!(!text.contains("NaN") && !text.contains("workers&apos;"), "{text}");
    }

    #[test]
    fn the_price_of_a_private_run_is_in_the_picture() {
        let lines: Vec<Metrics> = (0..5)
            .map(|round| Metrics { epsilon: Some(0.3 * (round + 1) as f64), ..metrics(round, 0.5) })
            .collect();
        let text = svg("digits-1", &lines).unwrap();
        assert_eq!(text.matches("<circle").count(), 20);
        assert!(text.contains("ε of all that was released") && text.contains("height=\"960\""), "{text}");
    }

    #[test]
    fn one_round_and_constant_values_can_be_drawn() {
        assert!(svg("x", &[metrics(0, 1.0)]).unwrap().contains("<circle"));
    }

    #[test]
    fn nothing_to_draw_is_said() {
        let bare = Metrics { eval_loss: None, eval_accuracy: None, train_loss: None, ..metrics(0, 0.0) };
        assert!(svg("x", &[bare]).unwrap_err().to_string().contains("nothing to draw"));
        let infinite =
            Metrics { eval_loss: None, eval_accuracy: None, train_loss: Some(f64::NAN), ..metrics(0, 0.0) };
        assert!(svg("x", &[infinite]).is_err());
    }
}

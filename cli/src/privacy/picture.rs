//! The trade-off curve and ε over the rounds, side by side.

use crate::{
    exit::{Code, Failure},
    plot::{BLUE, GRID, INK},
};
use plotters::{coord::Shift, prelude::*};

const SIZE: (u32, u32) = (1000, 480);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Points<'a> = &'a [(f64, f64)];
type Drawn = Result<(), Box<dyn std::error::Error>>;

/// Draws both.
///
/// # Errors
/// If no ε is finite.
pub(super) fn svg(
    title: &str,
    trade_off: &[(f64, f64)],
    epsilon: &[(u64, f64)],
    delta: f64,
) -> Result<String, Failure> {
    let finite: Vec<(f64, f64)> =
        epsilon.iter().filter(|point| point.1.is_finite()).map(|point| (point.0 as f64, point.1)).collect();
    if finite.is_empty() {
        return Err(Failure::new(
            Code::Failed,
            format!("no epsilon is finite at delta {delta:e}: nothing to draw"),
        ));
    }
    let mut text = String::new();
    draw(&mut text, title, (trade_off, &finite), delta)
        .map_err(|error| Failure::internal(format!("cannot draw: {error}")))?;
    Ok(text)
}

fn draw(text: &mut String, title: &str, (left, right): (Points<'_>, Points<'_>), delta: f64) -> Drawn {
    let root = SVGBackend::with_string(text, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let root = root.titled(title, ("sans-serif", 16).into_font().color(&INK))?;
    let areas = root.split_evenly((1, 2));
    let chance = [(0.0, 1.0), (1.0, 0.0)];
    panel(&areas[0], ("errors of the first kind", "errors of the second kind"), left, Some(&chance))?;
    panel(&areas[1], ("rounds", &format!("epsilon at delta {delta:e}")), right, None)?;
    root.present()?;
    Ok(())
}

fn panel(
    area: &Area<'_>,
    (x_label, y_label): (&str, &str),
    points: Points<'_>,
    beside: Option<Points<'_>>,
) -> Drawn {
    let all = || points.iter().chain(beside.unwrap_or_default());
    let right = all().map(|point| point.0).fold(1e-9, f64::max);
    let top = all().map(|point| point.1).fold(1e-9, f64::max);
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .x_label_area_size(38)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..right * 1.02, 0.0..top * 1.05)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(INK)
        .label_style(("sans-serif", 14).into_font().color(&INK))
        .x_desc(x_label)
        .y_desc(y_label)
        .x_labels(6)
        .y_labels(6)
        .draw()?;
    if let Some(beside) = beside {
        chart.draw_series(LineSeries::new(beside.iter().copied(), GRID.stroke_width(2)))?;
    }
    chart.draw_series(LineSeries::new(points.iter().copied(), BLUE.stroke_width(2)))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_curves_and_their_axes_are_there() {
        let text = svg("run", &[(0.0, 1.0), (0.5, 0.2), (1.0, 0.0)], &[(1, 0.5), (2, 0.8)], 1e-5).unwrap();
        for want in ["run", "first kind", "second kind", "epsilon at delta 1e-5", "rounds", "</svg>"] {
            assert!(text.contains(want), "{want}");
        }
        // The trade-off curve, what guessing gives, and epsilon, beside the axes.
        assert!(text.matches("<polyline").count() >= 3 && !text.contains("NaN"));
    }

    #[test]
    fn nothing_finite_is_said() {
        let failure = svg("run", &[(0.0, 1.0)], &[(1, f64::INFINITY)], 0.0).unwrap_err();
        assert!(failure.message.contains("nothing to draw"), "{failure}");
    }
}

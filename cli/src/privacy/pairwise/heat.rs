//! The matrix of pairs as a picture: a row for who learns, a column for about whom, darker for more.

use std::fmt::Write;

/// Side of the square of one matrix.
const SIDE: f64 = 420.0;
/// Room for labels, on all sides.
const MARGIN: f64 = 52.0;
/// With more peers than this, numbers would not fit the cells.
const NUMBERED: usize = 10;
/// With more peers than this, every so many are named.
const NAMED: usize = 24;

/// Draws titled matrices of ε side by side, in shades up to `most`.
pub(super) fn svg(matrices: &[(String, &[Vec<Option<f64>>])], most: f64) -> String {
    let (panel, height) = (SIDE + 2.0 * MARGIN, SIDE + 2.0 * MARGIN + 20.0);
    let width = panel * matrices.len() as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" fill=\"#3c4048\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (at, (title, rows)) in matrices.iter().enumerate() {
        let _ = writeln!(out, "<g transform=\"translate({},0)\">", at as f64 * panel);
        draw(&mut out, title, rows, most);
        out.push_str("</g>\n");
    }
    out.push_str("</svg>\n");
    out
}

fn draw(out: &mut String, title: &str, rows: &[Vec<Option<f64>>], most: f64) {
    let title = title.replace('&', "&amp;").replace('<', "&lt;");
    let (middle, cell) = (MARGIN + SIDE / 2.0, SIDE / rows.len().max(1) as f64);
    let text = |x: f64, y: f64, size: f64, words: &str| {
        format!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size:.0}\" text-anchor=\"middle\">{words}</text>\n"
        )
    };
    out.push_str(&text(middle, 22.0, 14.0, &title));
    out.push_str(&text(middle, SIDE + 2.0 * MARGIN - 14.0, 13.0, "about peer"));
    let _ = writeln!(
        out,
        "<text transform=\"translate(16,{middle}) rotate(-90)\" font-size=\"13\" text-anchor=\"middle\">peer that \
         learns</text>"
    );
    let every = rows.len().div_ceil(NAMED).max(1);
    for (v, row) in rows.iter().enumerate() {
        let y = MARGIN + v as f64 * cell;
        if v % every == 0 {
            out.push_str(&text(MARGIN - 14.0, y + cell / 2.0 + 4.0, 11.0, &v.to_string()));
            out.push_str(&text(MARGIN + (v as f64 + 0.5) * cell, SIDE + MARGIN + 16.0, 11.0, &v.to_string()));
        }
        for (u, epsilon) in row.iter().enumerate() {
            let x = MARGIN + u as f64 * cell;
            let share =
                epsilon.map(|epsilon| if most > 0.0 { (epsilon / most).clamp(0.0, 1.0) } else { 0.0 });
            let colour = share.map_or_else(|| "#e6e6e6".to_owned(), shade);
            let _ = writeln!(
                out,
                "<rect x=\"{x:.2}\" y=\"{y:.2}\" width=\"{cell:.2}\" height=\"{cell:.2}\" fill=\"{colour}\" \
                 stroke=\"white\" stroke-width=\"0.5\"/>"
            );
            if let Some(epsilon) = epsilon.filter(|_| rows.len() <= NUMBERED) {
                let ink = if share > Some(0.55) { "white" } else { "#3c4048" };
                let (x, y) = (x + cell / 2.0, y + cell / 2.0 + 4.0);
                let _ = writeln!(
                    out,
                    "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"11\" text-anchor=\"middle\" \
                     fill=\"{ink}\">{epsilon:.3}</text>"
                );
            }
        }
    }
    let scale = format!("white: 0; dark: {most:.4}, as everybody who sees all messages");
    out.push_str(&text(middle, SIDE + 2.0 * MARGIN + 6.0, 11.0, &scale));
}

/// From white to the blue of all drawings.
fn shade(share: f64) -> String {
    let mix = |dark: f64| (255.0 + (dark - 255.0) * share).round() as u8;
    format!("#{:02x}{:02x}{:02x}", mix(31.0), mix(100.0), mix(180.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_learned_has_its_shade_and_oneself_none() {
        let rows = vec![vec![None, Some(2.0)], vec![Some(0.5), None]];
        let text = svg(&[("a < b".to_owned(), &rows), ("b".to_owned(), &rows)], 2.0);
        assert!(text.contains("a &lt; b") && text.contains(&shade(1.0)) && text.contains(&shade(0.25)));
        assert_eq!(text.matches("#e6e6e6").count(), 4);
        assert_eq!(text.matches(">0.500<").count(), 2);
        assert_eq!((shade(0.0).as_str(), shade(1.0).as_str()), ("#ffffff", "#1f64b4"));
        assert!(!svg(&[("none".to_owned(), &rows)], 0.0).contains("NaN"));
    }
}

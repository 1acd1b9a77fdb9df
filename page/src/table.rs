//! Tables for people: columns as wide as their content, numbers to the right.

/// Lays out rows under a heading; columns whose cells are all numbers are aligned to the right.
pub fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let cell = |row: &[String], column: usize| row.get(column).cloned().unwrap_or_default();
    let columns: Vec<(usize, bool)> = (0..heading.len())
        .map(|column| {
            let cells = || rows.iter().map(|row| cell(row, column));
            let width = cells().map(|c| c.chars().count()).chain([heading[column].chars().count()]).max();
            (width.unwrap_or(0), !rows.is_empty() && cells().all(|c| is_number(&c)))
        })
        .collect();
    let line = |cells: &dyn Fn(usize) -> String| {
        let parts = columns.iter().enumerate().map(|(i, &(width, right))| {
            let text = cells(i);
            if right { format!("{text:>width$}") } else { format!("{text:<width$}") }
        });
        parts.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let head = std::iter::once(line(&|i| heading[i].to_owned()));
    head.chain(rows.iter().map(|row| line(&|i| cell(row, i)))).collect::<Vec<_>>().join("\n")
}

/// Lays out names and values, one a line.
pub fn pairs(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    rows.iter().map(|(name, value)| format!("{name:<width$}  {value}")).collect::<Vec<_>>().join("\n")
}

fn is_number(cell: &str) -> bool {
    cell.is_empty() || cell == "–" || cell.starts_with(|c: char| c.is_ascii_digit() || c == '-')
}

/// A byte count as people read it; powers of 1000.
pub fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 999.5 {
            return if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}

/// Seconds since 1970 as date and time (UTC).
pub fn instant(seconds: u64) -> String {
    let at = i64::try_from(seconds).ok().and_then(|s| time::OffsetDateTime::from_unix_timestamp(s).ok());
    at.map_or_else(
        || seconds.to_string(),
        |at| {
            let (date, h, m, s) = (at.date(), at.hour(), at.minute(), at.second());
            format!("{date} {h:02}:{m:02}:{s:02}Z")
        },
    )
}

/// A share as a percentage.
pub fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

/// A value that may be absent.
pub fn or_dash<T>(value: Option<T>, show: impl Fn(T) -> String) -> String {
    value.map_or_else(|| "–".to_owned(), show)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_right_and_words_left() {
        let rows = vec![vec!["a".into(), "9".into()], vec!["long".into(), "100".into()]];
        assert_eq!(table(&["name", "n"], &rows), "name    n\na       9\nlong  100");
    }

    #[test]
    fn bytes_in_words() {
        let words =
            [(0, "0 B"), (999, "999 B"), (1_000, "1.0 kB"), (1_740_000, "1.7 MB"), (5_000_000_000, "5.0 GB")];
        for (count, want) in words {
            assert_eq!(bytes(count), want);
        }
    }
}

//! Points of a sweep that differ in more than one key: `settings` under [sweep] is a list of tables, each laid over
//! the run file, with an optional `label`.

use toml::{Table, Value};

/// The key under [sweep].
pub(super) const SETTINGS: &str = "settings";
const LABEL: &str = "label";

/// Lays one of them over a run file; gives what the point is called.
pub(super) fn lay_over(table: &mut Table, settings: &Value, number: usize) -> Result<String, String> {
    let wrong = |what: &str| format!("sweep: `{SETTINGS}`, number {}: {what}", number + 1);
    let Value::Table(settings) = settings else { return Err(wrong("expected a table")) };
    let mut settings = settings.clone();
    let label = match settings.remove(LABEL) {
        None => format!("{SETTINGS}={}", number + 1),
        Some(Value::String(label)) if !label.is_empty() => label,
        Some(_) => return Err(wrong("`label`: expected a text")),
    };
    merge(table, settings);
    let clean = |c: char| if c.is_ascii_alphanumeric() || "._-=".contains(c) { c } else { '-' };
    Ok(label.chars().map(clean).collect())
}

/// Tables are merged, but for those that name a kind: another kind has other keys.
fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(into)), Value::Table(from)) if !from.contains_key("kind") => merge(into, from),
            (_, value) => drop(into.insert(key, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn laid(settings: &str) -> Result<(String, Table), String> {
        let base = "rounds=1\n[algorithm]\nkind='feddyn'\nprox=0.1\n[local]\nlr=0.1\nbatch=5";
        let mut table: Table = base.parse().unwrap();
        let settings = format!("x={settings}").parse::<Table>().unwrap().remove("x").unwrap();
        lay_over(&mut table, &settings, 2).map(|label| (label, table))
    }

    #[test]
    fn keys_are_laid_over_and_kinds_replaced() {
        let (label, table) = laid("{label='a b', algorithm={kind='fedsam'}, local={lr=0.2}}").unwrap();
        assert_eq!(label, "a-b");
        let want = "rounds=1\n[algorithm]\nkind='fedsam'\n[local]\nlr=0.2\nbatch=5";
        assert_eq!(table, want.parse().unwrap());
        assert_eq!(laid("{rounds=3}").unwrap().0, "settings=3");
        assert!(laid("3").unwrap_err().contains("number 3: expected a table"));
        assert!(laid("{label=3}").unwrap_err().contains("`label`"));
    }
}

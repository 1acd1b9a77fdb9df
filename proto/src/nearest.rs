//! "Did you mean": every unknown key or name is answered with the nearest known one.

/// The candidate nearest to `given`, if any is near enough to be a slip.
pub fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(given, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len().max(given.len()) / 3)
        .min()
        .map(|(_, candidate)| candidate)
}

/// A serde message about an unknown field or variant, with the nearest known one added.
pub fn explain(message: &str) -> String {
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let unknown = ["unknown field", "unknown variant"].iter().any(|start| message.contains(start));
    let (true, Some((given, known))) = (unknown, quoted.split_first()) else {
        return message.to_owned();
    };
    nearest(given, known.iter().copied())
        .map_or_else(|| message.to_owned(), |near| format!("{message} (did you mean `{near}`?)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_found_and_nonsense_is_not() {
        assert_eq!(nearest("rouds", ["name", "rounds", "seed"]), Some("rounds"));
        assert_eq!(nearest("quantum", ["name", "rounds", "seed"]), None);
    }

    #[test]
    fn serde_messages_gain_the_nearest_key() {
        let text = explain("unknown field `lrr`, expected one of `epochs`, `batch`, `lr`");
        assert!(text.ends_with("(did you mean `lr`?)"), "{text}");
        assert_eq!(explain("missing field `x`"), "missing field `x`");
    }
}

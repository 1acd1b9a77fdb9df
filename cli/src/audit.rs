//! `starling audit`: who did what, checked: each line of the log carries the digest of the line before.

use crate::{
    client::{Operator, Remote},
    exit::{Code, Failure},
    life, output, table,
};
use coordinator::access::audit::{Entry, digest};
use proto::v1::AuditEntry;
use serde_json::{Value, json};

/// Prints the audit log; JSON: one object a line, with sequence, time_ms, who, address, action, subject,
/// outcome, previous, digest.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Starts at this entry
    #[arg(long, value_name = "SEQUENCE", default_value_t = 0)]
    from: u64,
    #[command(flatten)]
    remote: Remote,
}

/// Prints the log.
pub(crate) fn main(args: &Args) -> Result<(), Failure> {
    life::runtime()?.block_on(async {
        let mut operator = Operator::connect(&args.remote.target).await?;
        let mut entries = operator.audit(args.from).await?;
        let mut before: Option<AuditEntry> = None;
        while let Some(entry) = entries.message().await.map_err(|status| operator.failure(&status))? {
            check(before.as_ref(), &entry, args.from)?;
            output::line(if args.remote.json { as_json(&entry) } else { as_text(&entry).into() })?;
            before = Some(entry);
        }
        Ok(())
    })
}

/// Whether a line follows the one before, unchanged.
fn check(before: Option<&AuditEntry>, entry: &AuditEntry, from: u64) -> Result<(), Failure> {
    let damaged = |why: &str| {
        let text = format!("audit log, entry {}: {why}; somebody changed the store", entry.sequence);
        Err(Failure::new(Code::Data, text))
    };
    let expected = before.map_or(from, |before| before.sequence + 1);
    if entry.sequence != expected {
        return damaged(&format!("expected entry {expected}"));
    }
    let Ok(parsed) = serde_json::from_str::<Entry>(&entry.body) else {
        return damaged("it cannot be read");
    };
    if digest(&entry.body) != entry.digest || before.is_some_and(|before| parsed.previous != before.digest) {
        return damaged("its digest is not the one that the log carries");
    }
    Ok(())
}

fn as_json(entry: &AuditEntry) -> Value {
    let mut all = match serde_json::from_str(&entry.body) {
        Ok(Value::Object(map)) => map,
        _ => serde_json::Map::new(),
    };
    all.insert("sequence".into(), entry.sequence.into());
    all.insert("digest".into(), json!(entry.digest));
    Value::Object(all)
}

fn as_text(entry: &AuditEntry) -> String {
    let Ok(parsed) = serde_json::from_str::<Entry>(&entry.body) else { return entry.body.clone() };
    let action = json!(parsed.action);
    format!(
        "{:>6}  {}  {:<24} {:<14} {}  {}{}",
        entry.sequence,
        table::instant(parsed.time_ms / 1_000),
        parsed.who,
        action.as_str().unwrap_or_default(),
        parsed.subject,
        parsed.outcome,
        if parsed.address.is_empty() { String::new() } else { format!("  from {}", parsed.address) },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(sequence: u64, previous: &str) -> AuditEntry {
        let body = json!({
            "time_ms": 1_000, "who": "operator anna", "address": "127.0.0.1:1", "action": "revoked",
            "subject": "worker w", "outcome": "ok", "previous": previous,
        })
        .to_string();
        AuditEntry { sequence, digest: digest(&body), body }
    }

    #[test]
    fn a_changed_or_missing_line_is_found() {
        let first = entry(0, "");
        let second = entry(1, &first.digest);
        check(None, &first, 0).unwrap();
        check(Some(&first), &second, 0).unwrap();
        let changed = AuditEntry { body: second.body.replace("anna", "bert"), ..second.clone() };
        let forged = AuditEntry { digest: digest(&changed.body), ..changed.clone() };
        for (before, bad) in [
            (Some(&first), &changed),
            (Some(&forged), &entry(2, &second.digest)),
            (Some(&first), &entry(2, &first.digest)),
            (None, &AuditEntry { body: "x".into(), digest: digest("x"), sequence: 0 }),
        ] {
            let failure = check(before, bad, 0).unwrap_err();
            assert_eq!(failure.code, Code::Data);
            assert!(failure.message.contains("audit log"), "{failure}");
        }
        assert!(as_text(&second).contains("operator anna") && as_text(&second).contains("worker w"));
        assert_eq!(as_json(&second)["sequence"], 1);
    }
}

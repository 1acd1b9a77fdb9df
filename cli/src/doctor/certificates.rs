//! Files of keys and certificates: there, whole, private, for the right holder, and not ended.

use super::Report;
use crate::table::instant;
use ::coordinator::Tls;
use identity::{Authority, Bundle, BundleError, Role, Validity};
use std::path::Path;
use x509_parser::prelude::{FromDer, X509Certificate};

const DAY_S: u64 = 24 * 3600;

/// What to do about an authority that ends.
const NEW_AUTHORITY: &str = "make a new authority with `starling ca init`; everybody must enrol with it, so do it \
                             before this one ends";

/// The authority's file of a coordinator, and what it can issue.
pub(super) fn authority(report: &mut Report, tls: &Tls, now: u64) {
    let file = tls.authority.display();
    let authority = match Authority::load(&tls.authority) {
        Ok(authority) => authority,
        Err(error) => {
            let otherwise =
                "name the file as `authority` under [tls]; `starling ca init --dir DIR` makes a new one";
            return report.fail("authority", &error, &advice(&error, otherwise));
        }
    };
    report.ok("authority", format!("{file}, private; its key belongs to it"));
    if !life(report, "authority's life", validity(authority.certificate()), now, NEW_AUTHORITY) {
        return;
    }
    let probe = Validity { from: now, until: authority.until() };
    match Bundle::issue(&authority, Role::Coordinator, "doctor", (&tls.hosts, probe)) {
        Ok(_) => report.ok("hosts", tls.hosts.join(", ")),
        Err(error) => report.fail("hosts", error, "correct `hosts` under [tls]"),
    }
}

/// A worker's certificate; `None`: there is none that can be used.
pub(super) fn worker(report: &mut Report, config: &::worker::Config, now: u64) -> Option<Bundle> {
    let file = config.identity_file();
    if !file.exists() && config.token.is_some() {
        report.ok("certificate", format!("{} is not there yet; the token gets it", file.display()));
        return None;
    }
    let get = "let an operator run `starling token create --role worker`, and start once with STARLING__TOKEN set \
               to what it prints";
    let bundle = load(report, &file, get)?;
    let holder = bundle.identity();
    if holder.role == Role::Worker && holder.name == config.name.as_str() {
        report.ok("holder", holder);
    } else {
        let text = format!("the certificate is for {holder}, this is worker `{}`", config.name);
        report.fail(
            "holder",
            text,
            "correct `name` or `identity`, or remove the file and enrol with a token",
        );
    }
    let renew = "a running worker renews it by itself after two thirds of its life: start it, or look for \
                 `was not renewed` in its log; when it has ended, enrol with a new token";
    lives(report, &bundle, now, renew);
    Some(bundle)
}

/// A person's or a program's certificate.
pub(super) fn client(report: &mut Report, file: &Path, now: u64) -> Option<Bundle> {
    let get = "`starling ca init` writes the first operator's, `starling identity enrol` gets others";
    let bundle = load(report, file, get)?;
    let holder = bundle.identity();
    if matches!(holder.role, Role::Operator | Role::Observer) {
        report.ok("holder", holder);
    } else {
        let advice = "use the certificate of an operator or an observer";
        report.fail("holder", format!("{holder} may not ask for runs"), advice);
    }
    lives(report, &bundle, now, "enrol again with a token from an operator: `starling identity enrol`");
    Some(bundle)
}

fn load(report: &mut Report, file: &Path, get: &str) -> Option<Bundle> {
    match Bundle::load(file) {
        Ok(Some(bundle)) => {
            report.ok("certificate", format!("{}, private; its key belongs to it", file.display()));
            return Some(bundle);
        }
        Ok(None) => report.fail("certificate", format!("{}: no such file", file.display()), get),
        Err(error) => report.fail("certificate", &error, &advice(&error, get)),
    }
    None
}

fn advice(error: &BundleError, otherwise: &str) -> String {
    match error {
        BundleError::File { .. } => otherwise.to_owned(),
        BundleError::Content { .. } => format!("restore the file from a copy; otherwise: {otherwise}"),
        BundleError::Readable { file, .. } => format!("run `chmod 600 {}`", file.display()),
    }
}

fn lives(report: &mut Report, bundle: &Bundle, now: u64, renew: &str) {
    let holder = bundle.identity();
    life(report, "certificate's life", Ok((holder.issued, holder.not_after)), now, renew);
    life(report, "authority's life", validity(bundle.authority()), now, NEW_AUTHORITY);
}

/// From when to when a certificate (DER) is valid: seconds since 1970.
fn validity(certificate: &[u8]) -> Result<(u64, u64), String> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
    let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
    Ok((seconds(parsed.validity().not_before), seconds(parsed.validity().not_after)))
}

/// Whether a certificate has not ended; warns in the last third of its life.
fn life(
    report: &mut Report,
    what: &str,
    validity: Result<(u64, u64), String>,
    now: u64,
    advice: &str,
) -> bool {
    let (from, until) = match validity {
        Ok(validity) => validity,
        Err(error) => {
            report.fail(what, error, advice);
            return false;
        }
    };
    let Some(left) = until.checked_sub(now).filter(|left| *left > 0) else {
        report.fail(what, format!("it ended at {}", instant(until)), advice);
        return false;
    };
    let left_text =
        if left < 2 * DAY_S { format!("{} hours", left / 3600) } else { format!("{} days", left / DAY_S) };
    let text = format!("{left_text} left, until {}", instant(until));
    if left.saturating_mul(3) < until.saturating_sub(from) {
        report.warn(what, format!("{text}: less than a third of its life"), advice);
    } else {
        report.ok(what, text);
    }
    true
}

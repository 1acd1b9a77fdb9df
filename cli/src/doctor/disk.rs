//! Whether what a process keeps can be written, and the data that it names can be read.

use super::Report;
use crate::table;
use ::worker::data::{DataInfo, Source};
use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::Path,
};

/// With less free space the store may fail within a few models.
const SPACE: u64 = 1 << 30;
/// Characters in a sequence of text; any will do to see the shape.
const SEQUENCE: usize = 80;

/// A folder that a process keeps things in: there, or can be made; writable; with space left.
pub(super) fn folder(report: &mut Report, what: &str, path: &Path) {
    let exists = path.exists();
    let place = path.ancestors().map(named).find(|place| place.exists()).unwrap_or(Path::new("."));
    let shown = path.display();
    if let Err(error) = try_write(place) {
        let advice = "give a folder that this user may write to, on a disk that works and is not full";
        return report.fail(what, format!("{shown}: cannot write into {}: {error}", place.display()), advice);
    }
    if exists {
        report.ok(what, format!("{shown} can be written to"));
    } else {
        report.ok(what, format!("{shown} does not exist yet and can be made in {}", place.display()));
    }
    match rustix::fs::statvfs(place) {
        Ok(of) => space(report, of.f_bavail.saturating_mul(of.f_frsize)),
        Err(error) => report.warn("free space", format!("{shown}: {error}"), "look with `df`"),
    }
}

/// The current folder has no name among a relative path's ancestors.
fn named(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

/// Writes and syncs a small file without a name, which is gone when it is closed.
fn try_write(folder: &Path) -> io::Result<()> {
    let mut file = tempfile::tempfile_in(folder)?;
    file.write_all(&[0x5a; 4096])?;
    file.sync_all()
}

pub(super) fn space(report: &mut Report, free: u64) {
    if free < SPACE {
        let advice =
            "make room, or use a larger disk: each round writes a model before the last one is removed";
        report.warn("free space", table::bytes(free), advice);
    } else {
        report.ok("free space", table::bytes(free));
    }
}

/// The shape of each data set.
pub(super) fn data_sets(report: &mut Report, sources: &BTreeMap<String, Source>) {
    for (name, source) in sources {
        let what = format!("data `{name}`");
        match source.info(SEQUENCE) {
            Ok(info) => report.ok(&what, words(&info)),
            Err(error) => {
                let advice = format!(
                    "correct [data.{name}]; a relative path starts at the working directory of the process"
                );
                report.fail(&what, error, &advice);
            }
        }
    }
}

fn words(info: &DataInfo) -> String {
    match info {
        DataInfo::Images { channels, height, width, classes } => {
            format!("images of {channels} × {height} × {width}, {classes} classes")
        }
        DataInfo::Features { dimension, classes } => format!("{dimension} features, {classes} classes"),
        DataInfo::Text { vocabulary, .. } => format!("text of {vocabulary} characters"),
    }
}

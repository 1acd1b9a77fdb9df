//! Printing and writing files without panics: a closed pipe ends a command quietly, and a file is
//! either the old one or the whole new one.

use crate::exit::{Code, Failure};
use std::{
    fmt::Display,
    fs::Permissions,
    io::{ErrorKind, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
};

/// One line on stdout.
pub(crate) fn line(text: impl Display) -> Result<(), Failure> {
    writeln!(std::io::stdout().lock(), "{text}").map_err(|error| match error.kind() {
        // `starling run list | head` is no mistake worth a message.
        ErrorKind::BrokenPipe => Failure::new(Code::Internal, ""),
        _ => Failure::internal(format!("cannot write to stdout: {error}")),
    })
}

/// One line on stderr: for people, beside the result.
pub(crate) fn note(text: impl Display) {
    // A closed stderr is the reader's choice.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Writes a file whole: into a temporary neighbour, synced, then renamed.
pub(crate) fn write_file(path: &Path, replace: bool, bytes: &[&[u8]]) -> Result<(), Failure> {
    refuse_existing(path, replace)?;
    let cannot = |error: std::io::Error| {
        Failure::new(Code::Create, format!("cannot write {}: {error}", path.display()))
    };
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(".starling-")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder)
        .map_err(cannot)?;
    bytes.iter().try_for_each(|part| file.write_all(part)).map_err(cannot)?;
    file.as_file().sync_all().map_err(cannot)?;
    if replace { file.persist(path) } else { file.persist_noclobber(path) }
        .map_err(|error| cannot(error.error))?;
    Ok(())
}

/// Fails early, before minutes of work, when a file would be overwritten.
pub(crate) fn refuse_existing(path: &Path, replace: bool) -> Result<(), Failure> {
    if replace || !path.exists() {
        return Ok(());
    }
    let text = format!("{} exists already; use --force to replace it, or another name", path.display());
    Err(Failure::new(Code::Create, text))
}

/// Reads a text file that a person named.
pub(crate) fn read_text(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path)
        .map_err(|error| Failure::new(Code::NotFound, format!("cannot read {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_only_when_asked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        write_file(&path, false, &[b"one", b" two"]).unwrap();
        assert_eq!(read_text(&path).unwrap(), "one two");
        let refused = write_file(&path, false, &[b"three"]).unwrap_err();
        assert_eq!(refused.code, Code::Create);
        assert!(refused.message.contains("--force"), "{refused}");
        write_file(&path, true, &[b"three"]).unwrap();
        assert_eq!(read_text(&path).unwrap(), "three");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_missing_folder_is_named() {
        let refused = write_file(Path::new("no/such/folder/x"), false, &[b""]).unwrap_err();
        assert!(refused.message.contains("no/such/folder/x"), "{refused}");
        assert_eq!(read_text(Path::new("no/such")).unwrap_err().code, Code::NotFound);
    }
}

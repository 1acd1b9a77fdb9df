//! Everything that reads bytes which a peer, a file or a person may have damaged, as functions that take
//! any bytes: the fuzz targets of `fuzz/` and the properties of `tests/tests/decoders.rs` are these.
//!
//! None may panic, and what is accepted must survive being written and read again. Where a checksum would
//! turn all but valid inputs away, it is made right here, so that what stands behind it is reached.

mod files;
mod packed;
mod wire;

use std::fs;

/// A decoder: takes any bytes, says whether it accepts them, panics if a promise is broken.
pub type Decoder = fn(&[u8]) -> bool;

/// All of them, by the names of the fuzz targets.
pub const DECODERS: &[(&str, Decoder)] = &[
    ("chunks", wire::chunks),
    ("messages", wire::messages),
    ("header", wire::header),
    ("compressed", packed::compressed),
    ("assignment", wire::assignment),
    ("run_toml", wire::run_toml),
    ("run_json", wire::run_json),
    ("names", wire::names),
    ("token", wire::token),
    ("revocations", wire::revocations),
    ("event", wire::event),
    ("bundle", files::bundle),
    ("state", files::state),
    ("idx", files::idx),
    ("cifar", files::cifar),
    ("parquet", files::parquet),
    ("images", files::images),
    ("csv", files::csv),
    ("text", files::text),
];

/// The decoder of a name.
///
/// # Panics
/// If there is none.
pub fn decoder(name: &str) -> Decoder {
    let found = DECODERS.iter().find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("no decoder `{name}`")).1
}

/// Valid inputs of a decoder, to start from.
pub fn samples(name: &str) -> Vec<Vec<u8>> {
    match name {
        "run_toml" | "run_json" | "assignment" => wire::samples(name),
        "token" => vec![identity::Token::create(identity::Fingerprint::of(b"a")).text().into_bytes()],
        "revocations" => vec![wire::a_list()],
        "event" => wire::events(),
        "bundle" | "state" | "idx" | "cifar" | "parquet" | "images" | "csv" | "text" => files::samples(name),
        "messages" => wire::an_upload(),
        "compressed" => packed::samples(),
        "names" => vec![b"worker-1".to_vec()],
        // Rule, no liberties, round, examples, steps; zeros follow.
        "header" => vec![[&[0; 10][..], &[5, 1, 0, 0, 0]].concat()],
        _ => wire::a_transfer(),
    }
}

/// Writes the samples of every decoder into `folder/NAME/`, where a fuzzer looks for them.
///
/// # Errors
/// As the operating system says.
pub fn write_samples(folder: &std::path::Path) -> std::io::Result<()> {
    for (name, _) in DECODERS {
        let folder = folder.join(name);
        fs::create_dir_all(&folder)?;
        for (number, sample) in samples(name).iter().enumerate() {
            fs::write(folder.join(format!("sample-{number}")), sample)?;
        }
    }
    Ok(())
}

/// Takes values off the front of bytes; zeros once they are used up.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let taken = self.0.len().min(N);
        let (head, tail) = self.0.split_at(taken);
        array[..taken].copy_from_slice(head);
        self.0 = tail;
        array
    }

    fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    fn word(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let taken = self.0.len().min(length);
        let (head, tail) = self.0.split_at(taken);
        self.0 = tail;
        head.to_vec()
    }

    fn text(&mut self, length: usize) -> String {
        String::from_utf8_lossy(&self.bytes(length)).into_owned()
    }
}

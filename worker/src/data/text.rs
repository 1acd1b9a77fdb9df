//! Text as windows of characters, by speaker where the text has speakers.
//!
//! The alphabet is fixed, not collected from the data: clients must agree on it without showing each
//! other their texts. Bytes that are no UTF-8 and characters outside the alphabet become one unknown.

use std::collections::BTreeMap;
use std::path::Path;

use super::augment::Augment;
use super::dataset::{Dataset, KeyColumn, Normalisation, Parts, Store};
use super::{DataError, DataInfo, Split, TextKey};

/// Size of the alphabet: line feed, printable ASCII (32 to 126), unknown.
pub(crate) const VOCABULARY: usize = 97;

/// A line that opens a speech is no longer than this, characters.
const LONGEST_NAME: usize = 60;

/// Most characters of a text; window positions are 32-bit.
const LONGEST_TEXT: usize = u32::MAX as usize;

/// Loads the windows of one split: per speaker, the last tenth (at least one) is the test split.
///
/// A window is `sequence` characters, of which the next is the target of the last. Windows do not
/// overlap. Speakers with fewer than two windows are left out: they cannot be in both splits.
pub(crate) fn load(path: &Path, key: TextKey, split: Split, sequence: usize) -> Result<Dataset, DataError> {
    if sequence == 0 || sequence > LONGEST_TEXT {
        let expected = "at least 1 character".to_owned();
        return Err(DataError::Config { key: "sequence", value: sequence.to_string(), expected });
    }
    let bytes = std::fs::read(path).map_err(DataError::read(path))?;
    if bytes.len() > LONGEST_TEXT {
        let problem = format!("{} bytes", bytes.len());
        return Err(DataError::malformed(path, problem, format!("at most {LONGEST_TEXT}")));
    }
    let text = String::from_utf8_lossy(&bytes);
    let streams = match key {
        TextKey::None => vec![(String::new(), encode(&text))],
        TextKey::Speaker => {
            let streams = speeches(&text);
            if streams.is_empty() {
                let expected = "lines `NAME:` that open speeches, or `key = \"none\"`";
                return Err(DataError::malformed(path, "no speaker", expected));
            }
            streams
        }
    };
    let mut windows = Windows { sequence, split, ..Windows::default() };
    for (name, stream) in streams {
        windows.add(name, &stream);
    }
    if windows.starts.is_empty() {
        let problem = format!("no speaker (or text) has two windows of {sequence} characters");
        return Err(DataError::malformed(path, problem, "more text or a shorter `sequence`"));
    }
    let keys = (key == TextKey::Speaker).then_some(KeyColumn { names: windows.names, of: windows.of });
    Ok(Dataset::new(Parts {
        info: DataInfo::Text { vocabulary: VOCABULARY, sequence },
        store: Store::Windows { sequence, tokens: windows.tokens, starts: windows.starts },
        labels: Vec::new(),
        keys,
        normalisation: Normalisation { mean: Vec::new(), std: Vec::new() },
        augment: Augment::NONE,
    }))
}

/// Whether the text has speakers, for `detect`.
pub(crate) fn has_speakers(path: &Path) -> Result<bool, DataError> {
    let bytes = std::fs::read(path).map_err(DataError::read(path))?;
    Ok(!speeches(&String::from_utf8_lossy(&bytes)).is_empty())
}

struct Windows {
    sequence: usize,
    split: Split,
    tokens: Vec<u8>,
    starts: Vec<u32>,
    names: Vec<String>,
    of: Vec<u32>,
}

impl Default for Windows {
    fn default() -> Self {
        let (tokens, starts, names, of) = Default::default();
        Self { sequence: 1, split: Split::Train, tokens, starts, names, of }
    }
}

impl Windows {
    /// Adds the windows of one speaker that belong to the split.
    fn add(&mut self, name: String, stream: &[u8]) {
        let count = stream.len().saturating_sub(1) / self.sequence;
        if count < 2 {
            return;
        }
        let train = count - (count / 10).max(1);
        let range = match self.split {
            Split::Train => 0..train,
            Split::Test => train..count,
        };
        let key = self.names.len() as u32;
        let (from, to) = (range.start * self.sequence, range.end * self.sequence);
        let base = self.tokens.len();
        self.tokens.extend_from_slice(&stream[from..=to]);
        for window in 0..range.len() {
            self.starts.push((base + window * self.sequence) as u32);
            self.of.push(key);
        }
        self.names.push(name);
    }
}

/// The speeches of each speaker, joined in order; speakers in order of first appearance.
///
/// A block is a run of lines without an empty one. A first line `NAME:` opens a speech; a block
/// without one continues the speech before it. Text before the first speaker belongs to nobody.
fn speeches(text: &str) -> Vec<(String, Vec<u8>)> {
    let mut speakers: Vec<(String, Vec<u8>)> = Vec::new();
    let mut index: BTreeMap<&str, usize> = BTreeMap::new();
    let mut current = None;
    let mut opens = true;
    for line in text.lines() {
        let name = line.strip_suffix(':').filter(|n| opens && !n.is_empty() && n.len() <= LONGEST_NAME);
        opens = line.is_empty();
        if let Some(name) = name {
            current = Some(*index.entry(name).or_insert_with(|| {
                speakers.push((name.to_owned(), Vec::new()));
                speakers.len() - 1
            }));
        } else if let (Some(speaker), false) = (current, line.is_empty()) {
            let stream = &mut speakers[speaker].1;
            stream.extend(line.chars().map(symbol));
            stream.push(symbol('\n'));
        }
    }
    speakers
}

fn encode(text: &str) -> Vec<u8> {
    // `\r\n` is one line feed, as in `str::lines`.
    let chars = text.chars();
    chars.filter(|&c| c != '\r').map(symbol).collect()
}

/// The number of a character: 0 for a line feed, 1 to 95 for printable ASCII, 96 for all others.
fn symbol(c: char) -> u8 {
    match c {
        '\n' => 0,
        ' '..='~' => c as u8 - b' ' + 1,
        _ => 96,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(tokens: &[u8]) -> String {
        tokens.iter().map(|&t| if t == 0 { '\n' } else { char::from(t - 1 + b' ') }).collect()
    }

    #[test]
    fn speeches_are_joined_by_speaker() {
        let text = "Prologue\n\nANN:\nHello:\nyou\n\nBob B:\nHi.\n\nstill Bob\n\nANN:\nBye\n";
        let found: Vec<(String, String)> =
            speeches(text).into_iter().map(|(name, stream)| (name, decode(&stream))).collect();
        let expected = [("ANN", "Hello:\nyou\nBye\n"), ("Bob B", "Hi.\nstill Bob\n")];
        assert_eq!(found, expected.map(|(n, s)| (n.to_owned(), s.to_owned())));
    }

    #[test]
    fn the_alphabet_has_97_symbols() {
        let mut all: Vec<u8> = (0..=255u8).map(|b| symbol(char::from(b))).collect();
        all.sort_unstable();
        all.dedup();
        assert!(all.into_iter().map(usize::from).eq(0..VOCABULARY));
        assert_eq!((symbol(' '), symbol('~'), symbol('é')), (1, 95, 96));
    }

    proptest! {
        #[test]
        fn windows_cover_each_stream_once(length in 0usize..400, sequence in 1usize..50) {
            let stream: Vec<u8> = (0..length).map(|i| (i % 97) as u8).collect();
            let mut inputs = Vec::new();
            for split in [Split::Train, Split::Test] {
                let mut windows = Windows { sequence, split, ..Windows::default() };
                windows.add("x".into(), &stream);
                for &start in &windows.starts {
                    let start = start as usize;
                    inputs.extend_from_slice(&windows.tokens[start..start + sequence]);
                    prop_assert!(start + sequence < windows.tokens.len());
                }
            }
            let count = length.saturating_sub(1) / sequence;
            let expected = if count < 2 { 0 } else { count * sequence };
            prop_assert_eq!(inputs, &stream[..expected]);
        }
    }
}

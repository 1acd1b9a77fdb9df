//! Whatever a peer, a file or a person hands in: no decoder panics, and what it accepts it can write.
//! The same functions are fuzzed for longer in `fuzz/`.

use proptest::{collection::vec, prelude::*, sample::Index, test_runner::TestRunner};
use starling_tests::decoders::{DECODERS, samples, write_samples};

/// Bytes that lead nowhere, and valid ones that are damaged in a few places.
fn inputs(name: &str) -> impl Strategy<Value = Vec<u8>> + use<> {
    let samples = samples(name);
    assert!(!samples.is_empty(), "{name} has no sample");
    let damaged = (any::<Index>(), vec((any::<Index>(), any::<u8>()), 0..4), any::<Option<Index>>());
    let damaged = damaged.prop_map(move |(which, changes, cut)| {
        let mut bytes = which.get(&samples).clone();
        for (at, value) in changes {
            *at.get_mut(&mut bytes) = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        bytes
    });
    prop_oneof![1 => vec(any::<u8>(), 0..600), 3 => damaged]
}

#[test]
fn no_decoder_panics() {
    for (name, decode) in DECODERS {
        let config = ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() };
        let outcome = TestRunner::new(config).run(&inputs(name), |bytes| {
            decode(&bytes);
            Ok(())
        });
        assert!(outcome.is_ok(), "{name}: {outcome:?}");
    }
}

/// An upload in more frames than a stream that yields now and then gives at once.
#[test]
fn empty_messages_in_frames_of_a_byte() {
    let messages = DECODERS.iter().find(|(name, _)| *name == "messages").expect("there is one").1;
    assert!(messages(&[[0].as_slice(), &[0; 5 * 20]].concat()));
}

/// A sample that is refused would make the test above easy. `STARLING_SAMPLES=fuzz/corpus` writes them
/// where the fuzz targets look for them.
#[test]
fn samples_are_accepted() {
    for (name, decode) in DECODERS {
        for (number, sample) in samples(name).iter().enumerate() {
            assert!(decode(sample), "{name}: sample {number} is refused");
        }
    }
    if let Ok(folder) = std::env::var("STARLING_SAMPLES") {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        write_samples(&root.join(folder)).expect("the folder can be written");
    }
}

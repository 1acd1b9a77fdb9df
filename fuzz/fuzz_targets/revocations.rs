//! Fuzzes the decoder `revocations` of `tests/src/decoders`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    starling_tests::decoders::decoder("revocations")(data);
});

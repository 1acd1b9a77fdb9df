//! Fuzzes the decoder `header` of `tests/src/decoders`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    starling_tests::decoders::decoder("header")(data);
});

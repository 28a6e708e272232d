//! What an administrator may ask, and what nodes may answer.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| eaves_fuzz::bounded(
    input,
    eaves::fuzzing::admin_requests
));

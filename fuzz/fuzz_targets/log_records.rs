//! Bytes in the files of a log, and frames.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| eaves_fuzz::bounded(
    input,
    eaves_log::fuzzing::log_records
));

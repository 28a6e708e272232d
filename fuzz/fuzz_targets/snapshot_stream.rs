//! A snapshot as it comes from a peer: what its chunks must be, and the chunks.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| eaves_fuzz::bounded(input, |input| {
    eaves::fuzzing::snapshot_chunks(input);
    eaves_kv::store::fuzzing::snapshot_records(input);
}));

//! What a client may write, applied to a store.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| eaves_fuzz::bounded(
    input,
    eaves_kv::store::fuzzing::etcd_requests
));

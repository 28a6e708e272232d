//! What a peer may send.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| eaves_fuzz::bounded(input, eaves::fuzzing::peer_frames));

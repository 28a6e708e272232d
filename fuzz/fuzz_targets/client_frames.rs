//! What a client may send on an HTTP/2 connection.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| eaves_fuzz::bounded(
    input,
    eaves_http2::fuzzing::client_frames
));

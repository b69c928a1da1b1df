#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| getty_fuzz::session_framed(data));

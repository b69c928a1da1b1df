#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| getty_fuzz::detect_ws(data));

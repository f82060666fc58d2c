//! libFuzzer's entry to the target `proxy`.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| hikyaku_fuzz::run("proxy", octets));

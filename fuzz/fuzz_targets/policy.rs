//! libFuzzer's entry to the target `policy`.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| hikyaku_fuzz::run("policy", octets));

//! libFuzzer's entry to the target `bounce`.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| hikyaku_fuzz::run("bounce", octets));

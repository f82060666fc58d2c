//! libFuzzer's entry to the target `command`.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| hikyaku_fuzz::run("command", octets));

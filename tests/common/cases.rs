//! How many cases a test of bad input ran, for the table of `tests/hostile`, and how large the full size is.
#![allow(dead_code)]

/// Says it; the script adds up what is said in this form.
pub fn cases(count: usize) {
    println!("cases: {count}");
}

/// The size of a test: HIKYAKU_FULL asks for the long one.
pub fn sized(quick: usize, full: usize) -> usize {
    if std::env::var_os("HIKYAKU_FULL").is_some() { full } else { quick }
}

//! The configuration: one TOML file, every option with a default, errors that name file, key and allowed range.
pub mod units;

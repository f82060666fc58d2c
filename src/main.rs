//! The hikyaku command.

fn main() {}

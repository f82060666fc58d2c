//! Bad input (docs/security.md has the table): what clients, receivers, DNS and operators' files may say.
//!
//! Each file holds a row or a part of one; rows that sessions alone can hold are in `tests/submission` and `tests/security`.
//! Quick sizes run with the other tests; `tests/hostile` runs every row, the full sizes (HIKYAKU_FULL=1) too, and prints the
//! table with the cases that each row ran.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]
#![allow(missing_docs)]

#[path = "../common/cases.rs"]
mod cases;
#[allow(dead_code, reason = "the tests of submission need more of it")]
#[path = "../submission/driver.rs"]
mod driver;
#[path = "../common/errand.rs"]
mod errand;
#[path = "../common/fake_mx.rs"]
mod fake_mx;
#[path = "../common/hostile.rs"]
mod hostile;
#[allow(dead_code, reason = "the receivers of the interoperation tests need more of it")]
#[path = "../interop/packages.rs"]
mod packages;
#[path = "../common/port.rs"]
mod port;
mod process;
#[path = "../common/skip.rs"]
mod skip;
#[path = "../../fuzz/src/lib.rs"]
mod targets;

mod eight_bit;
mod everywhere;
mod fuzz;
mod loops;
mod memory;
mod names;
mod onward;
mod replies;
mod sequences;
mod smtp_sink;
mod tenants;

//! The controller as a whole.
use super::*;

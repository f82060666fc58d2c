//! The provider map.

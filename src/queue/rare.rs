//! A value that is mostly not there and is asked for with every message, by many at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::{ArcSwapOption, Guard};

/// As [`ArcSwapOption`]; that there is none costs one load of a flag.
#[derive(Debug)]
pub(super) struct Rare<T> {
    value: ArcSwapOption<T>,
    is_there: AtomicBool,
}

/// What was found.
pub(super) struct Found<T>(Option<Guard<Option<Arc<T>>>>);

impl<T> Rare<T> {
    /// A value from the beginning, or none.
    pub fn new(value: Option<Arc<T>>) -> Self {
        Self { is_there: AtomicBool::new(value.is_some()), value: ArcSwapOption::new(value) }
    }

    /// Puts another in its place, or none.
    pub fn store(&self, value: Option<Arc<T>>) {
        let is_there = value.is_some();
        self.value.store(value);
        self.is_there.store(is_there, Ordering::Release);
    }

    /// What is there now.
    pub fn load(&self) -> Found<T> {
        Found(self.is_there.load(Ordering::Acquire).then(|| self.value.load()))
    }

    /// The same to be kept.
    pub fn load_full(&self) -> Option<Arc<T>> {
        self.is_there.load(Ordering::Acquire).then(|| self.value.load_full()).flatten()
    }
}

impl<T> Found<T> {
    /// The value.
    pub fn as_deref(&self) -> Option<&T> {
        self.0.as_ref().and_then(|guard| guard.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_last_is_found() {
        let rare = Rare::new(None);
        assert_eq!((rare.load().as_deref(), rare.load_full()), (None, None));

        rare.store(Some(Arc::new(1)));
        let before = rare.load();
        rare.store(Some(Arc::new(2)));
        assert_eq!(
            (before.as_deref(), rare.load().as_deref(), rare.load_full()),
            (Some(&1), Some(&2), Some(Arc::new(2)))
        );

        rare.store(None);
        assert_eq!((rare.load().as_deref(), rare.load_full()), (None, None));
    }
}

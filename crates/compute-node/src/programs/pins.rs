//! What is in use and must not be evicted.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex};

/// Counts who uses what.
#[derive(Debug)]
pub(crate) struct Pins<K>(Arc<Mutex<HashMap<K, usize>>>);

/// One use; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Pin<K: Eq + Hash> {
    key: Option<K>,
    pins: Pins<K>,
}

impl<K> Default for Pins<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K> Clone for Pins<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Eq + Hash + Clone> Pins<K> {
    /// Begins a use.
    pub(crate) fn pin(&self, key: K) -> Pin<K> {
        *self.0.lock().expect("no code panics while it holds this lock").entry(key.clone()).or_default() += 1;
        Pin { key: Some(key), pins: self.clone() }
    }

    /// What is in use now.
    pub(crate) fn held(&self) -> Vec<K> {
        self.0.lock().expect("no code panics while it holds this lock").keys().cloned().collect()
    }
}

impl<K: Eq + Hash + Clone> Clone for Pin<K> {
    fn clone(&self) -> Self {
        self.pins.pin(self.key.clone().expect("it is taken only when dropped"))
    }
}

impl<K: Eq + Hash> Drop for Pin<K> {
    fn drop(&mut self) {
        let mut pins = self.pins.0.lock().expect("no code panics while it holds this lock");
        let Some(key) = self.key.take() else { return };
        if let Some(count) = pins.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thing_is_held_until_its_last_use_ends() {
        let pins = Pins::default();
        let first = pins.pin("a");
        let second = first.clone();
        drop(first);
        assert_eq!(pins.held(), ["a"]);
        drop(second);
        assert!(pins.held().is_empty());
    }
}

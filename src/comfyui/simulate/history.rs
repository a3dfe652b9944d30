//! The history of executed prompts: bounded, oldest out first, one entry per prompt id.

use serde_json::{Map, Value};
use std::collections::VecDeque;
use std::sync::Arc;

/// Entries kept (ComfyUI 0.3.64: 10,000).
pub(super) const MOST_ENTRIES: usize = 10_000;
/// Bytes of graphs kept; past that the oldest entries go, so that large graphs cannot fill the memory.
const MOST_BYTES: usize = 256 * 1024 * 1024;

/// What has been executed, oldest first.
#[derive(Default)]
pub(super) struct History {
    entries: VecDeque<Entry>,
    bytes: usize,
}

struct Entry {
    id: String,
    value: Arc<Value>,
    bytes: usize,
}

impl History {
    /// Adds an entry of about `bytes` bytes; one with the same id is replaced where it stands.
    pub(super) fn insert(&mut self, id: String, value: Value, bytes: usize) {
        let entry = Entry {
            id,
            value: Arc::new(value),
            bytes,
        };
        self.bytes += bytes;
        match self.entries.iter_mut().find(|old| old.id == entry.id) {
            Some(old) => {
                self.bytes -= old.bytes;
                *old = entry;
            }
            None => self.entries.push_back(entry),
        }
        while self.entries.len() > MOST_ENTRIES
            || (self.bytes > MOST_BYTES && self.entries.len() > 1)
        {
            if let Some(oldest) = self.entries.pop_front() {
                self.bytes -= oldest.bytes;
            }
        }
    }

    /// The entry of this id, as `/history/{id}` gives it: a map with it, or an empty one.
    pub(super) fn one(&self, id: &str) -> Map<String, Value> {
        let found = self.entries.iter().find(|entry| entry.id == id);
        found
            .map(|entry| (entry.id.clone(), Value::clone(&entry.value)))
            .into_iter()
            .collect()
    }

    /// At most `most` entries from `offset` on; a missing offset means the newest `most`.
    pub(super) fn list(&self, most: Option<usize>, offset: Option<usize>) -> Map<String, Value> {
        let most = most.unwrap_or(usize::MAX);
        let offset = offset.unwrap_or_else(|| self.entries.len().saturating_sub(most));
        let wanted = self.entries.iter().skip(offset).take(most);
        wanted
            .map(|entry| (entry.id.clone(), Value::clone(&entry.value)))
            .collect()
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Forgets this id.
    pub(super) fn delete(&mut self, id: &str) {
        if let Some(at) = self.entries.iter().position(|entry| entry.id == id)
            && let Some(entry) = self.entries.remove(at)
        {
            self.bytes -= entry.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(map: &Map<String, Value>) -> Vec<&str> {
        map.keys().map(String::as_str).collect()
    }

    #[test]
    fn the_newest_are_given_unless_an_offset_is() {
        let mut history = History::default();
        for number in 0..5 {
            history.insert(number.to_string(), Value::from(number), 1);
        }
        assert_eq!(ids(&history.list(Some(2), None)), ["3", "4"]);
        assert_eq!(ids(&history.list(Some(2), Some(1))), ["1", "2"]);
        assert_eq!(ids(&history.list(None, None)).len(), 5);
        history.insert("1".into(), Value::from("again"), 1);
        assert_eq!(history.list(None, None).values().nth(1).unwrap(), "again");
        history.delete("1");
        assert!(history.one("1").is_empty());
        assert_eq!(history.bytes, 4);
    }

    #[test]
    fn it_is_bounded_by_number_and_by_bytes() {
        let mut history = History::default();
        for number in 0..MOST_ENTRIES + 10 {
            history.insert(number.to_string(), Value::Null, 1);
        }
        assert_eq!(history.entries.len(), MOST_ENTRIES);
        assert!(history.one("9").is_empty());
        history.insert("large".into(), Value::Null, MOST_BYTES);
        assert_eq!(ids(&history.list(None, None)), ["large"]);
    }
}

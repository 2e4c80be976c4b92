//! What the store holds and hands out: entries, events, expectations.
use std::any::Any;
use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

/// The position of a change in the one order of all changes; the first is 1.
pub type Revision = u64;

/// One key's value at one revision. Cloning copies a pointer.
#[derive(Clone)]
pub struct Entry(Arc<Inner>);

struct Inner {
    key: Arc<str>,
    value: Bytes,
    created: Revision,
    revision: Revision,
    /// Whatever a reader derived from the value, kept for the next reader.
    memo: OnceLock<Box<dyn Any + Send + Sync>>,
}

impl Entry {
    pub(super) fn new(key: Arc<str>, value: Bytes, created: Revision, revision: Revision) -> Self {
        Self(Arc::new(Inner { key, value, created, revision, memo: OnceLock::new() }))
    }

    /// The key.
    pub fn key(&self) -> &str {
        &self.0.key
    }

    pub(super) fn shared_key(&self) -> Arc<str> {
        self.0.key.clone()
    }

    /// The bytes, as the writer made them.
    pub fn value(&self) -> &Bytes {
        &self.0.value
    }

    /// The revision at which the key came into being (again).
    pub fn created(&self) -> Revision {
        self.0.created
    }

    /// The revision of the change that made this value.
    pub fn revision(&self) -> Revision {
        self.0.revision
    }

    /// Something derived from the value, computed by the first who asks and kept as long as the entry. There is
    /// room for one such thing; asking for another type computes nothing and gives `None`.
    pub fn memo<T: Send + Sync + 'static>(&self, derive: impl FnOnce(&Bytes) -> T) -> Option<&T> {
        self.0.memo.get_or_init(|| Box::new(derive(&self.0.value))).downcast_ref()
    }
}

impl fmt::Debug for Entry {
    /// Never the value: it may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.0.key, self.0.revision)
    }
}

/// What must be true of a key for a write to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// There is no such key.
    Absent,
    /// The key was last changed at this revision.
    Revision(Revision),
}

/// What a write does.
#[derive(Debug, Clone)]
pub enum Change {
    /// The key's new value.
    Put(Bytes),
    /// The key goes; the bytes are what watchers are shown last.
    Delete(Bytes),
}

/// One change, as watchers see it.
#[derive(Debug, Clone)]
pub struct Event {
    /// The new value or, of a deletion, the last one.
    pub entry: Entry,
    /// What was there before.
    pub previous: Option<Entry>,
    /// Whether the key is gone.
    pub deleted: bool,
}

impl Event {
    /// The revision of the change.
    pub fn revision(&self) -> Revision {
        self.entry.revision()
    }

    /// Bytes this event keeps alive. What it replaced is counted by the event that made it.
    pub(super) fn weight(&self) -> usize {
        self.entry.key().len() + self.entry.value().len() + size_of::<Event>() + size_of::<Inner>()
    }
}

/// A page of entries.
#[derive(Debug, Clone)]
pub struct Range {
    /// In key order.
    pub entries: Vec<Entry>,
    /// The revision they are of.
    pub revision: Revision,
    /// How many more there are after the last.
    pub remaining: usize,
}

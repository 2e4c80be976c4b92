//! Revisioned keys, in memory, durable on disk.
//!
//! The store is a map from key to bytes with one total order of changes. It knows nothing of Kubernetes:
//! a key is a path, a value is opaque, a revision is a number that grows by one with every change.
//!
//! ```text
//!  write(key, expect, make) ──▶ tail: check expect, take the next revision, make the bytes   (short lock)
//!                                 │ queue
//!                                 ▼
//!                               committer thread: everything queued = one durable transaction (log)
//!                                 │ on disk
//!                                 ▼
//!                               memory: map + history, then every watcher, then the waiting writers
//! ```
//!
//! **What holds.** A change is visible (to `get`, `range`, a watcher or its own writer) only once it is on disk,
//! and changes become visible in revision order. After a crash the map is exactly the acknowledged changes plus,
//! at most, changes that were on disk but whose writers had not been told yet.
//!
//! **Group commit.** While one transaction is being synced, everybody else queues; the next transaction takes the
//! whole queue. So the cost of a sync is shared by all who wait and latency is at most two syncs, however many write.
//! A queued write is checked against the changes queued before it (the *tail*), not against what readers see; a
//! conflict with a queued change is answered only when that change is visible, so that whoever reads again after a
//! conflict finds what it conflicted with.
//!
//! **History.** The last [`HISTORY_EVENTS`] changes (or [`HISTORY_BYTES`] of them) are kept with what they replaced.
//! A watch resumes by replaying them; a past revision is read by undoing them, newest first. On disk the same window
//! is kept: a record is deleted in the transaction in which the change that superseded it leaves the window.
//!
//! **Secrets.** Values below [`SEALED_PREFIX`] are encrypted on disk; in memory they are plain.
//!
//! Left out: leases and time-to-live (a controller ages events), multi-key transactions (no caller needs one),
//! compression, and a second process reading the same file (the file is locked).
mod commit;
mod entry;
mod log;
mod memory;
mod seal;
mod watch;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

pub use entry::{Change, Entry, Event, Expect, Range, Revision};
pub use watch::{Watch, WatchError};

/// How many changes can be replayed or undone. A watcher that was away longer lists again; with three nodes this
/// is an hour of idle heartbeats, or several hundred pod starts.
pub const HISTORY_EVENTS: usize = 8192;
/// How many bytes the history may hold: objects near the request limit must not exhaust memory.
pub const HISTORY_BYTES: usize = 8 << 20;
/// How many undelivered events a watcher may have before it is cut off. Past this it is cheaper to list again.
pub const WATCH_QUEUE: usize = 4096;
/// Values of keys below this prefix are encrypted on disk.
pub const SEALED_PREFIX: &str = "/registry/secrets/";

/// The longest key, in bytes: a record has two bytes for its length.
pub const MAX_KEY: usize = u16::MAX as usize;

/// Why the store did not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The key exists although it must not.
    #[error("key {0:?} already exists")]
    Exists(String),
    /// The key does not exist although it must.
    #[error("key {0:?} does not exist")]
    Missing(String),
    /// The key is at another revision than expected; the entry is what is there now.
    #[error("key {:?} is at revision {}", .0.key(), .0.revision())]
    Conflict(Entry),
    /// The asked-for revision has left the history.
    #[error("revision {asked} is too old, the oldest is {oldest}")]
    TooOld {
        /// What was asked for.
        asked: Revision,
        /// The oldest that can still be read or resumed from.
        oldest: Revision,
    },
    /// The asked-for revision has not happened yet.
    #[error("revision {asked} is in the future, the newest is {newest}")]
    Future {
        /// What was asked for.
        asked: Revision,
        /// The newest that is visible.
        newest: Revision,
    },
    /// The key has more than [`MAX_KEY`] bytes.
    #[error("the key is longer than {MAX_KEY} bytes")]
    LongKey,
    /// The disk refused; nothing can be written until the store is opened again.
    #[error("the store cannot write: {0}")]
    Failed(String),
    /// The file on disk is not what was written. It was left as it is.
    #[error(
        "the store at {path} is corrupt ({reason}); it was left untouched: restore it from a copy, or move it away to start empty"
    )]
    Corrupt {
        /// The file.
        path: String,
        /// What does not fit.
        reason: String,
    },
    /// Opening failed for a reason other than the file's content.
    #[error("cannot open the store at {path}: {reason}")]
    Open {
        /// The file or directory.
        path: String,
        /// The operating system's or database's words.
        reason: String,
    },
}

/// The store. Cheap to clone; the last clone to be dropped finishes what is queued and closes the file.
#[derive(Clone)]
pub struct Store {
    shared: Arc<commit::Committer>,
}

impl Store {
    /// Opens the store in directory `dir` (made, mode 0700, if missing), replaying what is on disk.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let (log, loaded) = log::Log::open(dir)?;
        Ok(Self { shared: Arc::new(commit::Committer::start(log, loaded)?) })
    }

    /// The newest visible revision. Zero means nothing was ever written.
    pub fn revision(&self) -> Revision {
        self.shared.memory().revision()
    }

    /// The entry at `key`.
    pub fn get(&self, key: &str) -> Option<Entry> {
        self.shared.memory().get(key)
    }

    /// The entries whose keys start with `prefix` and sort after `after`, at most `limit` of them (0: all), in key
    /// order, as of revision `at` (`None`: now).
    pub fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Range, StoreError> {
        self.shared.memory().range(prefix, after, limit, at)
    }

    /// Changes `key` if it is as expected. `make` is given the revision the change will have, so that the bytes can
    /// contain it; it runs under a lock and must only encode. Returns when the change is durable and visible.
    ///
    /// Once polled, the change happens even if the future is dropped.
    pub async fn write<F>(&self, key: &str, expect: Expect, make: F) -> Result<Entry, StoreError>
    where
        F: FnOnce(Revision) -> Change,
    {
        self.shared.write(key, expect, make).await
    }

    /// Follows changes below `prefix` that are newer than `from`.
    pub fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StoreError> {
        self.shared.memory_mut().watch(prefix, from)
    }

    /// Lists and follows in one step, with no change between the two.
    pub fn range_and_watch(&self, prefix: &str) -> Result<(Range, Watch), StoreError> {
        let mut memory = self.shared.memory_mut();
        let range = memory.range(prefix, None, 0, None)?;
        let watch = memory.watch(prefix, range.revision)?;
        Ok((range, watch))
    }
}

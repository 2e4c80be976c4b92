//! The visible state: the map, the history that can be replayed or undone, and who follows it.
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use tokio::sync::mpsc::{self, error::TrySendError};

use super::{Entry, Event, HISTORY_BYTES, HISTORY_EVENTS, Range, Revision, StoreError, Watch};

/// Everything readers see. Changed only by the committer.
#[derive(Default)]
pub(super) struct Memory {
    map: BTreeMap<Arc<str>, Entry>,
    history: VecDeque<Event>,
    /// Sum of the weights of `history`.
    weight: usize,
    /// The newest change that is no longer in `history`; the oldest revision that can be read.
    floor: Revision,
    revision: Revision,
    followers: Vec<Follower>,
}

struct Follower {
    prefix: String,
    queue: mpsc::Sender<Event>,
}

impl Memory {
    /// An empty memory whose history starts after `floor`.
    pub(super) fn new(floor: Revision) -> Self {
        Self { floor, revision: floor, ..Self::default() }
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    pub(super) fn get(&self, key: &str) -> Option<Entry> {
        self.map.get(key).cloned()
    }

    /// Makes a change visible. Changes at or below the floor (seen only when loading) leave no history.
    pub(super) fn apply(&mut self, event: Event) {
        let key = event.entry.shared_key();
        if event.deleted {
            self.map.remove(&key);
        } else {
            self.map.insert(key, event.entry.clone());
        }
        self.revision = self.revision.max(event.revision());
        if event.revision() <= self.floor {
            return;
        }
        self.followers.retain(|follower| follower.offer(&event));
        self.weight += event.weight();
        self.history.push_back(event);
    }

    /// The changes that must leave the history to bring it within its bounds once `incoming` events of `weight`
    /// bytes have joined it, oldest first. Pure: the committer deletes their records before [`Memory::forget`].
    pub(super) fn surplus(&self, incoming: usize, weight: usize) -> impl Iterator<Item = &Event> {
        let mut count = self.history.len() + incoming;
        let mut weight = self.weight + weight;
        self.history.iter().take_while(move |event| {
            let over = count > HISTORY_EVENTS || weight > HISTORY_BYTES;
            count -= 1;
            weight -= event.weight().min(weight);
            over
        })
    }

    /// Drops history up to and including `floor`.
    pub(super) fn forget(&mut self, floor: Revision) {
        while self.history.front().is_some_and(|e| e.revision() <= floor) {
            if let Some(event) = self.history.pop_front() {
                self.weight -= event.weight();
            }
        }
        self.floor = self.floor.max(floor);
    }

    /// See [`super::Store::range`].
    pub(super) fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Range, StoreError> {
        let at = at.unwrap_or(self.revision);
        self.check(at)?;
        let undone = self.undone(prefix, at);
        let limit = if limit == 0 { usize::MAX } else { limit };
        let mut range = Range { entries: Vec::new(), revision: at, remaining: 0 };
        let mut take = |entry: &Entry| {
            if range.entries.len() < limit {
                range.entries.push(entry.clone());
            } else {
                range.remaining += 1;
            }
        };
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let now = self.map.range::<str, _>((start, Bound::Unbounded)).take_while(|(key, _)| key.starts_with(prefix));
        let mut past = undone
            .range::<str, _>((start, Bound::Unbounded))
            .filter_map(|(key, entry)| entry.as_ref().map(|e| (key, e)))
            .peekable();
        for (key, entry) in now.filter(|(key, _)| !undone.contains_key(*key)) {
            while let Some((_, old)) = past.next_if(|(k, _)| *k < key) {
                take(old);
            }
            take(entry);
        }
        past.for_each(|(_, old)| take(old));
        Ok(range)
    }

    /// What the keys below `prefix` that changed after `at` were at `at` (`None`: absent).
    fn undone(&self, prefix: &str, at: Revision) -> BTreeMap<Arc<str>, Option<Entry>> {
        let mut undone = BTreeMap::new();
        for event in self.history.iter().rev().take_while(|e| e.revision() > at) {
            if event.entry.key().starts_with(prefix) {
                undone.insert(event.entry.shared_key(), event.previous.clone());
            }
        }
        undone
    }

    /// See [`super::Store::watch`].
    pub(super) fn watch(&mut self, prefix: &str, from: Revision) -> Result<Watch, StoreError> {
        self.check(from)?;
        let missed = self.history.partition_point(|e| e.revision() <= from);
        let backlog =
            self.history.range(missed..).filter(|event| event.entry.key().starts_with(prefix)).cloned().collect();
        let (watch, queue) = Watch::new(backlog);
        self.followers.retain(|f| !f.queue.is_closed());
        self.followers.push(Follower { prefix: prefix.to_owned(), queue });
        Ok(watch)
    }

    fn check(&self, revision: Revision) -> Result<(), StoreError> {
        if revision < self.floor {
            return Err(StoreError::TooOld { asked: revision, oldest: self.floor });
        }
        if revision > self.revision {
            return Err(StoreError::Future { asked: revision, newest: self.revision });
        }
        Ok(())
    }
}

impl Follower {
    /// Queues the event if it is of interest. False: this follower is gone or must go.
    fn offer(&self, event: &Event) -> bool {
        if !event.entry.key().starts_with(&self.prefix) {
            return true;
        }
        match self.queue.try_send(event.clone()) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                tracing::warn!(prefix = %self.prefix, "a watcher fell behind and was cut off");
                false
            }
            Err(TrySendError::Closed(_)) => false,
        }
    }
}

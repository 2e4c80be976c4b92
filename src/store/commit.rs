//! The tail (what is queued) and the one thread that makes it durable and visible.
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;

use tokio::sync::{oneshot, watch};

use super::log::Log;
use super::memory::Memory;
use super::{Change, Entry, Event, Expect, Revision, StoreError};

/// What writers and the committer thread share.
struct Shared {
    /// Lock order: `tail`, then `memory`.
    tail: Mutex<Tail>,
    /// Rung when the tail has work, or is closing.
    bell: Condvar,
    memory: RwLock<Memory>,
    /// The newest visible revision, for those who wait for one.
    visible: watch::Sender<Revision>,
}

/// What is queued but not yet visible.
struct Tail {
    /// The revision of the newest queued change.
    revision: Revision,
    /// The newest queued state of each key with queued changes (`None`: deleted), and its revision.
    keys: HashMap<Arc<str>, (Option<Entry>, Revision)>,
    batch: Vec<Queued>,
    /// Set when the disk refused: the tail was built on changes that did not happen, so nothing may follow.
    failed: Option<String>,
    closing: bool,
}

struct Queued {
    event: Event,
    done: oneshot::Sender<Result<Entry, StoreError>>,
}

/// Owns the thread.
pub(super) struct Committer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What the tail made of a write.
enum Verdict {
    Queued(oneshot::Receiver<Result<Entry, StoreError>>),
    /// Refused because of a change that is visible from this revision on.
    Refused(StoreError, Revision),
}

impl Committer {
    pub(super) fn start(log: Log, memory: Memory) -> Result<Self, StoreError> {
        let revision = memory.revision();
        let shared = Arc::new(Shared {
            tail: Mutex::new(Tail { revision, keys: HashMap::new(), batch: Vec::new(), failed: None, closing: false }),
            bell: Condvar::new(),
            memory: RwLock::new(memory),
            visible: watch::Sender::new(revision),
        });
        let worker = shared.clone();
        let thread = std::thread::Builder::new()
            .name("store-commit".to_owned())
            .spawn(move || worker.run(&log))
            .map_err(|e| StoreError::Failed(format!("no committer thread: {e}")))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    pub(super) fn memory(&self) -> RwLockReadGuard<'_, Memory> {
        self.shared.read()
    }

    pub(super) fn memory_mut(&self) -> RwLockWriteGuard<'_, Memory> {
        self.shared.lock_memory()
    }

    pub(super) async fn write<F>(&self, key: &str, expect: Expect, make: F) -> Result<Entry, StoreError>
    where
        F: FnOnce(Revision) -> Change,
    {
        match self.shared.enqueue(key, expect, make)? {
            Verdict::Queued(done) => {
                done.await.unwrap_or_else(|_| Err(StoreError::Failed("the store is closed".to_owned())))
            }
            Verdict::Refused(error, since) => {
                let mut visible = self.shared.visible.subscribe();
                // An error means the store is gone; the refusal stands.
                visible.wait_for(|now| *now >= since).await.ok();
                Err(error)
            }
        }
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.shared.lock_tail().closing = true;
        self.shared.bell.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the store's committer thread panicked");
        }
    }
}

impl Shared {
    // A panic under one of these locks leaves plain data that is whole at every step; going on is sound.
    fn lock_tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> RwLockReadGuard<'_, Memory> {
        self.memory.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_memory(&self) -> RwLockWriteGuard<'_, Memory> {
        self.memory.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks a write against the tail and queues it.
    fn enqueue<F>(&self, key: &str, expect: Expect, make: F) -> Result<Verdict, StoreError>
    where
        F: FnOnce(Revision) -> Change,
    {
        // Found out in the log it would be the failure of all: here it is one writer's.
        if key.len() > super::MAX_KEY {
            return Err(StoreError::LongKey);
        }
        let mut tail = self.lock_tail();
        if let Some(reason) = &tail.failed {
            return Err(StoreError::Failed(reason.clone()));
        }
        let (current, since) = match tail.keys.get(key) {
            Some((entry, revision)) => (entry.clone(), *revision),
            None => (self.read().get(key), 0),
        };
        if let Some(error) = refusal(key, expect, current.as_ref()) {
            return Ok(Verdict::Refused(error, since));
        }
        let revision = tail.revision + 1;
        let (value, deleted) = match make(revision) {
            Change::Put(value) => (value, false),
            Change::Delete(value) => (value, true),
        };
        let shared_key: Arc<str> = current.as_ref().map_or_else(|| key.into(), Entry::shared_key);
        let created = current.as_ref().map_or(revision, Entry::created);
        let entry = Entry::new(shared_key.clone(), value, created, revision);
        let state = (!deleted).then(|| entry.clone());
        tail.revision = revision;
        tail.keys.insert(shared_key, (state, revision));
        let (done, receiver) = oneshot::channel();
        let event = Event { entry, previous: current, deleted };
        tail.batch.push(Queued { event, done });
        self.bell.notify_one();
        Ok(Verdict::Queued(receiver))
    }

    /// The thread: one durable transaction for everything that waits, again and again.
    fn run(&self, log: &Log) {
        while let Some(batch) = self.next_batch() {
            let (events, waiting): (Vec<Event>, Vec<_>) = batch.into_iter().map(|q| (q.event, q.done)).unzip();
            match self.commit(log, &events) {
                Ok(()) => {
                    for (event, done) in events.into_iter().zip(waiting) {
                        // The writer may have gone away; the change stands.
                        done.send(Ok(event.entry)).ok();
                    }
                }
                Err(reason) => self.fail(&reason, waiting),
            }
        }
    }

    /// Waits for work. `None`: closing, and nothing is left to do.
    fn next_batch(&self) -> Option<Vec<Queued>> {
        let mut tail = self.lock_tail();
        while tail.batch.is_empty() {
            if tail.closing {
                return None;
            }
            tail = self.bell.wait(tail).unwrap_or_else(PoisonError::into_inner);
        }
        Some(std::mem::take(&mut tail.batch))
    }

    /// Durable first, then visible, then out of the tail.
    fn commit(&self, log: &Log, events: &[Event]) -> Result<(), String> {
        let weight = events.iter().map(Event::weight).sum();
        // Copied, so that no lock is held while the disk works.
        let leaving: Vec<Event> = self.read().surplus(events.len(), weight).cloned().collect();
        log.append(events, &leaving)?;
        let mut memory = self.lock_memory();
        for event in events {
            memory.apply(event.clone());
        }
        if let Some(last) = leaving.last() {
            memory.forget(last.revision());
        }
        let revision = memory.revision();
        drop(memory);
        let mut tail = self.lock_tail();
        tail.keys.retain(|_, (_, queued)| *queued > revision);
        drop(tail);
        self.visible.send_replace(revision);
        Ok(())
    }

    /// Tells everybody that waits, and refuses everybody who comes later.
    fn fail(&self, reason: &str, waiting: Vec<oneshot::Sender<Result<Entry, StoreError>>>) {
        tracing::error!(reason, "the store cannot write");
        let late = {
            let mut tail = self.lock_tail();
            tail.failed = Some(reason.to_owned());
            std::mem::take(&mut tail.batch)
        };
        for done in waiting.into_iter().chain(late.into_iter().map(|q| q.done)) {
            done.send(Err(StoreError::Failed(reason.to_owned()))).ok();
        }
        // Nobody waits for a conflict with a change that never came.
        self.visible.send_replace(Revision::MAX);
    }
}

/// Why a write that expects `expect` of `key` cannot happen, if so.
fn refusal(key: &str, expect: Expect, current: Option<&Entry>) -> Option<StoreError> {
    match (expect, current) {
        (Expect::Absent, None) => None,
        (Expect::Absent, Some(_)) => Some(StoreError::Exists(key.to_owned())),
        (Expect::Revision(_), None) => Some(StoreError::Missing(key.to_owned())),
        (Expect::Revision(wanted), Some(entry)) if entry.revision() == wanted => None,
        (Expect::Revision(_), Some(entry)) => Some(StoreError::Conflict(entry.clone())),
    }
}

//! The work queue: keys, each at most once, now or later, backed off after failures.
use parking_lot::{Mutex, MutexGuard};
use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    fmt::Debug,
    hash::Hash,
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

/// How long a failing key waits: `base`, doubled each time, never more than `cap`.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// The first wait.
    pub base: Duration,
    /// The longest wait.
    pub cap: Duration,
}

impl Default for Backoff {
    /// 5 ms as in Kubernetes' controllers; capped at 30 s instead of their 1000 s, because the API server here is in
    /// the same process and a person is watching.
    fn default() -> Self {
        Self { base: Duration::from_millis(5), cap: Duration::from_secs(30) }
    }
}

impl Backoff {
    fn delay(&self, failures: u32) -> Duration {
        self.base.saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX)).min(self.cap)
    }
}

/// A set of keys to work on, in the order they came. A key added twice is worked on once; a key added while it is being
/// worked on is worked on again after that, never beside it.
pub struct WorkQueue<K> {
    backoff: Backoff,
    state: Mutex<State<K>>,
    wake: Notify,
}

struct State<K> {
    ready: VecDeque<K>,
    /// What is in `ready`.
    queued: HashSet<K>,
    running: HashSet<K>,
    /// Added while running.
    again: HashSet<K>,
    /// By deadline; the number tells equal deadlines apart. Only the earliest deadline of a key is kept.
    delayed: BTreeMap<(Instant, u64), K>,
    deadlines: HashMap<K, (Instant, u64)>,
    failures: HashMap<K, u32>,
    sequence: u64,
    closed: bool,
}

impl<K: Clone + Eq + Hash + Debug> Default for WorkQueue<K> {
    fn default() -> Self {
        Self::new(Backoff::default())
    }
}

impl<K: Clone + Eq + Hash + Debug> WorkQueue<K> {
    /// An empty queue.
    pub fn new(backoff: Backoff) -> Self {
        let state = State {
            ready: VecDeque::new(),
            queued: HashSet::new(),
            running: HashSet::new(),
            again: HashSet::new(),
            delayed: BTreeMap::new(),
            deadlines: HashMap::new(),
            failures: HashMap::new(),
            sequence: 0,
            closed: false,
        };
        Self { backoff, state: Mutex::new(state), wake: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        // No code that can panic runs under the lock, so a poisoned state is still whole.
        self.state.lock()
    }

    /// Puts `key` at the end, unless it waits already.
    pub fn add(&self, key: K) {
        self.lock().add(key);
        self.wake.notify_one();
    }

    /// Adds `key` after `delay`. An earlier deadline of the same key wins.
    pub fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        self.lock().delay(key, Instant::now() + delay);
        self.wake.notify_one();
    }

    /// Adds a key that failed, later each time until [`forget`](Self::forget).
    pub fn retry(&self, key: K) {
        let delay = {
            let mut state = self.lock();
            let failures = state.failures.entry(key.clone()).or_insert(0);
            let delay = self.backoff.delay(*failures);
            *failures += 1;
            delay
        };
        self.add_after(key, delay);
    }

    /// The key succeeded: its next failure starts from the first wait.
    pub fn forget(&self, key: &K) {
        self.lock().failures.remove(key);
    }

    /// The next key; it counts as running until [`done`](Self::done). Waits for one; `None` after
    /// [`close`](Self::close).
    pub async fn get(&self) -> Option<K> {
        loop {
            let deadline = {
                let mut state = self.lock();
                if state.closed {
                    self.wake.notify_one();
                    return None;
                }
                state.move_due(Instant::now());
                if let Some(key) = state.take() {
                    // Pass the baton: another worker may have to watch the rest, or the next deadline.
                    if !state.ready.is_empty() || !state.delayed.is_empty() {
                        self.wake.notify_one();
                    }
                    return Some(key);
                }
                state.delayed.keys().next().map(|(deadline, _)| *deadline)
            };
            match deadline {
                None => self.wake.notified().await,
                Some(deadline) => {
                    tokio::select! {
                        () = self.wake.notified() => {}
                        () = tokio::time::sleep_until(deadline) => {}
                    }
                }
            }
        }
    }

    /// Work on `key` has ended.
    pub fn done(&self, key: &K) {
        let mut state = self.lock();
        state.running.remove(key);
        if state.again.remove(key) {
            state.add(key.clone());
            self.wake.notify_one();
        }
    }

    /// Ends every `get`, now and later.
    pub fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_one();
    }

    /// How many keys wait to be worked on now.
    pub fn len(&self) -> usize {
        self.lock().ready.len()
    }

    /// Whether no key waits to be worked on now.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K: Clone + Eq + Hash> State<K> {
    fn add(&mut self, key: K) {
        if let Some(deadline) = self.deadlines.remove(&key) {
            self.delayed.remove(&deadline);
        }
        if self.running.contains(&key) {
            self.again.insert(key);
        } else if self.queued.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    fn delay(&mut self, key: K, deadline: Instant) {
        if self.queued.contains(&key) || self.deadlines.get(&key).is_some_and(|(at, _)| *at <= deadline) {
            return;
        }
        self.sequence += 1;
        let slot = (deadline, self.sequence);
        if let Some(old) = self.deadlines.insert(key.clone(), slot) {
            self.delayed.remove(&old);
        }
        self.delayed.insert(slot, key);
    }

    fn move_due(&mut self, now: Instant) {
        while let Some(entry) = self.delayed.first_entry()
            && entry.key().0 <= now
        {
            let key = entry.remove();
            self.deadlines.remove(&key);
            self.add(key);
        }
    }

    fn take(&mut self) -> Option<K> {
        let key = self.ready.pop_front()?;
        self.queued.remove(&key);
        self.running.insert(key.clone());
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now_or_none<T>(future: impl Future<Output = T>) -> Option<T> {
        futures::FutureExt::now_or_never(future)
    }

    #[tokio::test]
    async fn a_key_added_twice_is_got_once_and_again_only_after_done() {
        let queue = WorkQueue::default();
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.get().await, Some("a"));
        queue.add("a");
        assert_eq!(queue.get().await, Some("b"));
        assert_eq!(now_or_none(queue.get()), None, "a is running");
        queue.done(&"a");
        assert_eq!(queue.get().await, Some("a"));
    }

    #[tokio::test]
    async fn the_earliest_deadline_wins_and_an_add_beats_both() {
        let queue = WorkQueue::default();
        let start = Instant::now();
        queue.add_after("a", Duration::from_secs(100));
        queue.add_after("a", Duration::from_millis(20));
        queue.add_after("a", Duration::from_secs(50));
        assert_eq!(queue.get().await, Some("a"));
        assert!(start.elapsed() >= Duration::from_millis(20));
        queue.done(&"a");
        queue.add_after("a", Duration::from_millis(30));
        queue.add("a");
        assert_eq!(queue.get().await, Some("a"));
        queue.done(&"a");
        assert!(queue.lock().delayed.is_empty(), "the delay is spent");
    }

    #[test]
    fn failures_wait_longer_each_time_up_to_the_cap() {
        let backoff = Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(5) };
        let waits: Vec<_> = [0, 1, 2, 3, 4, 31, 32, 1000].map(|n| backoff.delay(n).as_secs()).into();
        assert_eq!(waits, [1, 2, 4, 5, 5, 5, 5, 5]);
    }

    #[tokio::test]
    async fn a_forgotten_key_starts_from_the_first_wait() {
        let queue = WorkQueue::new(Backoff { base: Duration::from_millis(1), cap: Duration::from_secs(5) });
        for failures in [1, 2, 3] {
            queue.retry("a");
            queue.get().await;
            queue.done(&"a");
            assert_eq!(queue.lock().failures.get("a"), Some(&failures));
        }
        queue.forget(&"a");
        assert!(queue.lock().failures.is_empty());
    }

    #[tokio::test]
    async fn a_sleeping_worker_takes_over_the_deadline_when_the_other_gets_busy() {
        let queue = std::sync::Arc::new(WorkQueue::default());
        let workers: Vec<_> = (0..2)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move { queue.get().await })
            })
            .collect();
        tokio::task::yield_now().await;
        queue.add_after("late", Duration::from_millis(30));
        queue.add("now");
        for worker in workers {
            assert!(worker.await.unwrap().is_some());
        }
    }

    #[tokio::test]
    async fn closing_ends_every_waiting_worker() {
        let queue = std::sync::Arc::new(WorkQueue::<u8>::default());
        let workers: Vec<_> = (0..3)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move { queue.get().await })
            })
            .collect();
        tokio::task::yield_now().await;
        queue.close();
        for worker in workers {
            assert_eq!(worker.await.unwrap(), None);
        }
    }
}

//! The one reconcile driver: observe, plan, perform.
use std::{fmt::Debug, hash::Hash, sync::Arc, time::Duration};

use futures::future::join_all;
use jiff::Timestamp;
use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{Error, Result, WorkQueue};

/// The most independent steps performed at once: enough to share the store's group commits, few enough to leave the
/// API server to others.
const MAX_BATCH: usize = 64;

/// What to do about one key.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Plan<S> {
    /// In order. Empty when the world is as desired.
    pub steps: Vec<S>,
    /// Look again after this long even if nothing changes.
    pub requeue_after: Option<Duration>,
}

impl<S> Default for Plan<S> {
    fn default() -> Self {
        Self { steps: Vec::new(), requeue_after: None }
    }
}

impl<S> Plan<S> {
    /// Only steps.
    pub fn of(steps: Vec<S>) -> Self {
        Self { steps, requeue_after: None }
    }

    /// Adds a step.
    pub fn push(&mut self, step: S) {
        self.steps.push(step);
    }

    /// Asks to be called again after `delay`, or earlier if that was asked already.
    pub fn again_after(&mut self, delay: Duration) {
        self.requeue_after = Some(self.requeue_after.map_or(delay, |old| old.min(delay)));
    }
}

/// A reconciliation loop. `observe` and `perform` touch the world; `plan` decides and touches nothing.
pub trait Reconcile: Send + Sync + 'static {
    /// What is reconciled: a name, never an event.
    type Key: Clone + Eq + Hash + Debug + Send + Sync + 'static;
    /// Everything the plan needs to know about the key.
    type View: Send + Sync;
    /// One thing to do.
    type Step: Debug + Send + Sync;

    /// For spans and logs.
    fn name(&self) -> &'static str;

    /// Gathers the view, mostly from caches.
    fn observe(&self, key: &Self::Key) -> impl Future<Output = Result<Self::View>> + Send;

    /// Pure: no IO, no clock, no randomness. Planned again after its steps were performed, it is empty.
    fn plan(&self, key: &Self::Key, view: &Self::View, now: Timestamp) -> Plan<Self::Step>;

    /// Does one step.
    fn perform(&self, key: &Self::Key, step: &Self::Step) -> impl Future<Output = Result<()>> + Send;

    /// Whether two neighbouring steps may be performed at the same time. Such runs are started slowly (1, 2, 4, …), so
    /// that what cannot succeed fails once and not a thousand times.
    fn independent(&self, _a: &Self::Step, _b: &Self::Step) -> bool {
        false
    }

    /// The run of a key has ended; the error is that of the first step that failed. The key is backed off afterwards.
    fn settled(&self, _key: &Self::Key, _outcome: std::result::Result<(), &Error>) {}
}

/// Runs `reconciler` on the keys of `queue` until `shutdown`: at most `workers` keys at a time, never one key twice at a
/// time. A failed key is retried with back-off. Returns when the keys in flight have ended.
pub async fn drive<R: Reconcile>(
    reconciler: Arc<R>,
    queue: Arc<WorkQueue<R::Key>>,
    workers: usize,
    shutdown: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(workers.max(1)));
    let mut tasks = JoinSet::new();
    loop {
        while tasks.try_join_next().is_some() {}
        let Some(Ok(slot)) = shutdown.run_until_cancelled(slots.clone().acquire_owned()).await else {
            break;
        };
        let Some(Some(key)) = shutdown.run_until_cancelled(queue.get()).await else {
            break;
        };
        let running = Running { queue: queue.clone(), key, finished: false };
        let reconciler = reconciler.clone();
        tasks.spawn(async move {
            work(reconciler.as_ref(), running).await;
            drop(slot);
        });
    }
    while tasks.join_next().await.is_some() {}
}

/// A key being worked on. Dropping it gives the key back, also when the work panicked; then it is retried.
struct Running<K: Clone + Eq + Hash + Debug> {
    queue: Arc<WorkQueue<K>>,
    key: K,
    finished: bool,
}

impl<K: Clone + Eq + Hash + Debug> Drop for Running<K> {
    fn drop(&mut self) {
        if !self.finished {
            self.queue.retry(self.key.clone());
        }
        self.queue.done(&self.key);
    }
}

async fn work<R: Reconcile>(reconciler: &R, mut running: Running<R::Key>) {
    let span = tracing::debug_span!("reconcile", room = reconciler.name(), key = ?running.key);
    let outcome = reconcile_once(reconciler, &running.key).instrument(span).await;
    reconciler.settled(&running.key, outcome.as_ref().map(|_| ()));
    match outcome {
        Ok(requeue_after) => {
            running.queue.forget(&running.key);
            if let Some(delay) = requeue_after {
                running.queue.add_after(running.key.clone(), delay);
            }
        }
        Err(error) => {
            if error.is_conflict() || error.is_not_found() || error.is_namespace_terminating() {
                tracing::debug!(room = reconciler.name(), key = ?running.key, %error, "stale view, planning again");
            } else {
                tracing::warn!(room = reconciler.name(), key = ?running.key, %error, "step failed, trying again");
            }
            running.queue.retry(running.key.clone());
        }
    }
    running.finished = true;
}

/// One run of a key: what [`drive`] does, for tests and `coracle step` too. Returns when to look again.
pub(crate) async fn reconcile_once<R: Reconcile>(reconciler: &R, key: &R::Key) -> Result<Option<Duration>> {
    let view = reconciler.observe(key).await?;
    let plan = reconciler.plan(key, &view, Timestamp::now());
    let mut rest = plan.steps.as_slice();
    while !rest.is_empty() {
        let run = 1 + rest.windows(2).take_while(|pair| reconciler.independent(&pair[0], &pair[1])).count();
        let (group, later) = rest.split_at(run);
        perform_group(reconciler, key, group).await?;
        rest = later;
    }
    Ok(plan.requeue_after)
}

async fn perform_group<R: Reconcile>(reconciler: &R, key: &R::Key, mut group: &[R::Step]) -> Result<()> {
    let mut batch = 1;
    while !group.is_empty() {
        let (now, later) = group.split_at(batch.min(group.len()));
        let steps = now.iter().map(|step| {
            let span = tracing::debug_span!("step", room = reconciler.name(), step = ?step);
            reconciler.perform(key, step).instrument(span)
        });
        join_all(steps).await.into_iter().collect::<Result<()>>()?;
        group = later;
        batch = (batch * 2).min(MAX_BATCH);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    /// Counts down each key; step 13 always fails, step 99 panics once.
    #[derive(Default)]
    struct Countdown {
        left: Mutex<std::collections::BTreeMap<&'static str, u32>>,
        active: AtomicUsize,
        most: AtomicUsize,
        performed: AtomicUsize,
        panicked: AtomicUsize,
        failed: AtomicUsize,
    }

    impl Reconcile for Countdown {
        type Key = &'static str;
        type View = u32;
        type Step = u32;

        fn name(&self) -> &'static str {
            "countdown"
        }

        async fn observe(&self, key: &&'static str) -> Result<u32> {
            Ok(*self.left.lock().unwrap().get(key).unwrap_or(&0))
        }

        fn plan(&self, _: &&'static str, left: &u32, _: Timestamp) -> Plan<u32> {
            Plan { steps: (0..*left).collect(), requeue_after: (*left > 0).then_some(Duration::from_secs(1)) }
        }

        async fn perform(&self, key: &&'static str, step: &u32) -> Result<()> {
            let active = self.active.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(active, Ordering::SeqCst);
            tokio::task::yield_now().await;
            self.active.fetch_sub(1, Ordering::SeqCst);
            self.performed.fetch_add(1, Ordering::SeqCst);
            if *key == "panics" && self.panicked.fetch_add(1, Ordering::SeqCst) == 0 {
                panic!("once");
            }
            if *key == "fails" && *step == 2 {
                self.failed.fetch_add(1, Ordering::SeqCst);
                return Err(Error::step("no"));
            }
            if let Some(left) = self.left.lock().unwrap().get_mut(key) {
                *left -= 1;
            }
            Ok(())
        }

        fn independent(&self, _: &u32, _: &u32) -> bool {
            true
        }
    }

    fn start(key: &'static str, left: u32) -> (Arc<Countdown>, Arc<WorkQueue<&'static str>>, CancellationToken) {
        let countdown = Arc::new(Countdown::default());
        countdown.left.lock().unwrap().insert(key, left);
        let (queue, shutdown) = (Arc::new(WorkQueue::default()), CancellationToken::new());
        queue.add(key);
        tokio::spawn(drive(countdown.clone(), queue.clone(), 4, shutdown.clone()));
        (countdown, queue, shutdown)
    }

    /// Waits until the countdown satisfies `ready`.
    async fn until(countdown: &Countdown, ready: impl Fn(&Countdown) -> bool) {
        let wait = async {
            while !ready(countdown) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait).await.expect("not reached");
    }

    fn left(countdown: &Countdown, key: &str) -> u32 {
        countdown.left.lock().unwrap()[key]
    }

    #[tokio::test]
    async fn independent_steps_start_slowly_and_run_together() {
        let (countdown, _queue, shutdown) = start("works", 7);
        until(&countdown, |c| left(c, "works") == 0).await;
        assert_eq!(countdown.performed.load(Ordering::SeqCst), 7);
        assert_eq!(countdown.most.load(Ordering::SeqCst), 4, "1, 2, 4");
        shutdown.cancel();
    }

    #[tokio::test]
    async fn a_failing_batch_stops_the_rest_and_is_retried() {
        let (countdown, _queue, shutdown) = start("fails", 100);
        until(&countdown, |c| c.failed.load(Ordering::SeqCst) == 2).await;
        assert_eq!(countdown.performed.load(Ordering::SeqCst), 6, "twice: step 0, then 1 and 2");
        shutdown.cancel();
    }

    #[tokio::test]
    async fn a_panic_gives_the_key_back() {
        let (countdown, _queue, shutdown) = start("panics", 1);
        until(&countdown, |c| left(c, "panics") == 0).await;
        shutdown.cancel();
    }
}

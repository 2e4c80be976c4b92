//! The pods of a node: manifest, observation and status of each, behind one lock that is never held across an await.
use super::{
    observed::{ContainerSeen, Observed},
    sources::Refs,
    status::OWN_CONDITIONS,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// One pod.
#[derive(Debug, Clone)]
pub struct Entry {
    /// As the API had it last.
    pub pod: Arc<Pod>,
    pub seen: Observed,
    /// What the status should be; none before the first plan.
    pub wanted: Option<PodStatus>,
    /// What was written last …
    pub written: Option<PodStatus>,
    /// … and as which resourceVersion.
    pub version: u64,
    /// Held while the status is written, so that an older one never overtakes a newer.
    pub writing: Arc<tokio::sync::Mutex<()>>,
    /// Objects its volumes show.
    pub refs: Refs,
}

impl Entry {
    pub fn new(pod: Arc<Pod>, seen: Observed) -> Entry {
        let refs = Refs::of_volumes(&pod);
        Entry { refs, pod, seen, wanted: None, written: None, version: 0, writing: Arc::default() }
    }

    /// Has the files in its volumes brought up to date, or made, at once.
    pub fn refresh(&mut self, now: Timestamp) {
        self.seen.refresh_at = self.seen.volumes.then_some(now).or(self.seen.refresh_at);
        self.seen.setup.iter_mut().for_each(|failure| failure.retry_at = now);
    }

    /// Whether somebody else changed, after us, what is ours to say: as the node lifecycle controller does with the
    /// readiness of pods on a node that it takes for lost.
    pub fn is_overwritten(&self) -> bool {
        let Some(written) = self.written.as_ref().filter(|written| self.wanted.as_ref() == Some(written)) else {
            return false;
        };
        let list = |status: Option<&PodStatus>| status.and_then(|s| s.conditions.clone()).unwrap_or_default();
        let there = list(self.pod.status.as_ref());
        let kept = |ours: &PodCondition| there.iter().any(|c| c.type_ == ours.type_ && c.status == ours.status);
        version(&self.pod) > self.version && !list(Some(written)).iter().take(OWN_CONDITIONS).all(kept)
    }
}

/// Versions of one object can be compared (KEP-5504).
pub fn version(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_ref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

/// All pods, by uid.
#[derive(Default)]
pub struct Pods(Mutex<BTreeMap<String, Entry>>);

impl Pods {
    pub fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, uid: &str) -> Option<Entry> {
        self.lock().get(uid).cloned()
    }

    /// Changes a pod's entry, if it is (still) there.
    pub fn with<R>(&self, uid: &str, change: impl FnOnce(&mut Entry) -> R) -> Option<R> {
        self.lock().get_mut(uid).map(change)
    }

    /// Changes what was observed of a pod.
    pub fn seen<R>(&self, uid: &str, change: impl FnOnce(&mut Observed) -> R) -> Option<R> {
        self.with(uid, |entry| change(&mut entry.seen))
    }

    /// Changes what was observed of one container, if `attempt` is still its newest.
    pub fn attempt<R>(
        &self,
        uid: &str,
        container: &str,
        attempt: u32,
        change: impl FnOnce(&mut ContainerSeen) -> R,
    ) -> Option<R> {
        let mut pods = self.lock();
        let seen = pods.get_mut(uid)?.seen.containers.get_mut(container)?;
        (seen.attempt == attempt).then(|| change(seen))
    }
}

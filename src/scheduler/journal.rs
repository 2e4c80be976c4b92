//! The last decision about each pod, for `why`; the oldest are forgotten first.
use std::sync::Arc;

use indexmap::IndexMap;

use super::Decision;
use crate::client::ObjectKey;

/// Verdicts kept over all decisions, about 200 bytes each: ten megabytes at the very most, and on three nodes the
/// decisions of thousands of pods.
const VERDICTS: usize = 50_000;

/// Decisions by pod, the oldest first.
#[derive(Default)]
pub(super) struct Journal {
    decisions: IndexMap<ObjectKey, Arc<Decision>>,
    verdicts: usize,
}

impl Journal {
    /// Keeps a decision instead of the pod's former one.
    pub fn keep(&mut self, key: ObjectKey, decision: Arc<Decision>) {
        self.drop(&key);
        self.verdicts += decision.verdicts.len() + 1;
        self.decisions.insert(key, decision);
        while self.verdicts > VERDICTS
            && let Some((oldest, _)) = self.decisions.first()
        {
            self.drop(&oldest.clone());
        }
    }

    /// The last decision about a pod.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<Decision>> {
        self.decisions.get(key).cloned()
    }

    /// Forgets a pod.
    pub fn drop(&mut self, key: &ObjectKey) {
        if let Some(old) = self.decisions.shift_remove(key) {
            self.verdicts -= old.verdicts.len() + 1;
        }
    }
}

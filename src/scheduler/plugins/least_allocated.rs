//! Emptier nodes are better.
use super::{Check, Cluster, MAX_SCORE, NodeInfo, PodInfo, Started};

/// Prefers nodes with much left after the pod, CPU and memory alike.
pub(super) fn start<'a>(pod: &'a PodInfo, _: &'a Cluster) -> Started<'a> {
    Some(Box::new(Emptier(pod)))
}

struct Emptier<'a>(&'a PodInfo);

impl Check for Emptier<'_> {
    fn score(&self, node: &NodeInfo) -> Option<i64> {
        let left = |all: i64, taken: i64| {
            if all <= 0 || taken > all { 0 } else { (all - taken) * MAX_SCORE / all }
        };
        let (all, taken, pod) = (&node.allocatable, &node.presumed, &self.0.presumed);
        Some((left(all.cpu, taken.cpu + pod.cpu) + left(all.memory, taken.memory + pod.memory)) / 2)
    }
}

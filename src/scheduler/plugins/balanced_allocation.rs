//! Nodes on which CPU and memory run out together are better: nothing is left over that nobody can use.
use super::{Check, Cluster, MAX_SCORE, NodeInfo, PodInfo, Started};

/// Prefers nodes whose fractions of CPU and memory in use would be close.
pub(super) fn start<'a>(pod: &'a PodInfo, _: &'a Cluster) -> Started<'a> {
    // A pod that asks for nothing says nothing about balance.
    let asks = pod.requests.cpu > 0 || pod.requests.memory > 0;
    asks.then(|| Box::new(Balance(pod)) as Box<dyn Check>)
}

struct Balance<'a>(&'a PodInfo);

impl Check for Balance<'_> {
    fn score(&self, node: &NodeInfo) -> Option<i64> {
        let used = |all: i64, taken: i64| {
            if all <= 0 { 1.0 } else { (taken as f64 / all as f64).min(1.0) }
        };
        let (all, taken, pod) = (&node.allocatable, &node.requested, &self.0.requests);
        let (cpu, memory) = (used(all.cpu, taken.cpu + pod.cpu), used(all.memory, taken.memory + pod.memory));
        // The standard deviation of two numbers is half their distance.
        Some(((1.0 - (cpu - memory).abs() / 2.0) * MAX_SCORE as f64) as i64)
    }
}

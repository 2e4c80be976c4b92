//! What makes a node possible, or better; one file each.
mod affinity;
mod balanced_allocation;
mod fit;
mod inter_pod;
mod least_allocated;
mod node_affinity;
mod node_name;
mod ports;
mod spread;
mod taints;
mod unschedulable;

use super::{Cluster, NodeInfo, PodInfo, Refusal};

/// The best a node can get from one plugin, before its weight.
pub const MAX_SCORE: i64 = 100;

/// A rule of scheduling.
pub struct Plugin {
    /// As Kubernetes calls it.
    pub name: &'static str,
    /// How much its scores count.
    pub weight: i64,
    /// Looks at a pod, once.
    pub start: for<'a> fn(&'a PodInfo, &'a Cluster) -> Started<'a>,
}

/// A rule that has looked at a pod. `None` when it does not concern it, which then costs nothing.
pub type Started<'a> = Option<Box<dyn Check + 'a>>;

/// A rule applied to one pod.
pub trait Check {
    /// Whether the node is possible.
    fn filter(&self, _node: &NodeInfo) -> Result<(), Refusal> {
        Ok(())
    }

    /// How good the node is, in the plugin's own measure; `None` when this rule does not score.
    fn score(&self, _node: &NodeInfo) -> Option<i64> {
        None
    }

    /// Brings the scores of all possible nodes to 0..=[`MAX_SCORE`].
    fn normalize(&self, _scores: &mut [i64]) {}
}

/// Kubernetes' default rules, in the order in which they refuse.
pub const DEFAULT: &[Plugin] = &[
    Plugin { name: "NodeUnschedulable", weight: 1, start: unschedulable::start },
    Plugin { name: "NodeName", weight: 1, start: node_name::start },
    Plugin { name: "TaintToleration", weight: 3, start: taints::start },
    Plugin { name: "NodeAffinity", weight: 2, start: node_affinity::start },
    Plugin { name: "NodePorts", weight: 1, start: ports::start },
    Plugin { name: "NodeResourcesFit", weight: 1, start: fit::start },
    Plugin { name: "PodTopologySpread", weight: 2, start: spread::start },
    Plugin { name: "InterPodAffinity", weight: 2, start: inter_pod::start },
    Plugin { name: "NodeResourcesLeastAllocated", weight: 1, start: least_allocated::start },
    Plugin { name: "NodeResourcesBalancedAllocation", weight: 1, start: balanced_allocation::start },
];

/// Scales scores so that the largest becomes [`MAX_SCORE`]; with `reverse` the smallest is the best.
fn scale(scores: &mut [i64], reverse: bool) {
    let max = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        let scaled = if max > 0 { *score * MAX_SCORE / max } else { 0 };
        *score = if reverse { MAX_SCORE - scaled } else { scaled };
    }
}

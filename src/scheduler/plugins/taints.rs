//! Taints keep pods away that do not tolerate them; PreferNoSchedule only tries.
use k8s_openapi::api::core::v1::{Taint, Toleration};

use super::{Check, Cluster, NodeInfo, PodInfo, Refusal, Started, scale};
use crate::api::taint::tolerates;

/// Refuses nodes with a taint the pod does not tolerate; prefers those with few soft ones.
pub(super) fn start<'a>(pod: &'a PodInfo, _: &'a Cluster) -> Started<'a> {
    Some(Box::new(Tolerations(pod.spec()?.tolerations.as_deref().unwrap_or_default())))
}

struct Tolerations<'a>(&'a [Toleration]);

impl Tolerations<'_> {
    fn tolerate(&self, taint: &Taint) -> bool {
        self.0.iter().any(|toleration| tolerates(toleration, taint))
    }
}

fn taints(node: &NodeInfo) -> impl Iterator<Item = &Taint> {
    node.node.spec.iter().flat_map(|spec| spec.taints.iter().flatten())
}

impl Check for Tolerations<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Refusal> {
        let hard = |taint: &&Taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute");
        match taints(node).filter(hard).find(|taint| !self.tolerate(taint)) {
            None => Ok(()),
            Some(taint) => {
                let value = taint.value.as_deref().unwrap_or_default();
                Err(Refusal::hopeless(format!("node(s) had untolerated taint {{{}: {value}}}", taint.key)))
            }
        }
    }

    fn score(&self, node: &NodeInfo) -> Option<i64> {
        let soft = taints(node).filter(|taint| taint.effect == "PreferNoSchedule" && !self.tolerate(taint));
        Some(soft.count() as i64)
    }

    fn normalize(&self, scores: &mut [i64]) {
        scale(scores, true);
    }
}

//! Cordoned nodes take no pods, unless those tolerate it.
use k8s_openapi::api::core::v1::Taint;

use super::{Check, Cluster, NodeInfo, PodInfo, Refusal, Started};
use crate::api::taint::tolerates;

/// Refuses cordoned nodes.
pub(super) fn start<'a>(pod: &'a PodInfo, _: &'a Cluster) -> Started<'a> {
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    let tolerations = pod.spec()?.tolerations.as_deref().unwrap_or_default();
    let tolerated = tolerations.iter().any(|toleration| tolerates(toleration, &taint));
    (!tolerated).then(|| Box::new(Cordon) as Box<dyn Check>)
}

struct Cordon;

impl Check for Cordon {
    fn filter(&self, node: &NodeInfo) -> Result<(), Refusal> {
        match node.node.spec.as_ref().and_then(|spec| spec.unschedulable) {
            Some(true) => Err(Refusal::hopeless("node(s) were unschedulable")),
            _ => Ok(()),
        }
    }
}

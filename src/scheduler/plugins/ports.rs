//! Host ports: one holder a node.
use super::{Check, Cluster, NodeInfo, PodInfo, Refusal, Started};

/// Refuses nodes where a wanted host port is taken.
pub(super) fn start<'a>(pod: &'a PodInfo, _: &'a Cluster) -> Started<'a> {
    (!pod.ports.is_empty()).then(|| Box::new(Wanted(pod)) as Box<dyn Check>)
}

struct Wanted<'a>(&'a PodInfo);

impl Check for Wanted<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Refusal> {
        if node.with_ports == 0 {
            return Ok(());
        }
        let held = || node.pods.values().flat_map(|pod| &pod.ports);
        if self.0.ports.iter().any(|wanted| held().any(|held| held.clashes(wanted))) {
            return Err(Refusal::now(vec!["node(s) didn't have free ports for the requested pod ports".into()]));
        }
        Ok(())
    }
}

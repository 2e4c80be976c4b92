//! A pod that names its node goes there (and is not scheduled at all); this is for completeness of explanations.
use super::{Check, Cluster, NodeInfo, PodInfo, Refusal, Started};

/// Refuses other nodes than the one named.
pub(super) fn start<'a>(pod: &'a PodInfo, _: &'a Cluster) -> Started<'a> {
    let wanted = pod.spec()?.node_name.as_deref().filter(|name| !name.is_empty())?;
    Some(Box::new(Only(wanted)))
}

struct Only<'a>(&'a str);

impl Check for Only<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Refusal> {
        if node.name() == self.0 {
            return Ok(());
        }
        Err(Refusal::hopeless("node(s) didn't match the requested node name"))
    }
}

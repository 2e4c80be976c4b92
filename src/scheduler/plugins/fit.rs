//! Resource fit: a node is never promised more than it has.
use std::borrow::Cow;

use super::{Check, Cluster, NodeInfo, PodInfo, Refusal, Started};

/// Refuses nodes with too little left.
pub(super) fn start<'a>(pod: &'a PodInfo, _: &'a Cluster) -> Started<'a> {
    Some(Box::new(Requests(pod)))
}

struct Requests<'a>(&'a PodInfo);

impl Check for Requests<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Refusal> {
        let wanted = &self.0.requests;
        let (all, taken) = (&node.allocatable, &node.requested);
        let mut refusal = Refusal::now(Vec::new());
        let mut refuse = |reason: Cow<'static, str>, never: bool| {
            refusal.hopeless |= never;
            refusal.reasons.push(reason);
        };
        if node.pods.len() as i64 + 1 > node.max_pods {
            refuse("Too many pods".into(), node.max_pods < 1);
        }
        let plain = [
            ("Insufficient cpu", wanted.cpu, all.cpu, taken.cpu),
            ("Insufficient memory", wanted.memory, all.memory, taken.memory),
            ("Insufficient ephemeral-storage", wanted.storage, all.storage, taken.storage),
        ];
        for (reason, wanted, all, taken) in plain {
            if wanted > 0 && wanted > all - taken {
                refuse(reason.into(), wanted > all);
            }
        }
        for (name, wanted) in wanted.other.iter().filter(|(_, wanted)| **wanted > 0) {
            let all = all.other.get(name).copied().unwrap_or(0);
            if *wanted > all - taken.other.get(name).copied().unwrap_or(0) {
                refuse(format!("Insufficient {name}").into(), *wanted > all);
            }
        }
        if refusal.reasons.is_empty() { Ok(()) } else { Err(refusal) }
    }
}

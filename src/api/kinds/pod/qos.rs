//! The quality-of-service class of a pod.
use crate::api::{meta, quantity};
use serde_json::Value;

/// `Guaranteed` (limits = requests for cpu and memory everywhere), `BestEffort` (none at all), else `Burstable`.
pub fn class(pod: &Value) -> &'static str {
    let (mut any, mut guaranteed) = (false, true);
    let lists = [["spec", "initContainers"], ["spec", "containers"]];
    for container in lists.iter().flat_map(|path| meta::list(pod, path)) {
        for resource in ["cpu", "memory"] {
            let amount = |side| {
                let found = meta::at(container, &["resources", side, resource]).and_then(quantity::of);
                found.filter(|q| !q.is_zero())
            };
            let (request, limit) = (amount("requests"), amount("limits"));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && request.is_none_or(|r| Some(r) == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

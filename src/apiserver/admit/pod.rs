//! What a new pod gets without asking: a priority, and patience with a node that is gone.
use serde_json::{Value, json};

use crate::api::{ApiError, meta};

/// The priority classes every cluster has.
const CLASSES: &[(&str, i64)] =
    &[("", 0), ("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

/// Conditions of a node a pod waits out for a while.
const GONE: &[&str] = &["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

/// Resolves the priority class.
pub(super) fn prioritise(pod: &mut Value) -> Result<(), ApiError> {
    let class = meta::text(pod, &["spec", "priorityClassName"]);
    let Some((_, priority)) = CLASSES.iter().find(|(name, _)| *name == class) else {
        let why = format!("no PriorityClass with name {class} was found");
        return Err(ApiError::forbidden("", "pods", meta::name(pod), &why));
    };
    let spec = meta::map_mut(pod, &["spec"]);
    spec.insert("priority".into(), (*priority).into());
    spec.entry("preemptionPolicy").or_insert_with(|| "PreemptLowerPriority".into());
    Ok(())
}

/// Tolerates a node that is not ready or not reachable for `seconds`, unless the pod says how long itself.
pub(super) fn tolerate(pod: &mut Value, seconds: u64) {
    let spec = meta::map_mut(pod, &["spec"]);
    let own = spec.entry("tolerations").or_insert_with(|| json!([]));
    let Some(tolerations) = own.as_array_mut() else {
        return;
    };
    for gone in GONE {
        let says = |t: &Value| {
            let (key, effect) = (meta::text(t, &["key"]), meta::text(t, &["effect"]));
            (key == *gone || key.is_empty()) && (effect == "NoExecute" || effect.is_empty())
        };
        if !tolerations.iter().any(says) {
            tolerations.push(json!({
                "key": gone, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds,
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_waits_for_its_node_unless_it_says_otherwise() {
        let mut pod = json!({"spec": {}});
        tolerate(&mut pod, 5);
        assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), 2);
        let own = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
        let mut pod = own.clone();
        tolerate(&mut pod, 5);
        assert_eq!(pod, own);
    }

    #[test]
    fn only_known_classes_have_a_priority() {
        let mut pod = json!({"metadata": {"name": "p"}, "spec": {"priorityClassName": "system-node-critical"}});
        prioritise(&mut pod).unwrap();
        assert_eq!(pod["spec"]["priority"], 2_000_001_000);
        pod["spec"]["priorityClassName"] = "mine".into();
        let error = prioritise(&mut pod).unwrap_err();
        assert_eq!(error.message, "pods \"p\" is forbidden: no PriorityClass with name mine was found");
    }
}

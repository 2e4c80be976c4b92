//! Warnings Kubernetes gives about pods that are valid but probably not meant.
use crate::api::kinds::check::At;
use crate::api::quantity;

/// Node labels that have newer names.
const OLD_LABELS: &[(&str, &str)] = &[
    ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
    ("beta.kubernetes.io/os", "kubernetes.io/os"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
];

/// Warnings for a pod's spec.
pub fn warn(spec: &At) {
    let selector = spec.child("nodeSelector");
    for (key, _) in selector.entries() {
        if let Some((_, new)) = OLD_LABELS.iter().find(|(old, _)| *old == key) {
            selector.key(key).warn(format!("deprecated since v1.14; use {new:?} instead"));
        }
    }
    for container in spec.each("initContainers").chain(spec.each("containers")) {
        environment(&container);
        fractions(&container);
    }
}

fn environment(container: &At) {
    let mut seen = Vec::new();
    for variable in container.each("env") {
        let name = variable.text("name");
        if seen.contains(&name) {
            variable.warn(format!("hides previous definition of {name:?}, which may be dropped when using apply"));
        }
        seen.push(name);
    }
}

fn fractions(container: &At) {
    for side in ["resources.limits", "resources.requests"] {
        let side = container.child(side);
        let memory = side.key("memory");
        if quantity::of(memory.value).is_some_and(|q| q.nanos % 1_000_000_000 != 0) {
            let text = memory.text("");
            memory.warn(format!("fractional byte value {text:?} is invalid, must be an integer"));
        }
    }
}

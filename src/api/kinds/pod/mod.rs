//! Pods, and bindings of pods to nodes.
mod advice;
mod container;
pub mod defaults;
mod ports;
mod qos;
mod unsupported;
pub mod validate;

pub use qos::class as qos_class;

use super::check::At;
use super::{Kind, Strategy, Sub, common, names};
use crate::api::{meta, printers};
use k8s_openapi::api::core::v1 as core;
use serde_json::{Value, json};

/// The rows.
pub fn rows() -> Vec<Kind> {
    let pod = Kind {
        short_names: &["po"],
        categories: &["all"],
        subresources: &["attach", "binding", "eviction", "exec", "log", "portforward", "status"],
        strategy: Strategy { default: defaults::pod, prepare, validate: rules, warnings },
        columns: printers::POD,
        fields,
        ..Kind::row::<core::Pod>()
    };
    let binding = Kind {
        strategy: Strategy { validate: binding_rules, ..Strategy::PLAIN },
        verbs: common::CREATE_ONLY,
        ..Kind::row::<core::Binding>()
    };
    vec![pod, binding]
}

fn fields(pod: &Value) -> Vec<(&'static str, String)> {
    const TEXTS: &[&str] = &[
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    ];
    let mut fields = common::texts(pod, TEXTS);
    fields.push(("spec.hostNetwork", (pod["spec"]["hostNetwork"] == true).to_string()));
    fields
}

fn prepare(pod: &mut Value, old: Option<&Value>, sub: Sub) {
    common::each_mut(pod, "spec", &mut defaults::account);
    match old {
        None => {
            let class = qos::class(pod);
            pod["status"] = json!({"phase": "Pending", "qosClass": class});
        }
        // A status write says nothing about owners, and the class of service is for good.
        Some(old) if sub == Sub::Status => {
            meta::keep(pod, old, "ownerReferences");
            if let Some(class) = meta::at(old, &["status", "qosClass"]).cloned() {
                common::fill(pod, "status", json!({"qosClass": class}));
            }
        }
        Some(_) => {}
    }
}

fn rules(pod: &At, old: Option<&Value>, sub: Sub) {
    match (old, sub) {
        (None, _) => validate::spec(&pod.child("spec")),
        (Some(old), Sub::Main) => validate::update(pod, old),
        _ => {}
    }
}

fn warnings(pod: &At) {
    warnings_of(&pod.child("spec"));
}

/// Warnings for a pod's spec, wherever it stands.
pub fn warnings_of(spec: &At) {
    advice::warn(spec);
    unsupported::warn(spec);
}

fn binding_rules(binding: &At, _: Option<&Value>, _: Sub) {
    let target = binding.child("target");
    target.one_of("kind", &["Node", "<empty>"]);
    target.needs_form("name", names::dns_subdomain);
}

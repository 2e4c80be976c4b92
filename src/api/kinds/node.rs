//! Nodes and Namespaces.
use super::check::At;
use super::common::{self, fill};
use super::{Kind, Strategy, Sub, names};
use crate::api::{meta, printers};
use k8s_openapi::api::core::v1 as core;
use serde_json::{Value, json};

/// The rows.
pub fn rows() -> Vec<Kind> {
    let namespace = Kind {
        short_names: &["ns"],
        verbs: &["create", "delete", "get", "list", "patch", "update", "watch"],
        subresources: &["finalize", "status"],
        strategy: Strategy { default: namespace_defaults, prepare: namespace_prepare, ..Strategy::PLAIN },
        columns: printers::NAMESPACE,
        fields: |n| common::texts(n, &["status.phase"]),
        ..Kind::row::<core::Namespace>()
    };
    let node = Kind {
        short_names: &["no"],
        subresources: &["status"],
        strategy: Strategy { default: node_defaults, validate: node_rules, ..Strategy::PLAIN },
        columns: printers::NODE,
        fields: |n: &Value| {
            let cordoned = meta::at(n, &["spec", "unschedulable"]).and_then(Value::as_bool).unwrap_or(false);
            vec![("spec.unschedulable", cordoned.to_string())]
        },
        ..Kind::row::<core::Node>()
    };
    vec![namespace, node]
}

/// The label by which selectors find a namespace by its name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";
/// The finalizer that the namespace controller removes when the content is gone.
const FINALIZER: &str = "kubernetes";

fn namespace_defaults(namespace: &mut Value) {
    let name = meta::name(namespace).to_string();
    if !name.is_empty() && meta::label(namespace, NAME_LABEL) != Some(&name) {
        meta::map_mut(namespace, &["metadata", "labels"]).insert(NAME_LABEL.into(), name.into());
    }
}

fn namespace_prepare(namespace: &mut Value, old: Option<&Value>, sub: Sub) {
    match (old, sub) {
        (None, _) => {
            // A generated name exists by now, but did not when defaults were filled in.
            namespace_defaults(namespace);
            namespace["status"] = json!({"phase": "Active"});
            let mut finalizers = meta::list(namespace, &["spec", "finalizers"]).to_vec();
            if !finalizers.iter().any(|f| f == FINALIZER) {
                finalizers.push(FINALIZER.into());
            }
            namespace["spec"] = json!({"finalizers": finalizers});
        }
        (Some(old), Sub::Main) => common::keep(namespace, old, "spec"),
        (Some(old), Sub::Finalize) => common::keep(namespace, old, "status"),
        _ => {}
    }
}

fn node_defaults(node: &mut Value) {
    if let Some(capacity) = meta::at(node, &["status", "capacity"]).cloned() {
        fill(node, "status", json!({"allocatable": capacity}));
    }
}

fn node_rules(new: &At, old: Option<&Value>, _: Sub) {
    let (spec, mut seen) = (new.child("spec"), Vec::new());
    for taint in spec.each("taints") {
        taint.needs_form("key", names::qualified_name);
        taint.form("value", names::label_value);
        taint.needs("effect");
        taint.one_of("effect", &["NoExecute", "NoSchedule", "PreferNoSchedule"]);
        let same = (taint.text("key"), taint.text("effect"));
        if seen.contains(&same) {
            taint.duplicate_because("taints must be unique by key and effect pair");
        }
        seen.push(same);
    }
    for field in ["podCIDR", "providerID"] {
        let was = old.map_or("", |old| meta::text(old, &["spec", field]));
        if !was.is_empty() && was != spec.text(field) {
            spec.child(field).forbidden(format!("node updates may not change {field} except from \"\" to valid"));
        }
    }
}

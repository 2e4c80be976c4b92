//! What every kind shares: system metadata on writes, the generation counter, the scale subresource.
use super::{Kind, Sub};
use crate::api::meta;
use serde_json::{Map, Value, json};
use std::sync::LazyLock;

/// Every verb of an ordinary resource, in discovery's order.
pub const ALL_VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// `k=v,k=v` of a map, sorted, or `<none>`.
pub fn pairs(map: Option<&Map<String, Value>>) -> String {
    let mut out: Vec<String> =
        map.into_iter().flatten().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or(""))).collect();
    out.sort();
    if out.is_empty() { "<none>".into() } else { out.join(",") }
}

/// A `metav1.LabelSelector` as kubectl prints it: `a=b,c in (d,e)`.
pub fn selector_text(selector: Option<&Value>) -> String {
    let Some(selector) = selector else {
        return "<none>".into();
    };
    let mut terms: Vec<String> = match pairs(meta::map(selector, &["matchLabels"])) {
        none if none == "<none>" => vec![],
        some => vec![some],
    };
    for term in meta::list(selector, &["matchExpressions"]) {
        let key = meta::text(term, &["key"]);
        let values: Vec<&str> = meta::list(term, &["values"]).iter().filter_map(Value::as_str).collect();
        terms.push(match meta::text(term, &["operator"]) {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "Exists" => key.to_string(),
            _ => format!("!{key}"),
        });
    }
    if terms.is_empty() { "<none>".into() } else { terms.join(",") }
}

/// Verbs of what is only asked, never stored.
pub const CREATE_ONLY: &[&str] = &["create"];

/// Calls `change` with what is at `path`: fields with dots between, `*` for every item of a list, "" for the value itself.
pub fn each_mut(value: &mut Value, path: &str, change: &mut dyn FnMut(&mut Value)) {
    let (step, rest) = path.split_once('.').unwrap_or((path, ""));
    match value {
        value if path.is_empty() => change(value),
        Value::Object(map) => drop(map.get_mut(step).map(|inner| each_mut(inner, rest, change))),
        Value::Array(items) if step == "*" => items.iter_mut().for_each(|item| each_mut(item, rest, change)),
        _ => {}
    }
}

/// Sets those of the fields of `defaults` that are missing in the objects at `path`, as [`each_mut`] reads it. An empty text
/// is a missing one: Go cannot tell them apart.
pub fn fill(value: &mut Value, path: &str, defaults: Value) {
    let Value::Object(defaults) = defaults else { return };
    each_mut(value, path, &mut |found| {
        if let Some(map) = found.as_object_mut() {
            for (field, default) in &defaults {
                if map.get(field).is_none_or(|was| *was == "") {
                    map.insert(field.clone(), default.clone());
                }
            }
        }
    });
}

/// Fields (with dots between) with their texts, to select by.
pub fn texts(object: &Value, fields: &[&'static str]) -> Vec<(&'static str, String)> {
    let text = |field: &str| meta::text(object, &field.split('.').collect::<Vec<_>>()).to_string();
    fields.iter().map(|field| (*field, text(field))).collect()
}

/// Metadata that only the server writes.
const SYSTEM: &[&str] =
    &["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink"];

/// Metadata that Kubernetes leaves out when there is nothing in it, so that clients see “none” in one form only.
const OMITTED_WHEN_EMPTY: &[&str] = &["annotations", "finalizers", "labels", "ownerReferences"];

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        other => other.is_null(),
    }
}

/// Clears on create, or takes from `old`, what a request may not write.
pub fn prepare(kind: &Kind, new: &mut Value, old: Option<&Value>, sub: Sub) {
    let map = meta::map_mut(new, &[]);
    map.insert("apiVersion".into(), kind.api_version().into());
    map.insert("kind".into(), kind.kind.into());
    if let Some(Value::Object(metadata)) = map.get_mut("metadata") {
        metadata.retain(|field, value| !(OMITTED_WHEN_EMPTY.contains(&field.as_str()) && is_empty(value)));
    }
    if !kind.namespaced {
        meta::unset(new, "namespace");
    }
    let Some(old) = old else {
        for field in SYSTEM {
            meta::unset(new, field);
        }
        meta::unset(new, "resourceVersion");
        return;
    };
    let has_status = kind.has(Sub::Status);
    match sub {
        Sub::Status if has_status => keep_all_but(new, old, &["status", "metadata"]),
        Sub::Main if has_status => keep(new, old, "status"),
        _ => {}
    }
    for field in SYSTEM {
        meta::keep(new, old, field);
    }
}

/// `new.<field>` = `old.<field>`.
pub fn keep(new: &mut Value, old: &Value, field: &str) {
    let map = meta::map_mut(new, &[]);
    match old.get(field) {
        Some(value) => map.insert(field.into(), value.clone()),
        None => map.shift_remove(field),
    };
}

/// Every top-level field but these as in `old`.
pub fn keep_all_but(new: &mut Value, old: &Value, but: &[&str]) {
    let fields: Vec<String> = [&*new, old]
        .into_iter()
        .filter_map(Value::as_object)
        .flat_map(|m| m.keys().cloned())
        .filter(|k| !but.contains(&k.as_str()))
        .collect();
    for field in fields {
        keep(new, old, &field);
    }
}

/// Kinds whose `metadata.generation` counts changes of the desired state.
const COUNTED: &[&str] = &["Deployment", "ReplicaSet", "Pod", "EndpointSlice"];

/// Generation 1 on create; one more whenever anything but metadata and status changed.
pub fn generation(kind: &Kind, new: &mut Value, old: Option<&Value>) {
    if !COUNTED.contains(&kind.kind) {
        return;
    }
    let Some(old) = old else {
        return meta::set(new, "generation", 1);
    };
    let desired = |v: &Value| -> Option<Map<String, Value>> {
        let mut map = v.as_object()?.clone();
        for field in ["metadata", "status", "apiVersion", "kind"] {
            map.shift_remove(field);
        }
        Some(map)
    };
    let deleted_now = meta::deleting(new) && !meta::deleting(old);
    if desired(new) != desired(old) || deleted_now {
        meta::set(new, "generation", meta::generation(old) + 1);
    }
}

/// What a Scale is made of. It is no row: it lies nowhere.
pub static SCALE: LazyLock<Kind> = LazyLock::new(Kind::row::<k8s_openapi::api::autoscaling::v1::Scale>);

/// The Scale object of a workload.
pub fn scale_of(object: &Value) -> Value {
    let mut metadata = Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = meta::at(object, &["metadata", field]) {
            metadata.insert(field.into(), value.clone());
        }
    }
    let selector = selector_text(meta::at(object, &["spec", "selector"]));
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
        "spec": {"replicas": meta::int(object, &["spec", "replicas"]).unwrap_or(0)},
        "status": {"replicas": meta::int(object, &["status", "replicas"]).unwrap_or(0), "selector": selector},
    })
}

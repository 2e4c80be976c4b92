//! Events: one stored object, served as core/v1 and as events.k8s.io/v1.
use super::check::At;
use super::{Kind, Strategy, Sub, common};
use crate::api::{meta, printers};
use k8s_openapi::api::{core::v1 as core, events::v1 as events};
use serde_json::{Map, Value};

/// The core row.
pub fn core_rows() -> Vec<Kind> {
    vec![Kind {
        strategy: Strategy { validate: core_rules, ..Strategy::PLAIN },
        fields: core_fields,
        ..row::<core::Event>()
    }]
}

/// The row of the `events.k8s.io` group.
pub fn rows() -> Vec<Kind> {
    vec![Kind {
        strategy: Strategy { validate: new_rules, ..Strategy::PLAIN },
        fields: |e| core_fields(&to_core(e.clone())),
        ..row::<events::Event>()
    }]
}

fn row<T: k8s_openapi::Resource<Scope: 'static> + schemars::JsonSchema>() -> Kind {
    Kind { short_names: &["ev"], columns: printers::EVENT, ..Kind::row::<T>() }
}

fn core_fields(event: &Value) -> Vec<(&'static str, String)> {
    const PLAIN: &[&str] = &[
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
    ];
    let source = match meta::text(event, &["source", "component"]) {
        "" => meta::text(event, &["reportingComponent"]),
        some => some,
    };
    let mut fields = common::texts(event, PLAIN);
    fields.extend([("source", source.to_string()), ("type", meta::text(event, &["type"]).to_string())]);
    fields
}

/// The namespace of an event is that of what it is about; what has none is told about in `default`.
fn core_rules(event: &At, _: Option<&Value>, _: Sub) {
    namespace(event, "involvedObject");
}

fn namespace(event: &At, about: &str) {
    let about = event.child(about);
    let (about_in, here) = (about.text("namespace"), meta::namespace(event.value));
    let fits = if about_in.is_empty() { matches!(here, "default" | "kube-system") } else { about_in == here };
    if !fits {
        about.child("namespace").invalid_as(about_in, "does not match event.namespace");
    }
}

fn new_rules(event: &At, old: Option<&Value>, _: Sub) {
    namespace(event, "regarding");
    if old.is_some() {
        return;
    }
    for field in ["eventTime", "reportingController", "reportingInstance", "action", "reason"] {
        event.needs(field);
    }
    let kinds = &["Normal", "Warning"];
    if !kinds.contains(&event.text("type")) {
        event.child("type").not_supported(kinds);
    }
}

/// Field names that differ: (core/v1, events.k8s.io/v1).
const RENAMED: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// An `events.k8s.io` Event as a core Event.
pub fn to_core(event: Value) -> Value {
    renamed(event, "v1", |name| RENAMED.iter().find(|(_, new)| *new == name).map(|(core, _)| *core))
}

/// A core Event as an `events.k8s.io` Event.
pub fn from_core(event: Value) -> Value {
    renamed(event, "events.k8s.io/v1", |name| RENAMED.iter().find(|(core, _)| *core == name).map(|(_, new)| *new))
}

fn renamed(event: Value, version: &str, rename: impl Fn(&str) -> Option<&'static str>) -> Value {
    let Value::Object(map) = event else {
        return event;
    };
    let mut out: Map<String, Value> = map.into_iter().map(|(k, v)| (rename(&k).map_or(k, str::to_string), v)).collect();
    out.insert("apiVersion".into(), version.into());
    Value::Object(out)
}

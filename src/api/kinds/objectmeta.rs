//! Validation of `metadata`, the same for every kind.
use super::check::At;
use super::{Kind, names};
use crate::api::meta;
use serde_json::Value;

/// All annotations of an object together, in bytes.
const MAX_ANNOTATIONS: usize = 256 * 1024;
/// Message of a change to a field that never changes.
pub const IMMUTABLE: &str = "field is immutable";

/// What is wrong with the metadata.
pub fn validate(kind: &Kind, new: &At, old: Option<&Value>) {
    if kind.verbs == ["create"] {
        return; // reviews have no name
    }
    let metadata = new.child("metadata");
    name(kind, &metadata);
    maps(&metadata);
    owners(&metadata);
    for finalizer in meta::finalizers(new.value) {
        metadata.child("finalizers").says(finalizer, names::qualified_name(finalizer));
    }
    if let Some(old) = old {
        unchanged(&metadata, new.value, old);
    }
}

/// The form names of a kind have.
fn form(kind: &Kind) -> fn(&str) -> Vec<String> {
    match kind.kind {
        "Namespace" => names::dns_label,
        "Service" => names::dns_1035_label,
        _ if kind.group == "rbac.authorization.k8s.io" => names::path_segment,
        _ => names::dns_subdomain,
    }
}

fn name(kind: &Kind, metadata: &At) {
    let (base, form) = (metadata.text("generateName"), form(kind));
    if !base.is_empty() {
        let trimmed = if base.len() > 1 { base.strip_suffix('-').unwrap_or(base) } else { base };
        metadata.child("generateName").says(base, form(trimmed));
    }
    if metadata.text("name").is_empty() {
        metadata.child("name").required("name or generateName is required");
    }
    metadata.form("name", form);
    if kind.namespaced {
        metadata.needs_form("namespace", names::dns_label);
    }
}

/// Keys of labels and annotations, and values of labels; templates use this too.
pub fn maps(metadata: &At) {
    let labels = metadata.child("labels");
    for (key, value) in labels.entries() {
        labels.says(key, names::qualified_name(key));
        let value = value.as_str().unwrap_or("");
        labels.says(value, names::label_value(value));
    }
    let annotations = metadata.child("annotations");
    for (key, _) in annotations.entries() {
        let lowered = key.to_ascii_lowercase();
        annotations.says(&lowered, names::qualified_name(&lowered));
    }
    let size = |(key, value): (&str, &Value)| key.len() + value.as_str().map_or(0, str::len);
    annotations.at_most_bytes(annotations.entries().map(size).sum(), MAX_ANNOTATIONS);
}

fn owners(metadata: &At) {
    let mut controller: Option<&str> = None;
    for owner in metadata.each("ownerReferences") {
        for (field, what) in [("apiVersion", "version"), ("kind", "kind"), ("name", "name"), ("uid", "uid")] {
            if owner.text(field).is_empty() {
                owner.child(field).invalid_as("", format!("{what} must not be empty"));
            }
        }
        if owner.value["controller"] != true {
            continue;
        }
        let kind = owner.text("kind");
        match controller {
            Some(first) => metadata.child("ownerReferences").invalid(format!(
                "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {kind}"
            )),
            None => controller = Some(kind),
        }
    }
}

fn unchanged(metadata: &At, new: &Value, old: &Value) {
    for field in ["name", "namespace", "uid", "creationTimestamp"] {
        if meta::text(old, &["metadata", field]) != metadata.text(field) {
            metadata.child(field).invalid_as(metadata.text(field), IMMUTABLE);
        }
    }
    if meta::deleting(old) {
        let had = meta::finalizers(old);
        let added: Vec<&str> = meta::finalizers(new).into_iter().filter(|f| !had.contains(f)).collect();
        if !added.is_empty() {
            metadata.child("finalizers").forbidden(format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers {added:?}"
            ));
        }
    }
}

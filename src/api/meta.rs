//! Accessors of object metadata over `serde_json::Value`; nothing here fails, what is absent reads as empty.
use serde_json::{Map, Value};

/// The string at `path` (`["metadata", "name"]`), or "".
pub fn text<'a>(object: &'a Value, path: &[&str]) -> &'a str {
    at(object, path).and_then(Value::as_str).unwrap_or("")
}

/// The value at `path`, if every step exists and is not null.
pub fn at<'a>(object: &'a Value, path: &[&str]) -> Option<&'a Value> {
    let mut here = object;
    for step in path {
        here = here.get(step)?;
    }
    (!here.is_null()).then_some(here)
}

/// The integer at `path`.
pub fn int(object: &Value, path: &[&str]) -> Option<i64> {
    at(object, path).and_then(Value::as_i64)
}

/// The elements of the list at `path`; empty when absent.
pub fn list<'a>(object: &'a Value, path: &[&str]) -> &'a [Value] {
    at(object, path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The object at `path`.
pub fn map<'a>(object: &'a Value, path: &[&str]) -> Option<&'a Map<String, Value>> {
    at(object, path).and_then(Value::as_object)
}

/// `metadata.name`
pub fn name(object: &Value) -> &str {
    text(object, &["metadata", "name"])
}
/// `metadata.namespace`
pub fn namespace(object: &Value) -> &str {
    text(object, &["metadata", "namespace"])
}
/// `metadata.uid`
pub fn uid(object: &Value) -> &str {
    text(object, &["metadata", "uid"])
}
/// `metadata.resourceVersion`
pub fn resource_version(object: &Value) -> &str {
    text(object, &["metadata", "resourceVersion"])
}
/// `metadata.generateName`
pub fn generate_name(object: &Value) -> &str {
    text(object, &["metadata", "generateName"])
}
/// `metadata.generation`
pub fn generation(object: &Value) -> i64 {
    int(object, &["metadata", "generation"]).unwrap_or(0)
}
/// `metadata.creationTimestamp`
pub fn created(object: &Value) -> Option<jiff::Timestamp> {
    text(object, &["metadata", "creationTimestamp"]).parse().ok()
}
/// Whether `metadata.deletionTimestamp` is set.
pub fn deleting(object: &Value) -> bool {
    at(object, &["metadata", "deletionTimestamp"]).is_some()
}
/// `metadata.deletionTimestamp`
pub fn deleted(object: &Value) -> Option<jiff::Timestamp> {
    text(object, &["metadata", "deletionTimestamp"]).parse().ok()
}
/// `metadata.labels`
pub fn labels(object: &Value) -> Option<&Map<String, Value>> {
    map(object, &["metadata", "labels"])
}
/// `metadata.labels[key]`
pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    labels(object)?.get(key)?.as_str()
}
/// `metadata.annotations[key]`
pub fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    map(object, &["metadata", "annotations"])?.get(key)?.as_str()
}
/// `metadata.finalizers`
pub fn finalizers(object: &Value) -> Vec<&str> {
    list(object, &["metadata", "finalizers"]).iter().filter_map(Value::as_str).collect()
}
/// `metadata.ownerReferences`
pub fn owners(object: &Value) -> &[Value] {
    list(object, &["metadata", "ownerReferences"])
}
/// The owner reference with `controller: true`.
pub fn controller_of(object: &Value) -> Option<&Value> {
    owners(object).iter().find(|o| o.get("controller").and_then(Value::as_bool) == Some(true))
}

/// The mutable object at `path`, made where it is missing (what is not an object on the way is replaced).
pub fn map_mut<'a>(object: &'a mut Value, path: &[&str]) -> &'a mut Map<String, Value> {
    let mut here = object;
    for step in path {
        if !here.is_object() {
            *here = Value::Object(Map::new());
        }
        here = &mut here[*step];
    }
    if !here.is_object() {
        *here = Value::Object(Map::new());
    }
    match here {
        Value::Object(map) => map,
        _ => unreachable!("made an object just above"),
    }
}

/// Sets `metadata.<field>`.
pub fn set(object: &mut Value, field: &str, value: impl Into<Value>) {
    map_mut(object, &["metadata"]).insert(field.into(), value.into());
}

/// Removes `metadata.<field>`.
pub fn unset(object: &mut Value, field: &str) {
    if let Some(Value::Object(meta)) = object.get_mut("metadata") {
        meta.shift_remove(field);
    }
}

/// Makes `metadata.<field>` what it is in `old`.
pub fn keep(object: &mut Value, old: &Value, field: &str) {
    match at(old, &["metadata", field]) {
        Some(value) => set(object, field, value.clone()),
        None => unset(object, field),
    }
}

/// A timestamp as `metav1.Time` is written: RFC 3339 in whole seconds.
pub fn time(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A timestamp as `metav1.MicroTime` is written.
pub fn micro_time(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// Longest name a `generateName` base may take up, so that base + 5 random characters fit in a name.
const MAX_GENERATED_BASE: usize = 58;

/// `generateName` + five characters picked by `random` from the letters Kubernetes uses (no vowels, no 0/1/3).
pub fn generated_name(base: &str, random: u64) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut out: String = base.chars().take(MAX_GENERATED_BASE).collect();
    let mut rest = random;
    for _ in 0..5 {
        out.push(char::from(LETTERS[(rest % LETTERS.len() as u64) as usize]));
        rest /= LETTERS.len() as u64;
    }
    out
}

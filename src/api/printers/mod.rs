//! Columns and cells of `kubectl get`, kind by kind, as Kubernetes' own server prints them.
//!
//! A kind's row in the table names one constant list of columns, each with the function from an object to its cell. The
//! functions read `serde_json::Value`s with the accessors of [`super::meta`]; what is absent prints as `<none>`.
mod cluster;
mod network;
mod pod;
mod workload;

pub use cluster::*;
pub use network::*;
pub use pod::*;
pub use workload::*;

use super::kinds::Column;
use super::{duration, meta};
use serde_json::{Map, Value};

const NONE: &str = "<none>";

/// From an object and the time to what a column says.
pub type Cell = fn(&Value, jiff::Timestamp) -> Value;

/// A column that is always shown.
const fn text(name: &'static str, description: &'static str, cell: Cell) -> Column {
    Column { name, kind: "string", format: "", description, priority: 0, cell }
}

/// A column of `-o wide`.
const fn wide(name: &'static str, description: &'static str, cell: Cell) -> Column {
    Column { priority: 1, ..text(name, description, cell) }
}

const fn integer(name: &'static str, description: &'static str, cell: Cell) -> Column {
    Column { kind: "integer", ..text(name, description, cell) }
}

const NAME: Column = Column {
    format: "name",
    ..text("Name", "Name must be unique within a namespace.", |object, _| meta::name(object).into())
};
const AGE: Column = text("Age", "Time since the object was created.", |object, now| {
    since(meta::text(object, &["metadata", "creationTimestamp"]), now).into()
});
/// The columns of a kind that has no better ones.
pub const NAME_AGE: &[Column] = &[NAME, AGE];
/// The same for a kind whose creation is printed as a date.
pub const NAME_CREATED: &[Column] = &[
    NAME,
    Column {
        kind: "date",
        ..text("Created At", "When the object was created.", |object, _| {
            meta::text(object, &["metadata", "creationTimestamp"]).into()
        })
    },
];

fn since(timestamp: &str, now: jiff::Timestamp) -> String {
    duration::since(timestamp, now)
}

/// The text at `path`, or `<none>`.
fn or_none(object: &Value, path: &[&str]) -> Value {
    match meta::text(object, path) {
        "" => NONE.into(),
        text => text.into(),
    }
}

fn joined<T: AsRef<str>>(parts: impl IntoIterator<Item = T>) -> Value {
    let parts: Vec<T> = parts.into_iter().collect();
    if parts.is_empty() {
        return NONE.into();
    }
    parts.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(",").into()
}

/// `a=b,c=d`, sorted, of the map at `path`.
fn labels(object: &Value, path: &[&str]) -> Value {
    let mut pairs = pairs(meta::map(object, path));
    pairs.sort();
    joined(pairs)
}

fn pairs(map: Option<&Map<String, Value>>) -> Vec<String> {
    map.into_iter().flatten().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect()
}

/// A label selector as `kubectl` writes it: `app=web,tier in (a,b),!x`.
fn selector(selector: &Value) -> Value {
    let mut parts = pairs(meta::map(selector, &["matchLabels"]));
    for expression in meta::list(selector, &["matchExpressions"]) {
        let key = meta::text(expression, &["key"]);
        let mut values: Vec<&str> = meta::list(expression, &["values"]).iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        parts.push(match meta::text(expression, &["operator"]) {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_string(),
        });
    }
    parts.sort();
    joined(parts)
}

#[cfg(test)]
mod tests;

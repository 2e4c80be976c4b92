//! `meta.k8s.io/v1` Tables and partial objects.
use super::error::ApiError;
use super::kinds::{Column, Kind};
use serde_json::{Map, Value, json};

/// `?includeObject=`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Include {
    /// Metadata only (the default).
    #[default]
    Metadata,
    /// No object.
    None,
    /// The whole object.
    Object,
}

impl Include {
    /// The query parameter.
    pub fn parse(text: &str) -> Result<Include, ApiError> {
        match text {
            "" | "Metadata" => Ok(Include::Metadata),
            "None" => Ok(Include::None),
            "Object" => Ok(Include::Object),
            other => Err(ApiError::unsupported("includeObject", other, &["Metadata", "None", "Object"])),
        }
    }
}

/// A Table of objects. `list_meta` is the list's metadata (`resourceVersion`, `continue`, `remainingItemCount`).
pub fn table<'a>(
    kind: &Kind,
    objects: impl IntoIterator<Item = &'a Value>,
    list_meta: Value,
    include: Include,
    now: jiff::Timestamp,
) -> Value {
    let rows: Vec<Value> = objects.into_iter().map(|object| row(kind, object, include, now)).collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": list_meta,
        "columnDefinitions": kind.columns.iter().map(definition).collect::<Vec<_>>(),
        "rows": rows,
    })
}

fn definition(column: &Column) -> Value {
    json!({
        "name": column.name,
        "type": column.kind,
        "format": column.format,
        "description": column.description,
        "priority": column.priority,
    })
}

fn row(kind: &Kind, object: &Value, include: Include, now: jiff::Timestamp) -> Value {
    let mut row = Map::from_iter([("cells".to_string(), Value::Array(kind.cells(object, now)))]);
    match include {
        Include::Metadata => row.insert("object".into(), partial(object)),
        Include::Object => row.insert("object".into(), object.clone()),
        Include::None => None,
    };
    Value::Object(row)
}

/// An object reduced to `PartialObjectMetadata`.
pub fn partial(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object.get("metadata").cloned().unwrap_or_else(|| json!({})),
    })
}

/// `PartialObjectMetadataList`
pub fn partial_list<'a>(objects: impl IntoIterator<Item = &'a Value>, list_meta: Value) -> Value {
    json!({
        "kind": "PartialObjectMetadataList",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": list_meta,
        "items": objects.into_iter().map(partial).collect::<Vec<_>>(),
    })
}

//! Patches: JSON patch, merge patch, strategic merge patch, and server-side apply.
mod apply;
mod fields;
mod lay;
mod order;
pub mod rules;
mod strategic;

pub use apply::{apply, track};
pub use strategic::strategic;

use super::decode;
use super::error::ApiError;
use super::kinds::Sub;
use json_patch::PatchOperation;
use serde_json::Value;

/// Media type of a PATCH body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchType {
    /// `application/json-patch+json`
    Json,
    /// `application/merge-patch+json`
    Merge,
    /// `application/strategic-merge-patch+json`
    Strategic,
    /// `application/apply-patch+yaml`
    Apply,
}

impl PatchType {
    /// From a `Content-Type` (parameters ignored).
    pub fn parse(content_type: &str) -> Option<PatchType> {
        Some(match content_type.split(';').next().unwrap_or("").trim() {
            "application/json-patch+json" => PatchType::Json,
            "application/merge-patch+json" => PatchType::Merge,
            "application/strategic-merge-patch+json" => PatchType::Strategic,
            "application/apply-patch+yaml" | "application/apply-patch+json" => PatchType::Apply,
            _ => return None,
        })
    }
}

/// Who writes, when, and to which part: what managedFields records.
#[derive(Debug, Clone)]
pub struct Writer<'a> {
    /// `?fieldManager=`, else the first part of the User-Agent.
    pub manager: &'a str,
    /// Part of the object that is written.
    pub sub: Sub,
    /// Now.
    pub now: jiff::Timestamp,
    /// `?force=true` of server-side apply.
    pub force: bool,
}

/// RFC 6902.
pub fn json(object: &Value, patch: &Value) -> Result<Value, ApiError> {
    let operations: json_patch::Patch = serde_json::from_value(patch.clone())
        .map_err(|e| ApiError::bad_request(format!("error decoding patch: {e}")))?;
    if operations.len() > MAX_OPERATIONS {
        let got = operations.len();
        return Err(refused(
            413,
            "RequestEntityTooLarge",
            format!("The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {got}"),
        ));
    }
    let (mut patched, mut copied) = (object.clone(), 0);
    for (at, operation) in operations.iter().enumerate() {
        bounded(&patched, operation, &mut copied)
            .and_then(|()| {
                json_patch::patch_unsafe(&mut patched, std::slice::from_ref(operation)).map_err(|mut e| {
                    e.operation = at;
                    e.to_string()
                })
            })
            .map_err(|e| {
                refused(422, "Invalid", format!("the server rejected our request due to an error in our request: {e}"))
            })?;
    }
    Ok(patched)
}

/// Refuses an operation before it makes of a small patch an object that is too large to hold or too deep to read.
fn bounded(object: &Value, operation: &PatchOperation, copied: &mut usize) -> Result<(), String> {
    let value = match operation {
        PatchOperation::Add(op) => Some(&op.value),
        PatchOperation::Replace(op) => Some(&op.value),
        PatchOperation::Move(op) => object.pointer(op.from.as_str()),
        PatchOperation::Copy(op) => object.pointer(op.from.as_str()),
        PatchOperation::Remove(_) | PatchOperation::Test(_) => None,
    };
    let copy = value.filter(|_| matches!(operation, PatchOperation::Copy(_)));
    *copied += copy.map_or(0, |value| value.to_string().len());
    if *copied > MAX_COPIED {
        return Err(format!(
            "Unable to complete the copy, the accumulated size increase of copy operations is {copied}, exceeding the limit {MAX_COPIED}"
        ));
    }
    let levels = decode::MAX_DEPTH.saturating_sub(operation.path().count());
    let fits = !value.is_some_and(|value| decode::deeper(value, levels));
    fits.then_some(()).ok_or_else(|| decode::TOO_DEEP.to_owned())
}

fn refused(code: u16, reason: &'static str, message: String) -> ApiError {
    ApiError { code, reason, message, details: None }
}

/// Kubernetes' own limit on one JSON patch.
const MAX_OPERATIONS: usize = 10_000;
/// Kubernetes' own limit on what the copies of one JSON patch add up to, in bytes.
const MAX_COPIED: usize = 3 << 20;

/// RFC 7386.
pub fn merge(object: &Value, patch: &Value) -> Value {
    let mut merged = object.clone();
    json_patch::merge(&mut merged, patch);
    merged
}

#[cfg(test)]
mod tests;

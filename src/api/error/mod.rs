//! Kubernetes' `Status` errors, worded as the API server words them.
mod field;

pub use field::{ErrorType, FieldError};

use serde_json::{Value, json};
use std::fmt;

/// An error of the API: becomes a `Status` object with an HTTP status code.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status code.
    pub code: u16,
    /// Machine-readable reason: `NotFound`, `Conflict`, …
    pub reason: &'static str,
    /// The sentence people see.
    pub message: String,
    /// What it is about.
    pub details: Option<Box<Details>>,
}

/// `Status.details`: the object in question, and what is wrong with it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Details {
    /// Name of the object.
    pub name: String,
    /// API group.
    pub group: String,
    /// Resource (plural), or the kind for `Invalid`.
    pub kind: String,
    /// UID, where known.
    pub uid: String,
    /// One a field, for `Invalid` and apply conflicts.
    pub causes: Vec<Cause>,
    /// When to try again, in seconds; 0 = not given.
    pub retry_after_seconds: u32,
}

/// One cause of a `Status`.
#[derive(Debug, Clone, PartialEq)]
pub struct Cause {
    /// `FieldValueRequired`, `FieldManagerConflict`, …
    pub reason: String,
    /// The sentence without the field.
    pub message: String,
    /// Path of the field.
    pub field: String,
}

/// `pods`, or `deployments.apps`: how messages name a resource (or a kind) of a group.
pub fn qualified(group: &str, name: &str) -> String {
    if group.is_empty() { name.into() } else { format!("{name}.{group}") }
}

/// The message of an optimistic-lock conflict.
pub const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

impl ApiError {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        ApiError { code, reason, message: message.into(), details: None }
    }
    fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        let details = self.details.get_or_insert_with(Box::default);
        (details.group, details.kind, details.name) = (group.into(), kind.into(), name.into());
        self
    }
    fn with(self, details: Details) -> Self {
        ApiError { details: Some(Box::new(details)), ..self }
    }

    /// 404: `pods "web" not found`
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} {name:?} not found", qualified(group, resource)))
            .about(group, resource, name)
    }
    /// 404 for a path that names nothing the server has.
    pub fn unknown_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource").with(Details::default())
    }
    /// 409: `pods "web" already exists`
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{} {name:?} already exists", qualified(group, resource)))
            .about(group, resource, name)
    }
    /// 409: `Operation cannot be fulfilled on pods "web": <why>`; for optimistic locks `why` is [`MODIFIED`].
    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", qualified(group, resource));
        Self::new(409, "Conflict", message).about(group, resource, name)
    }
    /// 409 of server-side apply: one cause a field somebody else manages.
    pub fn apply_conflict(message: String, causes: Vec<Cause>) -> Self {
        Self::new(409, "Conflict", message).with(Details { causes, ..Details::default() })
    }
    /// 422: `Pod "web" is invalid: spec.containers: Required value`, with a cause a field.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Self {
        let mut seen: Vec<String> = Vec::new();
        for e in errors {
            let text = e.to_string();
            if !seen.contains(&text) {
                seen.push(text);
            }
        }
        let text = match seen.len() {
            0 => String::new(),
            1 => format!(": {}", seen[0]),
            _ => format!(": [{}]", seen.join(", ")),
        };
        let causes = errors.iter().map(FieldError::cause).collect();
        Self::new(422, "Invalid", format!("{} {name:?} is invalid{text}", qualified(group, kind)))
            .with(Details { causes, ..Details::default() })
            .about(group, kind, name)
    }
    /// 400 with the sentence as it is.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }
    /// 400 of a parameter that has another value than these.
    pub fn unsupported(parameter: &str, value: &str, supported: &[&str]) -> Self {
        Self::bad_request(FieldError::not_supported(parameter, value, supported).to_string())
    }

    /// 403: `pods "web" is forbidden: <why>` (without a name: `pods is forbidden: …`).
    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let what = qualified(group, resource);
        let message = match (resource.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {why}"),
            (false, true) => format!("{what} is forbidden: {why}"),
            (false, false) => format!("{what} {name:?} is forbidden: {why}"),
        };
        Self::new(403, "Forbidden", message).about(group, resource, name)
    }
    /// 401
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }
    /// 410: the resourceVersion (or continue token) is older than the history kept.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }
    /// 410 of a watch whose revision is gone: `too old resource version: 5 (90)`.
    pub fn too_old(asked: u64, oldest: u64) -> Self {
        Self::expired(format!("too old resource version: {asked} ({oldest})"))
    }
    /// 504 of a read that asks for a revision which does not exist yet.
    pub fn too_large_version(asked: u64, current: u64) -> Self {
        let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
        let cause = Cause {
            reason: "ResourceVersionTooLarge".into(),
            message: "Too large resource version".into(),
            field: String::new(),
        };
        let details = Details { causes: vec![cause], retry_after_seconds: 1, ..Details::default() };
        Self::new(504, "Timeout", message).with(details)
    }
    /// 405: `patch is not supported on resources of kind "bindings"`
    pub fn method_not_allowed(group: &str, resource: &str, action: &str) -> Self {
        let message = format!("{action} is not supported on resources of kind {:?}", qualified(group, resource));
        Self::new(405, "MethodNotAllowed", message).about(group, resource, "")
    }
    /// 406: none of the media types asked for can be produced.
    pub fn not_acceptable(message: impl Into<String>) -> Self {
        Self::new(406, "NotAcceptable", message)
    }
    /// 415: the body's media type is not understood.
    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(415, "UnsupportedMediaType", message)
    }
    /// 413: the body has more than `limit` bytes.
    pub fn too_large(limit: usize) -> Self {
        let message = format!("Request entity too large: limit is {limit}");
        Self::new(413, "RequestEntityTooLarge", message)
    }
    /// 429: try again in `seconds`.
    pub fn too_many_requests(message: impl Into<String>, seconds: u32) -> Self {
        let details = Details { retry_after_seconds: seconds, ..Details::default() };
        Self::new(429, "TooManyRequests", message).with(details)
    }
    /// 504: `Timeout: <message>`
    pub fn timeout(message: impl fmt::Display) -> Self {
        Self::new(504, "Timeout", format!("Timeout: {message}"))
    }
    /// 500: `Internal error occurred: <error>`
    pub fn internal(error: impl fmt::Display) -> Self {
        let text = error.to_string();
        let cause = Cause { reason: String::new(), message: text.clone(), field: String::new() };
        let details = Details { causes: vec![cause], ..Details::default() };
        Self::new(500, "InternalError", format!("Internal error occurred: {text}")).with(details)
    }
    /// The `Status` object of this error.
    pub fn to_status(&self) -> Value {
        let mut status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason});
        if let Some(details) = &self.details {
            status["details"] = details.to_value();
        }
        status["code"] = self.code.into();
        status
    }
    /// The `Status` object a finished delete answers with.
    pub fn success(group: &str, resource: &str, name: &str, uid: &str) -> Value {
        let details = Details {
            name: name.into(),
            group: group.into(),
            kind: resource.into(),
            uid: uid.into(),
            ..Details::default()
        };
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details.to_value()})
    }
}

impl Details {
    fn to_value(&self) -> Value {
        said(json!({
            "name": self.name, "group": self.group, "kind": self.kind, "uid": self.uid,
            "causes": self.causes.iter().map(Cause::to_value).collect::<Vec<_>>(),
            "retryAfterSeconds": self.retry_after_seconds,
        }))
    }
}

impl Cause {
    fn to_value(&self) -> Value {
        said(json!({"reason": self.reason, "message": self.message, "field": self.field}))
    }
}

/// The object without the fields that say nothing.
fn said(mut object: Value) -> Value {
    if let Some(fields) = object.as_object_mut() {
        fields.retain(|_, value| *value != "" && *value != 0 && *value != json!([]));
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_as_kubernetes_words_them() {
        let errors = [FieldError::required("spec.a", ""), FieldError::invalid("spec.b", 3, "no")];
        for (error, code, message) in [
            (ApiError::not_found("", "pods", "a"), 404, r#"pods "a" not found"#),
            (ApiError::already_exists("apps", "deployments", "a"), 409, r#"deployments.apps "a" already exists"#),
            (
                ApiError::conflict("", "pods", "a", MODIFIED),
                409,
                r#"Operation cannot be fulfilled on pods "a": the object has been modified; please apply your changes to the latest version and try again"#,
            ),
            (ApiError::forbidden("", "pods", "", "no"), 403, "pods is forbidden: no"),
            (
                ApiError::invalid("apps", "Deployment", "a", &errors),
                422,
                r#"Deployment.apps "a" is invalid: [spec.a: Required value, spec.b: Invalid value: 3: no]"#,
            ),
            (ApiError::too_old(5, 90), 410, "too old resource version: 5 (90)"),
            (ApiError::internal("x"), 500, "Internal error occurred: x"),
        ] {
            assert_eq!((error.code, error.message.as_str()), (code, message));
        }
    }

    #[test]
    fn a_status_names_the_object_and_its_causes() {
        let errors = [FieldError::not_supported("spec.p", "x", &["b", "a"])];
        let status = ApiError::invalid("", "Pod", "a", &errors).to_status();
        let body = r#"Unsupported value: "x": supported values: "a", "b""#;
        let want = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": format!(r#"Pod "a" is invalid: spec.p: {body}"#), "reason": "Invalid",
            "details": {"name": "a", "kind": "Pod",
                "causes": [{"reason": "FieldValueNotSupported", "message": body, "field": "spec.p"}]},
            "code": 422});
        assert_eq!(status, want);
    }
}

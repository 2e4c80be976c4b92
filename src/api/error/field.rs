//! What is wrong with one field, in Kubernetes' words.
use super::Cause;
use serde_json::Value;
use std::fmt;

/// What is wrong with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorType {
    /// `Required value`
    Required,
    /// `Invalid value: …`
    Invalid,
    /// `Unsupported value: …`
    NotSupported,
    /// `Duplicate value: …`
    Duplicate,
    /// `Forbidden`
    Forbidden,
    /// `Not found: …`
    NotFound,
    /// `Too long`
    TooLong,
    /// `Too many: …`
    TooMany,
    /// No error at all: a warning.
    Warning,
}

impl ErrorType {
    /// The reason of the cause in `Status.details`.
    pub fn reason(self) -> &'static str {
        match self {
            ErrorType::Required => "FieldValueRequired",
            ErrorType::Invalid => "FieldValueInvalid",
            ErrorType::NotSupported => "FieldValueNotSupported",
            ErrorType::Duplicate => "FieldValueDuplicate",
            ErrorType::Forbidden => "FieldValueForbidden",
            ErrorType::NotFound => "FieldValueNotFound",
            ErrorType::TooLong => "FieldValueTooLong",
            ErrorType::TooMany => "FieldValueTooMany",
            ErrorType::Warning => "",
        }
    }
}

/// One problem of one field: `spec.containers[0].image: Required value`.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldError {
    /// Path as Kubernetes writes it: `spec.ports[0].port`.
    pub field: String,
    /// What sort of problem.
    pub kind: ErrorType,
    /// The sentence after the path.
    pub body: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body)
    }
}

/// A value as Go's `field.Error` prints it: strings quoted, scalars bare, objects as JSON.
fn shown(value: &Value) -> String {
    match value {
        Value::String(s) => format!("{s:?}"),
        Value::Null => "null".into(),
        other => other.to_string(),
    }
}

fn with_detail(head: String, detail: impl AsRef<str>) -> String {
    if detail.as_ref().is_empty() { head } else { format!("{head}: {}", detail.as_ref()) }
}

impl FieldError {
    fn new(field: impl ToString, kind: ErrorType, body: String) -> Self {
        FieldError { field: field.to_string(), kind, body }
    }
    /// `<field>: Required value[: detail]`
    pub fn required(field: impl ToString, detail: impl AsRef<str>) -> Self {
        Self::new(field, ErrorType::Required, with_detail("Required value".into(), detail))
    }
    /// `<field>: Invalid value: <value>: detail`
    pub fn invalid(field: impl ToString, value: impl Into<Value>, detail: impl AsRef<str>) -> Self {
        Self::new(field, ErrorType::Invalid, with_detail(format!("Invalid value: {}", shown(&value.into())), detail))
    }
    /// `<field>: Unsupported value: "x": supported values: "a", "b"`
    pub fn not_supported(field: impl ToString, value: impl Into<Value>, supported: &[&str]) -> Self {
        let mut sorted: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        sorted.sort();
        let detail = if sorted.is_empty() { String::new() } else { format!("supported values: {}", sorted.join(", ")) };
        Self::new(
            field,
            ErrorType::NotSupported,
            with_detail(format!("Unsupported value: {}", shown(&value.into())), detail),
        )
    }
    /// `<field>: Duplicate value: <value>`
    pub fn duplicate(field: impl ToString, value: impl Into<Value>) -> Self {
        Self::new(field, ErrorType::Duplicate, format!("Duplicate value: {}", shown(&value.into())))
    }
    /// `<field>: Forbidden: detail`
    pub fn forbidden(field: impl ToString, detail: impl AsRef<str>) -> Self {
        Self::new(field, ErrorType::Forbidden, with_detail("Forbidden".into(), detail))
    }
    /// `<field>: Not found: <value>`
    pub fn not_found(field: impl ToString, value: impl Into<Value>) -> Self {
        Self::new(field, ErrorType::NotFound, format!("Not found: {}", shown(&value.into())))
    }
    /// `<field>: Too long: may not be more than <max> bytes`
    pub fn too_long(field: impl ToString, max: usize) -> Self {
        Self::new(field, ErrorType::TooLong, format!("Too long: may not be more than {max} bytes"))
    }
    /// `<field>: Too many: <n>: must have at most <max> items`
    pub fn too_many(field: impl ToString, n: usize, max: usize) -> Self {
        Self::new(field, ErrorType::TooMany, format!("Too many: {n}: must have at most {max} items"))
    }
    /// `<field>: <text>`, which is no error.
    pub fn warning(field: impl ToString, text: impl Into<String>) -> Self {
        Self::new(field, ErrorType::Warning, text.into())
    }

    /// The same problem as a cause of a `Status`.
    pub fn cause(&self) -> Cause {
        Cause { reason: self.kind.reason().into(), message: self.body.clone(), field: self.field.clone() }
    }
}

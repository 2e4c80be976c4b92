//! What controllers of pods share: the selector, the template, numbers and percentages.
use super::check::At;
use super::pod;
use crate::api::selector::LabelSelector;
use serde_json::{Value, json};

/// Validates `spec.selector` against `spec.template`; `what` is the kind, in lower case, for the message.
pub fn selector(object: &At, what: &str) {
    let Some(selector) = object.given("spec.selector") else {
        return object.child("spec.selector").required("");
    };
    selector.label_selector();
    let labels = object.child("spec.template.metadata.labels");
    match LabelSelector::from_object(Some(selector.value)) {
        Ok(s) if s.is_empty() => selector.invalid(format!("empty selector is invalid for {what}")),
        Ok(s) if !s.matches(labels.value.as_object()) => {
            let have = labels.value.as_object().map_or(json!({}), |_| labels.value.clone());
            labels.invalid_as(have, "`selector` does not match template `labels`");
        }
        Ok(_) => {}
        Err(_) => {} // an unknown operator; said above
    }
}

/// Validates `spec.template` of a controller whose pods run for ever.
pub fn template(object: &At, what: &str) {
    super::objectmeta::maps(&object.child("spec.template.metadata"));
    let spec = object.child("spec.template.spec");
    if !spec.value.is_object() {
        return object.child("spec.template").required("");
    }
    pod::validate::spec(&spec);
    if spec.text("restartPolicy") != "Always" {
        spec.child("restartPolicy").not_supported(&["Always"]);
    }
    if let Some(deadline) = spec.given("activeDeadlineSeconds") {
        deadline.forbidden(format!("activeDeadlineSeconds in {what} is not Supported"));
    }
}

/// Warnings about the template.
pub fn warnings(object: &At) {
    pod::warnings_of(&object.child("spec.template.spec"));
}

/// Validates a number or percentage.
pub fn count_or_percent(place: &At) {
    let Some(text) = place.value.as_str() else {
        return place.not_negative("");
    };
    let digits = text.strip_suffix('%').unwrap_or("");
    if digits.is_empty() || !digits.bytes().all(|c| c.is_ascii_digit()) {
        place.invalid("a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')");
    }
}

/// Whether a number or percentage is nothing.
pub fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.trim_end_matches('%').parse() == Ok(0),
        value => value.as_i64() == Some(0),
    }
}

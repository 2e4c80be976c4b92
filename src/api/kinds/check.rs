//! Where a validation stands in an object, and the small checks that every validation is made of.
use super::names;
use crate::api::error::FieldError;
use crate::api::meta;
use serde_json::Value;
use std::cell::RefCell;
use std::fmt;

/// A place in an object that is validated: the value there (null where there is none), the way to it, which becomes
/// text only for a problem, and the list that problems go to.
#[derive(Clone, Copy)]
pub struct At<'a> {
    /// What is there.
    pub value: &'a Value,
    /// The root has none.
    parent: Option<&'a At<'a>>,
    step: Step<'a>,
    problems: &'a RefCell<Vec<FieldError>>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    /// A field, or several with dots.
    Field(&'a str),
    Item(&'a str, usize),
    Key(&'a str),
}

/// Everything that `rules` find wrong with `object`.
pub fn problems(object: &Value, rules: impl FnOnce(&At)) -> Vec<FieldError> {
    let problems = RefCell::default();
    rules(&At { value: object, parent: None, step: Step::Field(""), problems: &problems });
    problems.into_inner()
}

impl fmt::Display for At<'_> {
    /// `spec.containers[0].image`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(parent) = self.parent else {
            return Ok(());
        };
        parent.fmt(f)?;
        let dot = if parent.parent.is_some() { "." } else { "" };
        match self.step {
            Step::Field("") => Ok(()),
            Step::Field(name) => write!(f, "{dot}{name}"),
            Step::Item(list, at) => write!(f, "{dot}{list}[{at}]"),
            Step::Key(key) => write!(f, "[{key}]"),
        }
    }
}

/// Ways down. A field may be several with dots between; "" is the value itself.
impl<'a> At<'a> {
    fn below<'b>(&'b self, step: Step<'b>, value: Option<&'b Value>) -> At<'b> {
        At { value: value.unwrap_or(&Value::Null), parent: Some(self), step, problems: self.problems }
    }

    /// `<self>.<field>`
    pub fn child<'b>(&'b self, field: &'b str) -> At<'b> {
        self.below(Step::Field(field), self.get(field))
    }

    /// `<self>.<field>`, if it is set.
    pub fn given<'b>(&'b self, field: &'b str) -> Option<At<'b>> {
        Some(self.child(field)).filter(|child| !child.value.is_null())
    }

    /// `<self>.<field>[<index>]`
    pub fn item<'b>(&'b self, field: &'b str, index: usize) -> At<'b> {
        self.below(Step::Item(field, index), self.list(field).get(index))
    }

    /// Every `<self>.<field>[<index>]`
    pub fn each<'b>(&'b self, field: &'b str) -> impl Iterator<Item = At<'b>> {
        (0..self.list(field).len()).map(move |index| self.item(field, index))
    }

    /// Every item of a list of texts, with its text.
    pub fn each_text<'b>(&'b self, field: &'b str) -> impl Iterator<Item = (At<'b>, &'b str)> {
        self.each(field).filter_map(|item| Some((item, item.value.as_str()?)))
    }

    /// `<self>[<key>]`
    pub fn key<'b>(&'b self, key: &'b str) -> At<'b> {
        self.below(Step::Key(key), self.value.get(key))
    }

    /// Keys and values of the map that is here.
    pub fn entries(&self) -> impl Iterator<Item = (&'a str, &'a Value)> + use<'a> {
        self.value.as_object().into_iter().flatten().map(|(key, value)| (key.as_str(), value))
    }

    /// The value of a field, if it is set.
    pub fn get(&self, field: &str) -> Option<&'a Value> {
        let mut steps = field.split('.').filter(|step| !step.is_empty());
        let value = steps.try_fold(self.value, |here, step| here.get(step))?;
        (!value.is_null()).then_some(value)
    }

    /// The text of a field, or "".
    pub fn text(&self, field: &str) -> &'a str {
        self.get(field).and_then(Value::as_str).unwrap_or("")
    }

    /// The number of a field.
    pub fn int(&self, field: &str) -> Option<i64> {
        self.get(field)?.as_i64()
    }

    /// The items of a field; none if it is not set.
    pub fn list(&self, field: &str) -> &'a [Value] {
        self.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }
}

/// Problems of this place.
impl At<'_> {
    fn push(&self, problem: FieldError) {
        self.problems.borrow_mut().push(problem);
    }

    /// `Required value: <why>`
    pub fn required(&self, why: &str) {
        self.push(FieldError::required(self, why));
    }

    /// `Invalid value: <the value here>: <why>`
    pub fn invalid(&self, why: impl AsRef<str>) {
        self.invalid_as(self.value.clone(), why);
    }

    /// `Invalid value: <value>: <why>`
    pub fn invalid_as(&self, value: impl Into<Value>, why: impl AsRef<str>) {
        self.push(FieldError::invalid(self, value, why));
    }

    /// The text here has these problems, an `Invalid value` each.
    pub fn says(&self, text: &str, problems: Vec<String>) {
        problems.into_iter().for_each(|problem| self.invalid_as(text, problem));
    }

    /// `Unsupported value: "x": supported values: "a", "b"`
    pub fn not_supported(&self, allowed: &[&str]) {
        self.push(FieldError::not_supported(self, self.value.as_str().unwrap_or(""), allowed));
    }

    /// `Duplicate value: <the value here>`
    pub fn duplicate(&self) {
        self.duplicate_as(self.value.clone());
    }

    /// `Duplicate value: <the value here>: <why>`
    pub fn duplicate_because(&self, why: &str) {
        let mut problem = FieldError::duplicate(self, self.value.clone());
        problem.body.push_str(": ");
        problem.body.push_str(why);
        self.push(problem);
    }

    /// `Duplicate value: <value>`
    pub fn duplicate_as(&self, value: impl Into<Value>) {
        self.push(FieldError::duplicate(self, value));
    }

    /// `Forbidden: <why>`
    pub fn forbidden(&self, why: impl AsRef<str>) {
        self.push(FieldError::forbidden(self, why));
    }

    /// `Not found: <the value here>`
    pub fn not_found(&self) {
        self.push(FieldError::not_found(self, self.value.clone()));
    }

    /// `Too long: may not be more than <max> bytes`, if `size` is.
    pub fn at_most_bytes(&self, size: usize, max: usize) {
        if size > max {
            self.push(FieldError::too_long(self, max));
        }
    }

    /// `Too many: …`, if the list here has more items.
    pub fn at_most_items(&self, max: usize) {
        let count = self.value.as_array().map_or(0, Vec::len);
        if count > max {
            self.push(FieldError::too_many(self, count, max));
        }
    }

    /// What deserves a warning without being wrong.
    pub fn warn(&self, text: impl Into<String>) {
        self.push(FieldError::warning(self, text));
    }
}

/// Checks of a field.
impl<'a> At<'a> {
    /// It is one of these, if it is set.
    pub fn one_of(&self, field: &str, allowed: &[&str]) {
        let value = self.text(field);
        if !value.is_empty() && !allowed.contains(&value) {
            self.child(field).not_supported(allowed);
        }
    }

    /// It is set.
    pub fn needs(&self, field: &str) {
        if self.text(field).is_empty() {
            self.child(field).required("");
        }
    }

    /// It has the form, if it is set.
    pub fn form(&self, field: &str, form: fn(&str) -> Vec<String>) {
        let value = self.text(field);
        if !value.is_empty() {
            self.child(field).says(value, form(value));
        }
    }

    /// It is set and has the form.
    pub fn needs_form(&self, field: &str, form: fn(&str) -> Vec<String>) {
        self.needs(field);
        self.form(field, form);
    }

    /// No other item has the same text there.
    pub fn unique(&self, field: &str, seen: &mut Vec<&'a str>) {
        let value = self.text(field);
        if !value.is_empty() && seen.contains(&value) {
            self.child(field).duplicate();
        }
        seen.push(value);
    }

    /// The number is not negative, if it is set.
    pub fn not_negative(&self, field: &str) {
        if self.int(field).is_some_and(|n| n < 0) {
            self.child(field).invalid("must be greater than or equal to 0");
        }
    }

    /// The number lies between, if it is set.
    pub fn between(&self, field: &str, low: i64, high: i64) {
        if self.int(field).is_some_and(|n| !(low..=high).contains(&n)) {
            self.child(field).invalid(format!("must be between {low} and {high}, inclusive"));
        }
    }

    /// A port: a number from 1 to 65535.
    pub fn port(&self, field: &str) {
        let port = self.int(field).unwrap_or(0);
        if !(1..=65535).contains(&port) {
            self.child(field).invalid_as(port, "must be between 1 and 65535, inclusive");
        }
    }

    /// A port by number or name.
    pub fn port_or_name(&self, field: &str) {
        match self.get(field) {
            Some(Value::String(name)) => self.child(field).says(name, names::port_name(name)),
            _ => self.port(field),
        }
    }

    /// It is what it was in `old`.
    pub fn immutable(&self, old: Option<&Value>, field: &str) {
        let path: Vec<&str> = field.split('.').collect();
        if old.is_some_and(|old| meta::at(old, &path) != self.get(field)) {
            self.child(field).invalid(super::objectmeta::IMMUTABLE);
        }
    }

    /// A map of labels; what is wrong with a value is told of the value.
    pub fn labels(&self, field: &str) {
        let labels = self.child(field);
        for (key, value) in labels.entries() {
            labels.says(key, names::qualified_name(key));
            let value = value.as_str().unwrap_or("");
            labels.key(key).says(value, names::label_value(value));
        }
    }

    /// A `metav1.LabelSelector` is here.
    pub fn label_selector(&self) {
        self.labels("matchLabels");
        for term in self.each("matchExpressions") {
            let (values, operator) = (term.child("values"), term.text("operator"));
            match (operator, term.list("values").is_empty()) {
                ("In" | "NotIn", true) => values.required("must be specified when `operator` is 'In' or 'NotIn'"),
                ("Exists" | "DoesNotExist", false) => {
                    values.forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
                }
                ("In" | "NotIn" | "Exists" | "DoesNotExist", _) => {}
                _ => term.child("operator").invalid_as(operator, "not a valid selector operator"),
            }
            term.form("key", names::qualified_name);
        }
    }
}

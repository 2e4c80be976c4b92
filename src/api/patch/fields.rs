//! Sets of fields, as managedFields write them (`FieldsV1`), and what they are computed from: objects and their types.
//!
//! A path is a row of steps, each written as in FieldsV1: `f:<field or map key>`, `k:<keys of a list item as JSON>`,
//! `v:<value of a set as JSON>`. A set is the tree of its paths.
use super::rules::ListType;
use crate::api::schema::Type;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// A set of fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Set {
    /// The path that leads here is in the set itself.
    pub member: bool,
    /// Longer paths.
    pub children: BTreeMap<String, Set>,
}

impl Set {
    /// A set of just the path that leads to it.
    pub fn leaf() -> Set {
        Set { member: true, children: BTreeMap::new() }
    }

    /// Nothing in it?
    pub fn is_empty(&self) -> bool {
        !self.member && self.children.values().all(Set::is_empty)
    }

    /// Adds all of `other`.
    pub fn union(&mut self, other: &Set) {
        self.member |= other.member;
        for (step, theirs) in &other.children {
            self.children.entry(step.clone()).or_default().union(theirs);
        }
    }

    /// Takes out what `other` has.
    pub fn subtract(&mut self, other: &Set) {
        self.member &= !other.member;
        for (step, theirs) in &other.children {
            if let Some(ours) = self.children.get_mut(step) {
                ours.subtract(theirs);
            }
        }
        self.children.retain(|_, child| !child.is_empty());
    }

    /// What both have.
    pub fn intersection(&self, other: &Set) -> Set {
        let mut out = Set { member: self.member && other.member, children: BTreeMap::new() };
        for (step, ours) in &self.children {
            if let Some(theirs) = other.children.get(step) {
                let both = ours.intersection(theirs);
                if !both.is_empty() {
                    out.children.insert(step.clone(), both);
                }
            }
        }
        out
    }

    /// Removes a path and everything under it.
    pub fn forget(&mut self, path: &[&str]) {
        match path {
            [] => *self = Set::default(),
            [last] => {
                self.children.remove(*last);
            }
            [first, rest @ ..] => {
                if let Some(child) = self.children.get_mut(*first) {
                    child.forget(rest);
                    if child.is_empty() {
                        self.children.remove(*first);
                    }
                }
            }
        }
    }

    /// Every path, as Kubernetes prints it: `.spec.containers[name="web"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.collect("", &mut out);
        out
    }

    fn collect(&self, prefix: &str, out: &mut Vec<String>) {
        if self.member {
            out.push(prefix.to_string());
        }
        for (step, child) in &self.children {
            child.collect(&format!("{prefix}{}", shown(step)), out);
        }
    }

    /// As `fieldsV1`.
    pub fn encode(&self) -> Value {
        let mut map = Map::new();
        if self.member && !self.children.is_empty() {
            map.insert(".".into(), json!({}));
        }
        for (step, child) in &self.children {
            map.insert(step.clone(), child.encode());
        }
        Value::Object(map)
    }

    /// From `fieldsV1`. What is not of its form is left out.
    pub fn decode(fields: &Value) -> Set {
        let mut set = Set::decode_node(fields);
        // The root itself is never a field.
        set.member = false;
        set
    }

    fn decode_node(fields: &Value) -> Set {
        let Some(map) = fields.as_object() else {
            return Set::default();
        };
        let children: BTreeMap<String, Set> = map
            .iter()
            .filter(|(step, _)| *step != ".")
            .map(|(step, child)| (step.clone(), Set::decode_node(child)))
            .collect();
        Set { member: map.contains_key(".") || children.is_empty(), children }
    }
}

/// One step as Kubernetes prints it in a path.
fn shown(step: &str) -> String {
    match step.split_at_checked(2) {
        Some(("f:", name)) => format!(".{name}"),
        Some(("k:", keys)) => {
            let keys: BTreeMap<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let keys: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
            format!("[{}]", keys.join(","))
        }
        Some(("v:", value)) => format!("[={value}]"),
        _ => step.to_string(),
    }
}

/// Defaults of list keys that a manifest may leave out, so that `port: 80` and `port: 80, protocol: TCP` are one item.
const KEY_DEFAULTS: &[(&str, &str)] = &[("protocol", "TCP")];

/// The step of a list item with these keys.
pub fn key_step(item: &Value, keys: &[&str]) -> String {
    let present: BTreeMap<&str, Value> = keys
        .iter()
        .filter_map(|key| {
            let default = || KEY_DEFAULTS.iter().find(|(k, _)| k == key).map(|(_, v)| Value::from(*v));
            item.get(key).cloned().or_else(default).map(|value| (*key, value))
        })
        .collect();
    format!("k:{}", json!(present))
}

/// The step of a value in a list that is a set.
pub fn value_step(item: &Value) -> String {
    format!("v:{item}")
}

/// How a value falls apart into fields of their own.
pub enum Parts<'a> {
    /// Not at all: owned as a whole.
    Whole,
    /// By field or map key; true if it is a map, whose keys are fields in their own right.
    Fields(&'a Map<String, Value>, bool),
    /// By list item: its step, and the item.
    Items(Vec<(String, &'a Value)>, Type),
}

/// The parts of a value of a type.
pub fn parts(value: &Value, ty: Type) -> Parts<'_> {
    match (value, ty) {
        (Value::Object(map), Type::Struct(def)) if !def.atomic && !map.is_empty() => Parts::Fields(map, false),
        (Value::Object(map), Type::Map(_, false)) if !map.is_empty() => Parts::Fields(map, true),
        (Value::Array(items), Type::List(item, ListType::Map(keys))) if !items.is_empty() => {
            Parts::Items(items.iter().map(|i| (key_step(i, keys), i)).collect(), *item)
        }
        (Value::Array(items), Type::List(item, ListType::Set)) if !items.is_empty() => {
            Parts::Items(items.iter().map(|i| (value_step(i), i)).collect(), *item)
        }
        _ => Parts::Whole,
    }
}

/// The type of a field or map key.
pub fn field_type(ty: Type, name: &str) -> Type {
    match ty {
        Type::Struct(def) => def.field(name).map_or(Type::Any, |f| f.ty),
        Type::Map(value, _) => *value,
        _ => Type::Any,
    }
}

/// Every field of a value.
pub fn of(value: &Value, ty: Type) -> Set {
    match parts(value, ty) {
        Parts::Whole => Set::leaf(),
        Parts::Fields(map, keys_count) => {
            let children = map.iter().filter(|(_, v)| !v.is_null()).map(|(name, value)| {
                let mut child = of(value, field_type(ty, name));
                child.member |= keys_count;
                (format!("f:{name}"), child)
            });
            Set { member: false, children: children.collect() }
        }
        Parts::Items(items, item) => {
            let children = items.into_iter().map(|(step, value)| {
                let mut child = of(value, item);
                child.member = true;
                (step, child)
            });
            Set { member: false, children: children.collect() }
        }
    }
}

/// What changed between two values: fields added or modified, and fields removed.
#[derive(Debug, Default)]
pub struct Changes {
    /// In the new value, not in the old one or different there.
    pub set: Set,
    /// In the old value only.
    pub removed: Set,
}

/// Compares two values of one type.
pub fn compare(old: &Value, new: &Value, ty: Type) -> Changes {
    if old == new {
        return Changes::default();
    }
    match (parts(old, ty), parts(new, ty)) {
        (Parts::Fields(old, _), Parts::Fields(new, _)) => {
            let pairs = |map: &Map<String, Value>| {
                map.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (format!("f:{k}"), v.clone())).collect()
            };
            compare_children(pairs(old), pairs(new), |step| field_type(ty, &step[2..]), matches!(ty, Type::Map(..)))
        }
        (Parts::Items(old, item), Parts::Items(new, _)) => {
            let pairs = |items: Vec<(String, &Value)>| items.into_iter().map(|(k, v)| (k, v.clone())).collect();
            compare_children(pairs(old), pairs(new), |_| item, true)
        }
        (Parts::Whole, Parts::Whole) => Changes { set: Set::leaf(), removed: Set::default() },
        _ => Changes { set: of(new, ty), removed: of(old, ty) },
    }
}

/// `members`: the steps themselves are fields, not only what is under them.
fn compare_children(
    old: BTreeMap<String, Value>,
    new: BTreeMap<String, Value>,
    ty: impl Fn(&str) -> Type,
    members: bool,
) -> Changes {
    let mut out = Changes::default();
    let whole = |value: &Value, step: &str| {
        let mut set = of(value, ty(step));
        set.member |= members;
        set
    };
    for (step, value) in &new {
        match old.get(step) {
            None => {
                out.set.children.insert(step.clone(), whole(value, step));
            }
            Some(before) => {
                let inner = compare(before, value, ty(step));
                for (all, part) in [(&mut out.set, inner.set), (&mut out.removed, inner.removed)] {
                    if !part.is_empty() {
                        all.children.insert(step.clone(), part);
                    }
                }
            }
        }
    }
    for (step, value) in old.iter().filter(|(step, _)| !new.contains_key(*step)) {
        out.removed.children.insert(step.clone(), whole(value, step));
    }
    out
}

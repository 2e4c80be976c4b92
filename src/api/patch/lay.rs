//! The two ways in which server-side apply changes a value: laying a config over it, and removing what nobody owns.
use super::fields::{self, Parts, Set};
use super::order;
use super::rules::ListType;
use crate::api::schema::Type;
use serde_json::{Map, Value};

/// Lays `config` over `live`, type by type.
pub fn merge(live: &Value, config: &Value, ty: Type) -> Value {
    match (live, fields::parts(config, ty)) {
        (Value::Object(live), Parts::Fields(map, _)) => {
            let mut merged = live.clone();
            for (name, value) in map.iter().filter(|(_, v)| !v.is_null()) {
                let before = live.get(name).unwrap_or(&Value::Null);
                merged.insert(name.clone(), merge(before, value, fields::field_type(ty, name)));
            }
            Value::Object(merged)
        }
        (_, Parts::Fields(map, _)) => {
            let present = map.iter().filter(|(_, v)| !v.is_null());
            present
                .map(|(name, value)| (name.clone(), merge(&Value::Null, value, fields::field_type(ty, name))))
                .collect::<Map<_, _>>()
                .into()
        }
        (live, Parts::Items(wanted, item)) => merge_items(live, &wanted, ty, item),
        // Nothing said over something that falls apart: what is there stays, whoever owns it.
        (live, Parts::Whole) if !matches!(fields::parts(live, ty), Parts::Whole) => live.clone(),
        (_, Parts::Whole) => config.clone(),
    }
}

fn merge_items(live: &Value, wanted: &[(String, &Value)], ty: Type, item: Type) -> Value {
    let before: Vec<(String, &Value)> = match fields::parts(live, ty) {
        Parts::Items(items, _) => items,
        _ => Vec::new(),
    };
    let steps = |items: &[(String, &Value)]| items.iter().map(|(step, _)| step.clone()).collect::<Vec<_>>();
    let find =
        |items: &[(String, &Value)], step: &String| items.iter().find(|(s, _)| s == step).map(|(_, v)| (*v).clone());
    order::merged(&steps(&before), &steps(wanted))
        .iter()
        .filter_map(|step| match (find(&before, step), find(wanted, step)) {
            (was, Some(new)) => Some(merge(&was.unwrap_or_default(), &new, item)),
            (was, None) => was,
        })
        .collect()
}

/// Removes from `object` what is in `dropped` and not in `kept`. What is left empty by it goes too.
pub fn prune(object: &mut Value, dropped: &Set, kept: &Set, ty: Type) {
    let none = Set::default();
    match (object, ty) {
        (Value::Object(map), _) => {
            for (step, child) in &dropped.children {
                let Some(name) = step.strip_prefix("f:") else {
                    continue;
                };
                let Some(value) = map.get_mut(name) else {
                    continue;
                };
                let keep = kept.children.get(step).unwrap_or(&none);
                if !prune_child(value, child, keep, fields::field_type(ty, name)) {
                    map.shift_remove(name);
                }
            }
        }
        (Value::Array(items), Type::List(item, list)) => {
            let step_of = |value: &Value| match list {
                ListType::Map(keys) => fields::key_step(value, keys),
                _ => fields::value_step(value),
            };
            items.retain_mut(|value| {
                let step = step_of(value);
                let Some(child) = dropped.children.get(&step) else {
                    return true;
                };
                prune_child(value, child, kept.children.get(&step).unwrap_or(&none), *item)
            });
        }
        _ => {}
    }
}

/// False if the value itself is to go.
fn prune_child(value: &mut Value, dropped: &Set, kept: &Set, ty: Type) -> bool {
    if dropped.member && kept.is_empty() {
        return false;
    }
    if dropped.children.is_empty() {
        return true;
    }
    prune(value, dropped, kept, ty);
    let empty = match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    !empty || kept.member
}

//! Kubernetes' strategic merge patch: a merge patch that knows which lists merge, by which key.
//!
//! Directives: `$patch: replace|delete|merge` in a map or list item, `$retainKeys`, `$setElementOrder/<list>` and
//! `$deleteFromPrimitiveList/<list>` beside a list.
use super::order;
use super::rules::Patch;
use crate::api::error::ApiError;
use crate::api::kinds::Kind;
use crate::api::schema::Type;
use serde_json::{Map, Value};

const DIRECTIVE: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const DELETE: &str = "$deleteFromPrimitiveList/";

type Object = Map<String, Value>;
type Result<T> = std::result::Result<T, ApiError>;

/// Kubernetes' strategic merge patch.
pub fn strategic(kind: &Kind, object: &Value, patch: &Value) -> Result<Value> {
    let Value::Object(patch) = patch else {
        return Err(ApiError::bad_request("error decoding patch: it is not a JSON object"));
    };
    let live = object.as_object().cloned().unwrap_or_default();
    merge_maps(live, patch, Type::Struct(kind.types())).map(Value::Object)
}

fn merge_maps(mut live: Object, patch: &Object, ty: Type) -> Result<Object> {
    match patch.get(DIRECTIVE).map(|d| d.as_str().unwrap_or_default()) {
        None | Some("merge") => {}
        Some("replace") => {
            let plain = patch.iter().filter(|(key, _)| *key != DIRECTIVE);
            return Ok(plain.map(|(k, v)| (k.clone(), v.clone())).collect());
        }
        Some("delete") => return Ok(Object::new()),
        Some(other) => {
            return Err(ApiError::bad_request(format!("Unknown patch type found: {other}")));
        }
    }
    if let Some(Value::Array(keep)) = patch.get(RETAIN) {
        live.retain(|key, _| keep.iter().any(|k| k == key));
    }
    for (key, value) in patch {
        if key.starts_with('$') {
            continue;
        }
        let (ty, rule) = field(ty, key);
        match (value, live.get_mut(key)) {
            (Value::Null, _) => {
                live.shift_remove(key);
            }
            (Value::Object(value), here) => {
                let before = match here.map(Value::take) {
                    Some(Value::Object(map)) => map,
                    _ => Object::new(),
                };
                live.insert(key.clone(), merge_maps(before, value, ty)?.into());
            }
            (Value::Array(value), here) => {
                let before = match here.map(Value::take) {
                    Some(Value::Array(items)) => items,
                    _ => Vec::new(),
                };
                let order = patch.get(&format!("{ORDER}{key}")).and_then(Value::as_array);
                live.insert(key.clone(), merge_lists(before, value, order, ty, rule)?.into());
            }
            (scalar, _) => {
                live.insert(key.clone(), scalar.clone());
            }
        }
    }
    beside_lists(&mut live, patch, ty)?;
    Ok(live)
}

/// The directives that stand beside a list, where the patch has no list to go with them.
fn beside_lists(live: &mut Object, patch: &Object, ty: Type) -> Result<()> {
    for (key, value) in patch {
        let Some(value) = value.as_array() else {
            continue;
        };
        if let Some(list) = key.strip_prefix(DELETE) {
            if let Some(Value::Array(items)) = live.get_mut(list) {
                items.retain(|item| !value.contains(item));
            }
        } else if let Some(list) = key.strip_prefix(ORDER)
            && !patch.contains_key(list)
            && let Some(Value::Array(items)) = live.get_mut(list)
        {
            let (ty, rule) = field(ty, list);
            let before = std::mem::take(items);
            *items = merge_lists(before, &[], Some(value), ty, rule)?;
        }
    }
    Ok(())
}

/// The type of a field and how a patch treats it.
fn field(ty: Type, name: &str) -> (Type, Patch) {
    match ty {
        Type::Struct(def) => def.field(name).map_or((Type::Any, Patch::Replace), |f| (f.ty, f.patch)),
        Type::Map(value, _) => (*value, Patch::Replace),
        _ => (Type::Any, Patch::Replace),
    }
}

fn merge_lists(
    live: Vec<Value>,
    patch: &[Value],
    order: Option<&Vec<Value>>,
    ty: Type,
    rule: Patch,
) -> Result<Vec<Value>> {
    let item = match ty {
        Type::List(item, _) => *item,
        _ => Type::Any,
    };
    match rule {
        Patch::Replace if patch.is_empty() && order.is_some() => Ok(live),
        Patch::Replace => Ok(patch.to_vec()),
        Patch::MergeSet => {
            let before = live.clone();
            let mut all = live;
            for value in patch {
                if !all.contains(value) {
                    all.push(value.clone());
                }
            }
            Ok(order.map_or(all.clone(), |wanted| {
                let wanted: Vec<Value> = wanted.iter().filter(|w| all.contains(w)).cloned().collect();
                order::merged(&before, &wanted)
            }))
        }
        Patch::Merge(key) | Patch::MergeRetain(key) => merge_items(live, patch, order, item, key),
    }
}

/// Merges a list of objects identified by `key`.
fn merge_items(
    live: Vec<Value>,
    patch: &[Value],
    order: Option<&Vec<Value>>,
    item: Type,
    key: &str,
) -> Result<Vec<Value>> {
    if patch.iter().any(|p| p[DIRECTIVE] == "replace") {
        let kept = patch.iter().filter(|p| p[DIRECTIVE] != "replace");
        return Ok(kept.cloned().collect());
    }
    let before: Vec<Value> = live.iter().map(|i| i[key].clone()).collect();
    let mut all = live;
    for value in patch {
        let Value::Object(map) = value else {
            return Err(ApiError::bad_request("expected an object in a list that merges by key"));
        };
        let Some(id) = map.get(key) else {
            return Err(ApiError::bad_request(format!("map: {value} does not contain declared merge key: {key}")));
        };
        if map.get(DIRECTIVE).is_some_and(|d| d == "delete") {
            all.retain(|i| i[key] != *id);
            continue;
        }
        match all.iter_mut().find(|i| i[key] == *id) {
            Some(here) => {
                let Value::Object(was) = here.take() else {
                    continue;
                };
                *here = merge_maps(was, map, item)?.into();
            }
            None => all.push(merge_maps(Object::new(), map, item)?.into()),
        }
    }
    let Some(order) = order else { return Ok(all) };
    let wanted: Vec<Value> =
        order.iter().map(|o| o[key].clone()).filter(|id| all.iter().any(|i| i[key] == *id)).collect();
    let present: Vec<Value> = before.into_iter().filter(|id| all.iter().any(|i| i[key] == *id)).collect();
    let ids = order::merged(&present, &wanted);
    let rank = |item: &Value| ids.iter().position(|id| *id == item[key]).unwrap_or(ids.len());
    // Stable: several items of one key (allowed where the API's key is wider) stay together in order.
    all.sort_by_key(rank);
    Ok(all)
}

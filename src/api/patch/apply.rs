//! Server-side apply, and who owns which field.
//!
//! `metadata.managedFields` has one entry a manager, operation and subresource, with the set of fields it owns. An apply
//! says “these fields are mine, with these values”: they are merged into the live object, fields the same applier named
//! before and names no more are removed (unless someone else owns them too), and a field with another value that
//! somebody else owns is a conflict. Any other write owns what it changes. (KEP-555; structured-merge-diff.)
//!
//! Left out: conversion of sets between API versions, since every group here has one version.
use super::Writer;
use super::fields::{self, Changes, Parts, Set};
use super::lay::{merge, prune};
use crate::api::error::{ApiError, Cause};
use crate::api::kinds::{Kind, Sub};
use crate::api::meta;
use crate::api::schema::Type;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Entries of updaters kept; older ones are merged into one, as in Kubernetes.
const MAX_UPDATERS: usize = 10;
const ANCIENT: &str = "ancient-changes";

/// Fields nobody owns: identity, and what the server writes.
const UNOWNED: &[&[&str]] = &[
    &["f:apiVersion"],
    &["f:kind"],
    &["f:metadata", "f:name"],
    &["f:metadata", "f:namespace"],
    &["f:metadata", "f:creationTimestamp"],
    &["f:metadata", "f:deletionTimestamp"],
    &["f:metadata", "f:deletionGracePeriodSeconds"],
    &["f:metadata", "f:selfLink"],
    &["f:metadata", "f:uid"],
    &["f:metadata", "f:generation"],
    &["f:metadata", "f:resourceVersion"],
    &["f:metadata", "f:managedFields"],
];

/// One entry of managedFields.
#[derive(Debug, Clone, PartialEq)]
struct Manager {
    name: String,
    apply: bool,
    subresource: String,
    api_version: String,
    time: String,
    set: Set,
}

impl Manager {
    fn decode(entry: &Value) -> Manager {
        Manager {
            name: meta::text(entry, &["manager"]).into(),
            apply: meta::text(entry, &["operation"]) == "Apply",
            subresource: meta::text(entry, &["subresource"]).into(),
            api_version: meta::text(entry, &["apiVersion"]).into(),
            time: meta::text(entry, &["time"]).into(),
            set: Set::decode(&entry["fieldsV1"]),
        }
    }

    fn encode(&self) -> Value {
        let mut entry = json!({
            "manager": self.name,
            "operation": if self.apply { "Apply" } else { "Update" },
            "apiVersion": self.api_version,
            "time": self.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": self.set.encode(),
        });
        if !self.subresource.is_empty() {
            entry["subresource"] = self.subresource.as_str().into();
        }
        entry
    }

    fn of(kind: &Kind, writer: &Writer, apply: bool) -> Manager {
        Manager {
            name: writer.manager.into(),
            apply,
            subresource: writer.sub.name().into(),
            api_version: kind.api_version(),
            time: meta::time(writer.now),
            set: Set::default(),
        }
    }

    fn same(&self, other: &Manager) -> bool {
        (&self.name, self.apply, &self.subresource) == (&other.name, other.apply, &other.subresource)
    }

    /// As conflicts name it: `"kubectl-client-side-apply" using apps/v1`.
    fn shown(&self) -> String {
        let mut text = format!("{:?}", self.name);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if !self.apply {
            text.push_str(&format!(" using {}", self.api_version));
            if !self.time.is_empty() {
                text.push_str(&format!(" at {}", self.time));
            }
        }
        text
    }
}

fn managers(object: &Value) -> Vec<Manager> {
    meta::list(object, &["metadata", "managedFields"])
        .iter()
        .map(Manager::decode)
        .filter(|m| !m.set.is_empty())
        .collect()
}

fn set_managers(object: &mut Value, mut managers: Vec<Manager>) {
    managers.retain(|m| !m.set.is_empty());
    // Kubernetes' order: appliers first, then by time.
    managers.sort_by(|a, b| (b.apply, &a.time, &a.name).cmp(&(a.apply, &b.time, &b.name)));
    if managers.is_empty() {
        meta::unset(object, "managedFields");
    } else {
        meta::set(object, "managedFields", managers.iter().map(Manager::encode).collect::<Vec<_>>());
    }
}

fn owned(mut set: Set) -> Set {
    for path in UNOWNED {
        set.forget(path);
    }
    set
}

/// Server-side apply: merges `config` into `live` (`None` = create), with managedFields. Defaulting comes afterwards, then
/// [`track`] must NOT be called; conflicts are 409.
pub fn apply(kind: &Kind, live: Option<&Value>, config: &Value, writer: &Writer) -> Result<Value, ApiError> {
    if !meta::list(config, &["metadata", "managedFields"]).is_empty() {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let ty = Type::Struct(kind.types());
    let config = applicable(kind, config, writer.sub);
    duplicates(&config, ty, "")?;
    let nothing = json!({});
    let before = live.unwrap_or(&nothing);
    let mut others = managers(before);
    let mut me = Manager::of(kind, writer, true);
    me.set = owned(fields::of(&config, ty));
    let mine = others.iter().position(|m| m.same(&me)).map(|at| others.remove(at));

    let mut merged = merge(before, &config, ty);
    let change = compare_owned(before, &merged, ty);
    take_over(&mut others, &change.set, writer.force)?;
    if let Some(previous) = &mine {
        let mut dropped = previous.set.clone();
        dropped.subtract(&me.set);
        let mut kept = me.set.clone();
        others.iter().for_each(|other| kept.union(&other.set));
        prune(&mut merged, &dropped, &kept, ty);
    }
    let removed = compare_owned(before, &merged, ty).removed;
    others.iter_mut().for_each(|other| other.set.subtract(&removed));
    if let Some(previous) = mine.filter(|m| m.set == me.set && merged == *before) {
        // Nothing new was said: the entry, its time included, stays, and so does the object.
        me = previous;
    }
    others.push(me);
    set_managers(&mut merged, others);
    Ok(merged)
}

/// managedFields of a create, update or patch that is not an apply: fields `new` changes against `live` become the writer's.
/// Call after default and prepare.
pub fn track(kind: &Kind, live: Option<&Value>, new: &mut Value, writer: &Writer) {
    let ty = Type::Struct(kind.types());
    // Clients may edit managedFields (kubectl does, to turn an updater into an applier); leaving them out keeps them.
    let mut all = managers(new);
    if let Some(live) = live.filter(|_| all.is_empty()) {
        all = managers(live);
    }
    let nothing = json!({});
    let change = compare_owned(live.unwrap_or(&nothing), new, ty);
    let mut me = Manager::of(kind, writer, false);
    for manager in &mut all {
        manager.set.subtract(&change.removed);
        if !manager.same(&me) {
            manager.set.subtract(&change.set);
        }
    }
    if let Some(at) = all.iter().position(|m| m.same(&me)) {
        let mine = all.remove(at);
        if change.set.is_empty() {
            me.time.clone_from(&mine.time);
        }
        me.set.union(&mine.set);
    }
    me.set.union(&change.set);
    all.push(me);
    set_managers(new, capped(all));
}

/// Merges the oldest updaters into one when there are too many.
fn capped(mut all: Vec<Manager>) -> Vec<Manager> {
    all.sort_by(|a, b| a.time.cmp(&b.time));
    let mut excess = all.iter().filter(|m| !m.apply).count().saturating_sub(MAX_UPDATERS);
    if excess == 0 {
        return all;
    }
    excess += 1; // the bucket itself is one more
    let mut bucket: Option<Manager> = None;
    let mut out = Vec::new();
    for manager in all {
        if manager.apply || excess == 0 {
            out.push(manager);
            continue;
        }
        excess -= 1;
        match &mut bucket {
            None => bucket = Some(Manager { name: ANCIENT.into(), ..manager }),
            Some(bucket) => {
                bucket.set.union(&manager.set);
                bucket.time = manager.time;
            }
        }
    }
    out.extend(bucket);
    out
}

fn compare_owned(old: &Value, new: &Value, ty: Type) -> Changes {
    let change = fields::compare(old, new, ty);
    Changes { set: owned(change.set), removed: owned(change.removed) }
}

/// The part of a config that a request on this subresource may write.
fn applicable(kind: &Kind, config: &Value, sub: Sub) -> Value {
    let mut config = config.clone();
    if let Some(map) = config.as_object_mut() {
        match sub {
            Sub::Status => map.retain(|key, _| matches!(key.as_str(), "apiVersion" | "kind" | "metadata" | "status")),
            _ if kind.has(Sub::Status) => map.retain(|key, _| key != "status"),
            _ => {}
        }
    }
    config
}

/// Refuses a list that names one item twice.
fn duplicates(config: &Value, ty: Type, path: &str) -> Result<(), ApiError> {
    match fields::parts(config, ty) {
        Parts::Whole => Ok(()),
        Parts::Fields(map, _) => map
            .iter()
            .try_for_each(|(name, value)| duplicates(value, fields::field_type(ty, name), &format!("{path}.{name}"))),
        Parts::Items(items, item) => {
            let mut seen = BTreeSet::new();
            for (step, value) in &items {
                if !seen.insert(step) {
                    let keys = step.get(2..).unwrap_or_default();
                    return Err(ApiError::bad_request(format!("{path}: duplicate entries for key {keys}")));
                }
                duplicates(value, item, path)?;
            }
            Ok(())
        }
    }
}

/// Gives what `changed` says to the applier: from others it is taken by force, or it is a conflict.
fn take_over(others: &mut [Manager], changed: &Set, force: bool) -> Result<(), ApiError> {
    let conflicts: Vec<(String, Vec<String>)> = others
        .iter()
        .map(|other| (other.shown(), other.set.intersection(changed).paths()))
        .filter(|(_, paths)| !paths.is_empty())
        .collect();
    if conflicts.is_empty() || force {
        others.iter_mut().for_each(|other| other.set.subtract(changed));
        return Ok(());
    }
    let causes: Vec<Cause> = conflicts
        .iter()
        .flat_map(|(who, paths)| {
            paths.iter().map(move |path| Cause {
                reason: "FieldManagerConflict".into(),
                message: format!("conflict with {who}"),
                field: path.clone(),
            })
        })
        .collect();
    let message = if let [only] = causes.as_slice() {
        format!("Apply failed with 1 conflict: {}: {}", only.message, only.field)
    } else {
        let blocks: Vec<String> = conflicts
            .iter()
            .map(|(who, paths)| {
                format!(
                    "conflicts with {who}:\n{}",
                    paths.iter().map(|p| format!("- {p}")).collect::<Vec<_>>().join("\n")
                )
            })
            .collect();
        format!("Apply failed with {} conflicts: {}", causes.len(), blocks.join("\n"))
    };
    Err(ApiError::apply_conflict(message, causes))
}

//! delete and deletecollection: grace, finalizers, propagation, preconditions.
use axum::http::StatusCode;
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::ApiServer;
use super::registry::{self, key, names_in_key, prefix, store_error};
use super::respond::Reply;
use super::route::{DeleteQuery, Operation, Selection, WriteOptions};
use super::write::Context;
use crate::api::{ApiError, Kind, decode, meta};
use crate::store::{Expect, StoreError};

/// Dependents go first; the garbage collector takes this away when they are gone.
const FOREGROUND: &str = "foregroundDeletion";
/// Dependents stay; the garbage collector takes this away when they are free.
const ORPHAN: &str = "orphan";
/// How often a delete is tried again because the object changed meanwhile.
const ATTEMPTS: usize = 16;
/// Grace of a pod that does not say.
const POD_GRACE: i64 = 30;

/// `DeleteOptions`, from body and query.
#[derive(Debug, Clone, Default)]
pub(super) struct DeleteOptions {
    grace: Option<i64>,
    propagation: Propagation,
    uid: String,
    resource_version: String,
    dry_run: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Propagation {
    /// As the object's finalizers say; none: background.
    #[default]
    Unsaid,
    Background,
    Foreground,
    Orphan,
}

impl DeleteOptions {
    pub(super) fn parse(body: &Bytes, query: &DeleteQuery, options: &WriteOptions) -> Result<Self, ApiError> {
        let body = match body.is_empty() {
            true => Value::Null,
            false => decode::value(body, options.format)?,
        };
        Self::from_value(&body, query, options.dry_run)
    }

    /// From a `DeleteOptions` object (that of an eviction, say).
    pub(super) fn from_value(body: &Value, query: &DeleteQuery, dry_run: bool) -> Result<Self, ApiError> {
        let said = match meta::text(body, &["propagationPolicy"]) {
            "" => query.propagation.as_str(),
            said => said,
        };
        let propagation = match (said, body["orphanDependents"].as_bool()) {
            ("", None) => Propagation::Unsaid,
            ("Background", _) | ("", Some(false)) => Propagation::Background,
            ("Foreground", _) => Propagation::Foreground,
            ("Orphan", _) | ("", Some(true)) => Propagation::Orphan,
            (other, _) => {
                return Err(ApiError::bad_request(format!(
                    "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: {other:?}: supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\""
                )));
            }
        };
        let text = |field| meta::text(body, &["preconditions", field]).to_owned();
        let dry = meta::list(body, &["dryRun"]).iter().any(|v| v == "All");
        Ok(Self {
            grace: body["gracePeriodSeconds"].as_i64().or(query.grace),
            propagation,
            uid: text("uid"),
            resource_version: text("resourceVersion"),
            dry_run: dry_run || dry,
        })
    }
}

/// What a delete does to an object now.
#[derive(Debug, PartialEq)]
enum Step {
    /// It goes.
    Remove,
    /// It stays, changed: marked, with a shorter grace, or with other finalizers.
    Mark(Value),
    /// It is on its way already.
    Nothing,
}

impl ApiServer {
    pub(super) async fn delete(
        &self,
        cx: &Context,
        op: &Operation,
        options: &DeleteOptions,
    ) -> Result<Reply, ApiError> {
        let kind = op.kind;
        let (object, removed) = self.delete_object(cx, kind, &op.namespace, &op.name, options).await?;
        // Kubernetes gives back what it deleted of some kinds, and a Status for the others.
        let shown = matches!(kind.kind, "Pod" | "Service" | "ServiceAccount");
        if removed && !shown {
            let uid = meta::uid(&object).to_owned();
            let status = ApiError::success(kind.group, kind.plural, &op.name, &uid);
            return Ok(Reply::Other(StatusCode::OK, status));
        }
        Ok(Reply::ok(registry::to_bytes(&object)))
    }

    /// Deletes one object: its last state, and whether it is gone.
    pub(super) async fn delete_object(
        &self,
        cx: &Context,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<(Value, bool), ApiError> {
        self.admit_delete(cx, kind, namespace, name)?;
        let key = key(kind, namespace, name);
        for _ in 0..ATTEMPTS {
            let entry = self.entry(kind, namespace, name)?;
            let live = registry::decode(kind, &entry)?;
            check_preconditions(kind, &live, options)?;
            let expect = Expect::Revision(entry.revision());
            let step = plan(kind, &live, options, cx.now);
            if options.dry_run {
                return Ok(match step {
                    Step::Mark(object) => (object, false),
                    Step::Remove => (live, true),
                    Step::Nothing => (live, false),
                });
            }
            let (written, removed) = match step {
                Step::Nothing => return Ok((live, false)),
                Step::Remove => (self.drop_object(kind, &key, expect, live).await, true),
                Step::Mark(object) => (self.put(kind, &key, expect, object).await, false),
            };
            match written {
                Ok(entry) => return Ok((registry::decode(kind, &entry)?, removed)),
                Err(StoreError::Conflict(_)) => {}
                Err(error) => return Err(store_error(kind, name, error)),
            }
        }
        let why = crate::api::error::MODIFIED;
        Err(ApiError::conflict(kind.group, kind.plural, name, why))
    }

    pub(super) async fn delete_collection(
        &self,
        cx: &Context,
        op: &Operation,
        selection: &Selection,
        options: &DeleteOptions,
    ) -> Result<Reply, ApiError> {
        let kind = op.kind;
        let range = self
            .store
            .range(&prefix(kind, &op.namespace), None, 0, None)
            .map_err(|error| store_error(kind, "", error))?;
        let chosen = range.entries.iter().filter(|e| selection.selects(kind, e));
        let names = chosen.map(|e| names_in_key(kind, e.key()));
        let deletes = names.map(|(namespace, name)| self.delete_object(cx, kind, namespace, name, options));
        // Together, so that they share their commits.
        let mut items = Vec::new();
        for outcome in futures::future::join_all(deletes).await {
            match outcome {
                Ok((object, _)) => items.push(registry::to_bytes(&object)),
                Err(error) if error.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        let list_meta = json!({"resourceVersion": self.store.revision().to_string()});
        Ok(Reply::List(items, list_meta))
    }
}

fn check_preconditions(kind: &Kind, live: &Value, options: &DeleteOptions) -> Result<(), ApiError> {
    let fits = |what: &str, want: &str, have: &str| {
        if want.is_empty() || want == have {
            return Ok(());
        }
        let why = format!("Precondition failed: {what} in precondition: {want}, {what} in object meta: {have}");
        Err(ApiError::conflict(kind.group, kind.plural, meta::name(live), &why))
    };
    fits("UID", &options.uid, meta::uid(live))?;
    let have = meta::resource_version(live);
    fits("ResourceVersion", &options.resource_version, have)
}

/// What deleting `live` comes to. Pure.
fn plan(kind: &Kind, live: &Value, options: &DeleteOptions, now: Timestamp) -> Step {
    let mut object = live.clone();
    let mut finalizers: Vec<String> = meta::finalizers(live)
        .into_iter()
        .filter(|f| options.propagation == Propagation::Unsaid || ![FOREGROUND, ORPHAN].contains(f))
        .map(str::to_owned)
        .collect();
    match options.propagation {
        Propagation::Foreground => finalizers.push(FOREGROUND.to_owned()),
        Propagation::Orphan => finalizers.push(ORPHAN.to_owned()),
        Propagation::Unsaid | Propagation::Background => {}
    }
    let is_held = !finalizers.is_empty() || holds_content(kind, live);
    meta::set(&mut object, "finalizers", json!(finalizers));
    if finalizers.is_empty() {
        meta::unset(&mut object, "finalizers");
    }
    let grace = grace_of(kind, live, options);
    let since = meta::int(live, &["metadata", "deletionGracePeriodSeconds"]);
    if let (true, Some(left)) = (meta::deleting(live), since) {
        let shorter = grace < left;
        if shorter && (grace > 0 || is_held) {
            mark(kind, &mut object, grace, now);
        }
        return match grace == 0 && !is_held {
            true => Step::Remove,
            false if object == *live => Step::Nothing,
            false => Step::Mark(object),
        };
    }
    if grace == 0 && !is_held {
        return Step::Remove;
    }
    mark(kind, &mut object, grace, now);
    Step::Mark(object)
}

/// A namespace stays until the namespace controller has emptied it.
fn holds_content(kind: &Kind, live: &Value) -> bool {
    kind.kind == "Namespace" && !meta::list(live, &["spec", "finalizers"]).is_empty()
}

/// Seconds a pod has to end. Only pods get any, and only while something may run.
fn grace_of(kind: &Kind, live: &Value, options: &DeleteOptions) -> i64 {
    let over = matches!(meta::text(live, &["status", "phase"]), "Failed" | "Succeeded");
    if kind.kind != "Pod" || over || meta::text(live, &["spec", "nodeName"]).is_empty() {
        return 0;
    }
    let own = meta::int(live, &["spec", "terminationGracePeriodSeconds"]);
    // Kubernetes reads a negative grace as the shortest one that is not force.
    match options.grace.or(own).unwrap_or(POD_GRACE) {
        negative if negative < 0 => 1,
        grace => grace,
    }
}

fn mark(kind: &Kind, object: &mut Value, grace: i64, now: Timestamp) {
    let first = !meta::deleting(object);
    let start = match meta::int(object, &["metadata", "deletionGracePeriodSeconds"]) {
        Some(before) => {
            meta::deleted(object).and_then(|at| at.checked_sub(SignedDuration::from_secs(before)).ok()).unwrap_or(now)
        }
        None => now,
    };
    let at = start.checked_add(SignedDuration::from_secs(grace)).unwrap_or(now);
    meta::set(object, "deletionTimestamp", meta::time(at));
    meta::set(object, "deletionGracePeriodSeconds", grace);
    let generation = meta::generation(object);
    if first && generation > 0 {
        meta::set(object, "generation", generation + 1);
    }
    if kind.kind == "Namespace" {
        meta::map_mut(object, &["status"]).insert("phase".into(), "Terminating".into());
    }
}

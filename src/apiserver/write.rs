//! create, update, patch: the one way an object gets into the store.
//!
//! ```text
//! decode ─▶ (patch) ─▶ default ─▶ admit ─▶ prepare ─▶ managedFields ─▶ validate ─▶ compare and write
//! ```
use axum::http::StatusCode;
use bytes::Bytes;
use jiff::Timestamp;
use parking_lot::Mutex;
use rand::RngCore;
use serde_json::Value;

use super::registry::{self, key, store_error};
use super::respond::Reply;
use super::route::WriteOptions;
use super::{ApiServer, Identity};
use crate::api::error::MODIFIED;
use crate::api::patch::{self, PatchType, Writer};
use crate::api::{ApiError, Kind, Sub, decode, meta};
use crate::store::{Change, Entry, Expect, StoreError};

/// How often a change that does not insist on a revision is made again because somebody else was first.
const ATTEMPTS: usize = 16;
/// How often a generated name is drawn again because it is taken.
const NAMES: usize = 8;

/// Who asks, and when.
pub(super) struct Context {
    pub(super) identity: Identity,
    pub(super) now: Timestamp,
}

/// Texts for `Warning` headers, gathered on the way.
pub(super) type Warnings = Mutex<Vec<String>>;

/// A write on its way: what every step needs to know.
#[derive(Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) cx: &'a Context,
    pub(super) kind: &'static Kind,
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    pub(super) sub: Sub,
    pub(super) options: &'a WriteOptions,
    pub(super) body: &'a Bytes,
    pub(super) warnings: &'a Warnings,
}

impl Request<'_> {
    fn writer(&self) -> Writer<'_> {
        Writer { manager: &self.options.manager, sub: self.sub, now: self.cx.now, force: self.options.force }
    }

    /// The body as it is, whatever the kind says.
    pub(super) fn value(&self) -> Result<Value, ApiError> {
        decode::value(self.body, self.options.format)
    }

    /// The body as an object of the kind.
    fn object(&self) -> Result<Value, ApiError> {
        let (object, found) = decode::object(self.kind, self.body, self.options.format, self.options.validation)?;
        self.warn(found);
        Ok(object)
    }

    pub(super) fn warn(&self, texts: Vec<String>) {
        let mut warnings = self.warnings.lock();
        warnings.extend(texts);
        warnings.dedup();
    }
}

/// Who keeps the managedFields of a change.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ownership {
    /// We do: what differs from before is the writer's.
    Track,
    /// Server-side apply has done it.
    Applied,
}

impl ApiServer {
    pub(super) async fn create(&self, request: &Request<'_>) -> Result<Reply, ApiError> {
        let bytes = self.create_object(request, request.object()?, Ownership::Track).await?;
        Ok(Reply::Object(StatusCode::CREATED, bytes))
    }

    async fn create_object(
        &self,
        request: &Request<'_>,
        mut new: Value,
        ownership: Ownership,
    ) -> Result<Bytes, ApiError> {
        let kind = request.kind;
        place(request, &mut new)?;
        if !meta::resource_version(&new).is_empty() {
            let sentence = "resourceVersion should not be set on objects to be created";
            return Err(ApiError::bad_request(sentence));
        }
        let named = !meta::name(&new).is_empty();
        let _allocation = self.services.guard(kind).await;
        for attempt in 1.. {
            let mut object = new.clone();
            if !named && !meta::generate_name(&object).is_empty() {
                let random = rand::rng().next_u64();
                let name = meta::generated_name(meta::generate_name(&object), random);
                meta::set(&mut object, "name", name);
            }
            let object = self.finish(request, object, None, ownership).await?;
            let name = meta::name(&object).to_owned();
            if attempt == 1 {
                request.warn(kind.warnings(&object));
            }
            let key = key(kind, request.namespace, &name);
            if request.options.dry_run {
                return match self.store.get(&key) {
                    Some(_) => Err(ApiError::already_exists(kind.group, kind.plural, &name)),
                    None => Ok(registry::to_bytes(&object)),
                };
            }
            match self.put(kind, &key, Expect::Absent, object).await {
                Ok(entry) => return registry::served(kind, &entry),
                Err(StoreError::Exists(_)) if !named && attempt < NAMES => {}
                Err(error) => return Err(store_error(kind, &name, error)),
            }
        }
        Err(ApiError::internal("no attempt was made"))
    }

    pub(super) async fn update(&self, request: &Request<'_>) -> Result<Reply, ApiError> {
        let (mut new, name) = (request.object()?, request.name);
        place(request, &mut new)?;
        match meta::name(&new) {
            "" => meta::set(&mut new, "name", name),
            given if given == name => {}
            given => {
                return Err(ApiError::bad_request(format!(
                    "the name of the object ({given}) does not match the name on the URL ({name})"
                )));
            }
        }
        Ok(Reply::ok(self.modify(request, Ownership::Track, |_| Ok(new.clone())).await?))
    }

    pub(super) async fn patch(&self, request: &Request<'_>, patch_type: PatchType) -> Result<Reply, ApiError> {
        let (options, kind, name) = (request.options, request.kind, request.name);
        let mut given = request.value()?;
        let mut ownership = Ownership::Track;
        if patch_type == PatchType::Apply {
            ownership = Ownership::Applied;
            request.warn(decode::check(kind, &mut given, options.validation)?);
            place(request, &mut given)?;
            if meta::name(&given).is_empty() {
                meta::set(&mut given, "name", name);
            }
            let missing = self.store.get(&key(kind, request.namespace, name)).is_none();
            if missing && request.sub == Sub::Main {
                let new = patch::apply(kind, None, &given, &request.writer())?;
                match self.create_object(request, new, ownership).await {
                    // Somebody else made it meanwhile: then it is to be changed.
                    Err(error) if error.reason == "AlreadyExists" => {}
                    created => return Ok(Reply::Object(StatusCode::CREATED, created?)),
                }
            }
        }
        let mut found = Vec::new();
        let change = |live: &Value| {
            let mut new = match patch_type {
                PatchType::Json => patch::json(live, &given)?,
                PatchType::Merge => patch::merge(live, &given),
                PatchType::Strategic => patch::strategic(kind, live, &given)?,
                PatchType::Apply => patch::apply(kind, Some(live), &given, &request.writer())?,
            };
            if patch_type != PatchType::Apply {
                found = decode::check(kind, &mut new, options.validation)?;
            }
            if meta::name(&new) != name {
                let sentence = "the name of the object does not match the name on the URL";
                return Err(ApiError::bad_request(sentence));
            }
            Ok(new)
        };
        let bytes = self.modify(request, ownership, change).await?;
        request.warn(found);
        Ok(Reply::ok(bytes))
    }

    /// Changes an object by what `change` makes of it, again if somebody else was first. Gives the served bytes of the outcome.
    pub(super) async fn modify(
        &self,
        request: &Request<'_>,
        ownership: Ownership,
        mut change: impl FnMut(&Value) -> Result<Value, ApiError>,
    ) -> Result<Bytes, ApiError> {
        let (kind, name) = (request.kind, request.name);
        let key = key(kind, request.namespace, name);
        let _allocation = self.services.guard(kind).await;
        for _ in 0..ATTEMPTS {
            let entry = self.entry(kind, request.namespace, name)?;
            let live = registry::decode(kind, &entry)?;
            let new = change(&live)?;
            check_preconditions(kind, &live, &new)?;
            let new = self.finish(request, new, Some(&live), ownership).await?;
            request.warn(kind.warnings(&new));
            if same(&live, &new) {
                return registry::served(kind, &entry);
            }
            if request.options.dry_run {
                return Ok(registry::to_bytes(&new));
            }
            let expect = Expect::Revision(entry.revision());
            let written = if is_finished(&live, &new) {
                self.drop_object(kind, &key, expect, new).await
            } else {
                self.put(kind, &key, expect, new).await
            };
            match written {
                Ok(entry) => return registry::served(kind, &entry),
                // What insists on a revision is refused at the next attempt.
                Err(StoreError::Conflict(_)) => {}
                Err(error) => return Err(store_error(kind, name, error)),
            }
        }
        Err(ApiError::conflict(kind.group, kind.plural, name, MODIFIED))
    }

    /// Everything between the wish and the store: defaults, admission, system fields, ownership, validation.
    async fn finish(
        &self,
        request: &Request<'_>,
        mut new: Value,
        old: Option<&Value>,
        ownership: Ownership,
    ) -> Result<Value, ApiError> {
        let kind = request.kind;
        kind.default(&mut new);
        self.admit(request, &mut new, old).await?;
        kind.prepare(&mut new, old, request.sub);
        if old.is_none() {
            meta::set(&mut new, "uid", uuid::Uuid::new_v4().to_string());
            meta::set(&mut new, "creationTimestamp", meta::time(request.cx.now));
        }
        if kind.kind == "Service" && request.sub == Sub::Main {
            self.services.allocate(&self.config, &mut new, old)?;
        }
        if ownership == Ownership::Track {
            patch::track(kind, old, &mut new, &request.writer());
        }
        let errors = kind.validate(&new, old, request.sub);
        if errors.is_empty() {
            return Ok(new);
        }
        let name = meta::name(&new);
        Err(ApiError::invalid(kind.group, kind.kind, name, &errors))
    }

    /// Writes an object in served form.
    pub(super) async fn put(&self, kind: &Kind, key: &str, expect: Expect, object: Value) -> Result<Entry, StoreError> {
        let object = kind.to_storage(object);
        let encode = |revision| Change::Put(registry::encode(object, revision));
        self.store.write(key, expect, encode).await
    }

    /// Removes an object; `last` (in served form) is what watchers see.
    pub(super) async fn drop_object(
        &self,
        kind: &Kind,
        key: &str,
        expect: Expect,
        last: Value,
    ) -> Result<Entry, StoreError> {
        let last = kind.to_storage(last);
        let encode = |revision| Change::Delete(registry::encode(last, revision));
        self.store.write(key, expect, encode).await
    }
}

/// The object's namespace is the URL's.
fn place(request: &Request<'_>, new: &mut Value) -> Result<(), ApiError> {
    if !request.kind.namespaced {
        return Ok(());
    }
    match meta::namespace(new) {
        "" => meta::set(new, "namespace", request.namespace),
        given if given == request.namespace => {}
        _ => {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
    }
    Ok(())
}

/// Revision and uid, where the new object names them, must be the live ones. (A patch that says nothing of the revision
/// carries the live one along.)
fn check_preconditions(kind: &Kind, live: &Value, new: &Value) -> Result<(), ApiError> {
    let name = meta::name(live);
    let conflict = |why: &str| ApiError::conflict(kind.group, kind.plural, name, why);
    let (want, have) = (meta::uid(new), meta::uid(live));
    if !want.is_empty() && want != have {
        return Err(conflict(&format!("Precondition failed: UID in precondition: {want}, UID in object meta: {have}")));
    }
    let version = meta::resource_version(new);
    if !version.is_empty() && version != meta::resource_version(live) {
        return Err(conflict(MODIFIED));
    }
    Ok(())
}

/// Whether writing would change nothing but times in managedFields.
fn same(live: &Value, new: &Value) -> bool {
    let strip = |object: &Value| {
        let mut object = object.clone();
        meta::unset(&mut object, "resourceVersion");
        let managed = object.pointer_mut("/metadata/managedFields");
        if let Some(entries) = managed.and_then(Value::as_array_mut) {
            for entry in entries.iter_mut().filter_map(Value::as_object_mut) {
                entry.shift_remove("time");
            }
        }
        object
    };
    strip(live) == strip(new)
}

/// Whether the change takes the last thing that held a deleted object.
fn is_finished(live: &Value, new: &Value) -> bool {
    let grace = meta::int(live, &["metadata", "deletionGracePeriodSeconds"]).unwrap_or(0);
    meta::deleting(live)
        && grace == 0
        && meta::finalizers(new).is_empty()
        && meta::list(new, &["spec", "finalizers"]).is_empty()
}

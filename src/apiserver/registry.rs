//! Where objects lie in the store, and how stored bytes become objects and back.
use std::collections::BTreeMap;

use bytes::Bytes;
use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};
use serde_json::{Map, Value};

use super::route::Selection;
use crate::api::{ApiError, Kind, meta};
use crate::store::{Entry, MAX_KEY, Revision, Store, StoreError, Watch};

/// The part of the key space that holds objects.
const ROOT: &str = "/registry";

/// Prefix of all objects of a kind: `/registry/<group>/<plural>/`; the core group has no segment.
pub(super) fn kind_prefix(kind: &Kind) -> String {
    match kind.storage_group() {
        "" => format!("{ROOT}/{}/", kind.plural),
        group => format!("{ROOT}/{group}/{}/", kind.plural),
    }
}

/// Prefix of a collection: a namespace's, or all of a kind if `namespace` is empty.
pub(super) fn prefix(kind: &Kind, namespace: &str) -> String {
    let mut prefix = kind_prefix(kind);
    if kind.namespaced && !namespace.is_empty() {
        prefix.push_str(namespace);
        prefix.push('/');
    }
    prefix
}

/// Key of an object.
pub(super) fn key(kind: &Kind, namespace: &str, name: &str) -> String {
    prefix(kind, namespace) + name
}

/// Namespace and name in a key of the kind.
pub(super) fn names_in_key<'a>(kind: &Kind, key: &'a str) -> (&'a str, &'a str) {
    let rest = key.strip_prefix(kind_prefix(kind).as_str()).unwrap_or("");
    match kind.namespaced {
        true => rest.split_once('/').unwrap_or(("", rest)),
        false => ("", rest),
    }
}

/// The object in an entry, in the form `kind` serves.
pub(super) fn decode(kind: &Kind, entry: &Entry) -> Result<Value, ApiError> {
    parse(entry.value()).map(|object| kind.from_storage(object))
}

/// Stored (or served) bytes as a value. They were written by [`encode`], so failing is a fault of ours.
pub(super) fn parse(bytes: &Bytes) -> Result<Value, ApiError> {
    serde_json::from_slice(bytes).map_err(|error| ApiError::internal(format!("a stored object is not JSON: {error}")))
}

/// The bytes of an entry as `kind` serves them: the stored ones, unless the kind is another form of them.
pub(super) fn served(kind: &Kind, entry: &Entry) -> Result<Bytes, ApiError> {
    if kind.converts() { Ok(to_bytes(&decode(kind, entry)?)) } else { Ok(entry.value().clone()) }
}

/// JSON of a value.
pub(super) fn to_bytes(value: &Value) -> Bytes {
    // A value has string keys and finite numbers only, so it always has a text. It is kept: without room to grow.
    Bytes::from(value.to_string().into_boxed_str().into_boxed_bytes())
}

/// The bytes to store for an object in storage form: it carries the revision of the change that writes it.
pub(super) fn encode(mut object: Value, revision: Revision) -> Bytes {
    meta::set(&mut object, "resourceVersion", revision.to_string());
    to_bytes(&object)
}

/// What selectors look at, kept beside the entry so that an event is decoded once for all its watchers.
struct Index {
    labels: Option<Map<String, Value>>,
    fields: Vec<(&'static str, String)>,
}

impl Index {
    fn of(kind: &Kind, object: &Value) -> Self {
        Self { labels: meta::labels(object).cloned(), fields: kind.selectable(object) }
    }
}

impl Selection {
    /// Whether everything is selected.
    pub(super) fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether the object in `entry` is selected.
    pub(super) fn selects(&self, kind: &Kind, entry: &Entry) -> bool {
        if self.is_everything() {
            return true;
        }
        let pinned = self.fields.name();
        if pinned.is_some_and(|name| name != names_in_key(kind, entry.key()).1) {
            return false;
        }
        let index = |bytes: &Bytes| {
            let object = parse(bytes).unwrap_or_default();
            Index::of(kind, &kind.from_storage(object))
        };
        // The other form of a converted kind has other fields: it is not kept.
        let fresh = kind.converts().then(|| index(entry.value()));
        let found = fresh.as_ref().or_else(|| entry.memo(index));
        found.is_some_and(|index| self.labels.matches(index.labels.as_ref()) && self.fields.accepts(&index.fields))
    }
}

/// The objects below a prefix, each as what `parse` makes of it. They catch up with the store whenever somebody asks, so
/// that an answer is never older than the store.
pub(super) struct Followed<T> {
    store: Store,
    prefix: &'static str,
    parse: fn(&Value) -> T,
    known: Mutex<Known<T>>,
}

/// What is known by key, and the watch that tells more; `None`: list again.
struct Known<T> {
    objects: BTreeMap<String, T>,
    watch: Option<Watch>,
}

impl<T> Followed<T> {
    pub(super) fn new(store: Store, prefix: &'static str, parse: fn(&Value) -> T) -> Self {
        Self { store, prefix, parse, known: Mutex::new(Known { objects: BTreeMap::new(), watch: None }) }
    }

    /// The objects, by key, as they are now.
    pub(super) fn now(&self) -> Result<MappedMutexGuard<'_, BTreeMap<String, T>>, ApiError> {
        let mut known = self.known.lock();
        let parsed = |entry: &Entry| (entry.key().to_owned(), (self.parse)(&parse(entry.value()).unwrap_or_default()));
        loop {
            let Some(watch) = &mut known.watch else {
                let (range, watch) = self.store.range_and_watch(self.prefix).map_err(ApiError::internal)?;
                *known = Known { objects: range.entries.iter().map(parsed).collect(), watch: Some(watch) };
                continue;
            };
            match watch.try_next() {
                Ok(None) => return Ok(MutexGuard::map(known, |known| &mut known.objects)),
                Ok(Some(event)) if event.deleted => drop(known.objects.remove(event.entry.key())),
                Ok(Some(event)) => known.objects.extend([parsed(&event.entry)]),
                Err(_) => known.watch = None,
            }
        }
    }
}

/// What a refusal of the store means to the client of an object.
pub(super) fn store_error(kind: &Kind, name: &str, error: StoreError) -> ApiError {
    match error {
        StoreError::Exists(_) => ApiError::already_exists(kind.group, kind.plural, name),
        StoreError::Missing(_) => ApiError::not_found(kind.group, kind.plural, name),
        StoreError::Conflict(_) => ApiError::conflict(kind.group, kind.plural, name, crate::api::error::MODIFIED),
        StoreError::LongKey => ApiError::too_large(MAX_KEY),
        StoreError::TooOld { asked, oldest } => ApiError::too_old(asked, oldest),
        StoreError::Future { asked, newest } => ApiError::too_large_version(asked, newest),
        error => ApiError::internal(error),
    }
}

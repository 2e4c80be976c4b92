//! What an informer keeps, and how news from the watch and from our own writes are reconciled.
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use kube::Resource;

use super::{Change, ObjectKey, version_number};

/// kubectl's copy of the manifest: as big as the object, and of no use to a loop.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Under which values an index files an object.
pub(super) type IndexKeys<K> = fn(&K) -> Vec<String>;

/// The objects and their indexes.
pub(super) struct Cache<K> {
    pub(super) objects: BTreeMap<ObjectKey, Arc<K>>,
    pub(super) indexes: Vec<Index<K>>,
    /// What a (re-)list has brought so far.
    pub(super) listing: BTreeMap<ObjectKey, Arc<K>>,
    /// The newest version that the watch has brought: an answer to a write of ours that is not newer is old news.
    pub(super) seen: u64,
    /// Deleted by us, not yet by the watch: uid and version up to which the watch's news are from before.
    pub(super) tombs: HashMap<ObjectKey, (Option<String>, u64)>,
}

/// One index.
pub(super) struct Index<K> {
    pub(super) name: &'static str,
    pub(super) keys: IndexKeys<K>,
    pub(super) entries: HashMap<String, BTreeSet<ObjectKey>>,
}

/// Drops what no loop reads and everybody would keep in memory.
pub(super) fn slim<K: Resource>(mut object: K) -> K {
    let meta = object.meta_mut();
    meta.managed_fields = None;
    meta.self_link = None;
    if let Some(annotations) = &mut meta.annotations {
        annotations.remove(LAST_APPLIED);
    }
    object
}

impl<K: Resource> Cache<K> {
    pub(super) fn put(&mut self, object: K) -> Option<Change<K>> {
        let key = ObjectKey::of(&object);
        let version = version_number(object.meta());
        if let Some(old) = self.objects.get(&key)
            && version != 0
            && version_number(old.meta()) >= version
        {
            return None;
        }
        let new = Arc::new(object);
        let old = self.take(&key);
        self.indexes.iter_mut().for_each(|index| index.insert(&key, &new));
        self.objects.insert(key, new.clone());
        Some(Change { old, new: Some(new) })
    }

    pub(super) fn take(&mut self, key: &ObjectKey) -> Option<Arc<K>> {
        let old = self.objects.remove(key)?;
        self.indexes.iter_mut().for_each(|index| index.remove(key, &old));
        Some(old)
    }

    pub(super) fn watched(&mut self, object: K) -> Option<Change<K>> {
        let version = version_number(object.meta());
        self.seen = self.seen.max(version);
        if let Some((uid, until)) = self.tombs.get(&ObjectKey::of(&object)) {
            if *uid == object.meta().uid && version <= *until {
                return None;
            }
            self.tombs.remove(&ObjectKey::of(&object));
        }
        self.put(object)
    }

    pub(super) fn unwatched(&mut self, object: &K) -> Option<Change<K>> {
        let (key, version) = (ObjectKey::of(object), version_number(object.meta()));
        self.seen = self.seen.max(version);
        self.tombs.remove(&key);
        let newer = |old: &Arc<K>| version != 0 && version_number(old.meta()) > version;
        if self.objects.get(&key).is_some_and(newer) {
            return None; // created again by us; the watch will tell
        }
        self.take(&key).map(|old| Change { old: Some(old), new: None })
    }

    /// Replaces everything by the list; what differs is the change. A write of ours during the list may be forgotten
    /// for a moment; the watch that follows the list brings it back.
    pub(super) fn adopt_listing(&mut self) -> Vec<Change<K>> {
        let listing = std::mem::take(&mut self.listing);
        self.tombs.clear();
        let dropped: Vec<_> = self.objects.keys().filter(|key| !listing.contains_key(*key)).cloned().collect();
        let mut changes: Vec<_> =
            dropped.iter().filter_map(|key| self.take(key)).map(|old| Change { old: Some(old), new: None }).collect();
        for (key, new) in listing {
            self.seen = self.seen.max(version_number(new.meta()));
            let old = self.take(&key);
            self.indexes.iter_mut().for_each(|index| index.insert(&key, &new));
            self.objects.insert(key, new.clone());
            let same = |old: &Arc<K>| {
                version_number(old.meta()) != 0 && version_number(old.meta()) == version_number(new.meta())
            };
            if !old.as_ref().is_some_and(same) {
                changes.push(Change { old, new: Some(new) });
            }
        }
        changes
    }
}

impl<K> Index<K> {
    pub(super) fn insert(&mut self, key: &ObjectKey, object: &K) {
        for value in (self.keys)(object) {
            self.entries.entry(value).or_default().insert(key.clone());
        }
    }

    pub(super) fn remove(&mut self, key: &ObjectKey, object: &K) {
        for value in (self.keys)(object) {
            if let Some(keys) = self.entries.get_mut(&value) {
                keys.remove(key);
                if keys.is_empty() {
                    self.entries.remove(&value);
                }
            }
        }
    }
}

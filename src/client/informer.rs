//! Shared caches: one watch a kind, kept in memory, telling subscribers what changed.
use parking_lot::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::{
    collections::{BTreeMap, HashMap},
    fmt::Debug,
    hash::Hash,
    sync::Arc,
};

use futures::StreamExt;
use kube::{
    Api, Resource,
    runtime::{WatchStreamExt, watcher},
};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    ObjectKey, WorkQueue,
    cache::{Cache, Index, IndexKeys, slim},
    version_number,
};

/// What happened to one object. A creation has no `old`, a deletion no `new`.
#[derive(Debug, Clone)]
pub struct Change<K> {
    /// As it was in the cache.
    pub old: Option<Arc<K>>,
    /// As it is in the cache now.
    pub new: Option<Arc<K>>,
}

impl<K> Change<K> {
    /// Old and new, as far as there.
    pub fn either(&self) -> impl Iterator<Item = &Arc<K>> {
        self.old.iter().chain(&self.new)
    }

    /// The newest state known.
    pub fn latest(&self) -> &K {
        // A change of nothing into nothing is never published.
        self.new.as_deref().or(self.old.as_deref()).expect("a change has an old or a new object")
    }
}

type Subscriber<K> = Box<dyn Fn(&Change<K>) + Send + Sync>;

/// A cache of all objects of one kind (or those a watch is restricted to), kept up to date by one watch.
pub struct Informer<K> {
    cache: RwLock<Cache<K>>,
    /// Also the lock of the write path: changes reach every subscriber in the order they happened.
    subscribers: Mutex<Vec<Subscriber<K>>>,
    synced: watch::Sender<bool>,
}

impl<K> Informer<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    /// Starts watching what `api` and `config` select, until `shutdown`. Must be called in a tokio runtime.
    pub fn start(api: Api<K>, config: watcher::Config, shutdown: CancellationToken) -> Arc<Self> {
        let informer = Arc::new(Self::unfed());
        let feed = informer.clone();
        tokio::spawn(async move {
            let mut events = std::pin::pin!(watcher(api, config).default_backoff());
            while let Some(Some(event)) = shutdown.run_until_cancelled(events.next()).await {
                match event {
                    Ok(event) => feed.apply(event),
                    Err(error) => {
                        tracing::warn!(%error, kind = std::any::type_name::<K>(), "watch interrupted")
                    }
                }
            }
        });
        informer
    }

    /// A cache that nobody feeds; for tests and for views made by hand.
    pub fn unfed() -> Self {
        let cache = Cache {
            objects: BTreeMap::new(),
            indexes: Vec::new(),
            listing: BTreeMap::new(),
            seen: 0,
            tombs: HashMap::new(),
        };
        Self { cache: RwLock::new(cache), subscribers: Mutex::new(Vec::new()), synced: watch::Sender::new(false) }
    }

    fn read(&self) -> RwLockReadGuard<'_, Cache<K>> {
        self.cache.read()
    }

    fn write(&self) -> RwLockWriteGuard<'_, Cache<K>> {
        self.cache.write()
    }

    fn write_path(&self) -> MutexGuard<'_, Vec<Subscriber<K>>> {
        self.subscribers.lock()
    }

    /// The object of that key.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.read().objects.get(key).cloned()
    }

    /// All objects, by namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.read().objects.values().cloned().collect()
    }

    /// The objects of one namespace, by name.
    pub fn list_in(&self, namespace: &str) -> Vec<Arc<K>> {
        let from = ObjectKey::new(namespace, "");
        self.read()
            .objects
            .range(from..)
            .take_while(|(key, _)| key.namespace == namespace)
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// The objects that the index `name` files under `value`, by namespace and name.
    pub fn by_index(&self, name: &'static str, value: &str) -> Vec<Arc<K>> {
        let cache = self.read();
        let index = cache.indexes.iter().find(|index| index.name == name);
        let keys = index.and_then(|index| index.entries.get(value));
        keys.into_iter().flatten().filter_map(|key| cache.objects.get(key).cloned()).collect()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.read().objects.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Files objects under what `keys` says of them. Adding an index of the same name again changes nothing.
    pub fn add_index(&self, name: &'static str, keys: IndexKeys<K>) {
        let mut cache = self.write();
        if cache.indexes.iter().any(|index| index.name == name) {
            return;
        }
        let mut index = Index { name, keys, entries: HashMap::new() };
        for (key, object) in &cache.objects {
            index.insert(key, object);
        }
        cache.indexes.push(index);
    }

    /// Waits until the first list is in. Returns at once when it is; also when the informer was dropped.
    pub async fn wait_synced(&self) {
        // The sender lives in self, so waiting cannot fail.
        if self.synced.subscribe().wait_for(|synced| *synced).await.is_err() {
            tracing::debug!("informer dropped while waiting for it");
        }
    }

    /// Tells when the first list is in.
    pub(super) fn watch_synced(&self) -> watch::Receiver<bool> {
        self.synced.subscribe()
    }

    /// Whether the first list is in.
    pub fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// Calls `subscriber` for every object there is and then for every change, in order. It must be quick, and may
    /// read this cache but not write to it.
    pub fn subscribe(&self, subscriber: impl Fn(&Change<K>) + Send + Sync + 'static) {
        let mut subscribers = self.write_path();
        for object in self.list() {
            subscriber(&Change { old: None, new: Some(object) });
        }
        subscribers.push(Box::new(subscriber));
    }

    /// Adds to `queue` the keys that `keys` names for every object and change.
    pub fn feed<Q, I>(&self, queue: Arc<WorkQueue<Q>>, keys: impl Fn(&Change<K>) -> I + Send + Sync + 'static)
    where
        Q: Clone + Eq + Hash + Debug + Send + Sync + 'static,
        I: IntoIterator<Item = Q>,
    {
        self.subscribe(move |change| keys(change).into_iter().for_each(|key| queue.add(key)));
    }

    /// The cache learns what the API answered to a write.
    pub fn saw(&self, object: K) {
        let subscribers = self.write_path();
        let change = {
            let mut cache = self.write();
            let version = version_number(object.meta());
            if version != 0 && version <= cache.seen { None } else { cache.put(slim(object)) }
        };
        publish(&subscribers, change);
    }

    /// The cache learns that we deleted the `uid` of that `key`. `left` is the API's answer: an object that is still
    /// ending stays. Another object that has got the name meanwhile is none of this.
    pub fn gone(&self, key: &ObjectKey, uid: Option<&str>, left: Option<K>) {
        if let Some(object) = left {
            let meta = object.meta();
            let ending = meta.deletion_grace_period_seconds.is_some_and(|s| s > 0)
                || meta.finalizers.as_ref().is_some_and(|f| !f.is_empty());
            if ending && meta.deletion_timestamp.is_some() {
                return self.saw(object);
            }
        }
        let subscribers = self.write_path();
        let change = {
            let mut cache = self.write();
            let same = cache.objects.get(key).is_some_and(|cached| cached.meta().uid.as_deref() == uid);
            same.then(|| cache.take(key)).flatten().map(|old| {
                cache.tombs.insert(key.clone(), (old.meta().uid.clone(), u64::MAX));
                Change { old: Some(old), new: None }
            })
        };
        publish(&subscribers, change);
    }

    /// The watch brings news.
    fn apply(&self, event: watcher::Event<K>) {
        let subscribers = self.write_path();
        match event {
            watcher::Event::Init => self.write().listing.clear(),
            watcher::Event::InitApply(object) => {
                let object = slim(object);
                self.write().listing.insert(ObjectKey::of(&object), Arc::new(object));
            }
            watcher::Event::InitDone => {
                let changes = self.write().adopt_listing();
                changes.into_iter().for_each(|change| publish(&subscribers, Some(change)));
                self.synced.send_replace(true);
            }
            watcher::Event::Apply(object) => {
                let change = self.write().watched(slim(object));
                publish(&subscribers, change);
            }
            watcher::Event::Delete(object) => {
                let change = self.write().unwatched(&object);
                publish(&subscribers, change);
            }
        }
    }
}

fn publish<K>(subscribers: &[Subscriber<K>], change: Option<Change<K>>) {
    if let Some(change) = change {
        subscribers.iter().for_each(|subscriber| subscriber(&change));
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;
    use watcher::Event;

    use super::*;
    use std::sync::Mutex;

    fn pod(name: &str, uid: &str, version: u64) -> Pod {
        let meta = json!({"name": name, "namespace": "ns", "uid": uid, "resourceVersion": version.to_string(),
            "managedFields": [{}], "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"}});
        serde_json::from_value(json!({ "metadata": meta })).unwrap()
    }

    fn version(informer: &Informer<Pod>, name: &str) -> Option<u64> {
        informer.get(&ObjectKey::new("ns", name)).map(|pod| version_number(&pod.metadata))
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("ns", name)
    }

    #[test]
    fn our_writes_are_read_before_the_watch_brings_them() {
        let informer = Informer::<Pod>::unfed();
        informer.apply(Event::Init);
        informer.apply(Event::InitApply(pod("a", "1", 5)));
        informer.apply(Event::InitDone);
        assert!(informer.is_synced());
        informer.saw(pod("b", "2", 8));
        informer.saw(pod("a", "1", 9));
        assert_eq!(version(&informer, "b"), Some(8));
        informer.apply(Event::Apply(pod("a", "1", 6)));
        assert_eq!(version(&informer, "a"), Some(9), "older news do not turn the cache back");
        informer.apply(Event::Delete(pod("b", "2", 10)));
        informer.saw(pod("b", "2", 8));
        assert_eq!(version(&informer, "b"), None, "a late answer does not raise the dead");
    }

    #[test]
    fn what_we_deleted_stays_gone_until_it_is_made_anew() {
        let informer = Informer::<Pod>::unfed();
        informer.apply(Event::Apply(pod("a", "1", 5)));
        informer.gone(&key("a"), Some("1"), None);
        assert_eq!(version(&informer, "a"), None);
        informer.apply(Event::Apply(pod("a", "1", 6)));
        assert_eq!(version(&informer, "a"), None);
        informer.apply(Event::Apply(pod("a", "2", 8)));
        assert_eq!(version(&informer, "a"), Some(8));
        informer.gone(&key("a"), Some("1"), None);
        assert_eq!(version(&informer, "a"), Some(8), "a late answer about its predecessor");
        informer.apply(Event::Apply(pod("a", "2", 9)));
        assert_eq!(version(&informer, "a"), Some(9));
    }

    #[test]
    fn a_pod_that_ends_gracefully_stays_in_the_cache() {
        let informer = Informer::<Pod>::unfed();
        informer.apply(Event::Apply(pod("a", "1", 5)));
        let mut ending = pod("a", "1", 6);
        ending.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        ending.metadata.deletion_grace_period_seconds = Some(30);
        informer.gone(&key("a"), Some("1"), Some(ending));
        assert!(informer.get(&key("a")).unwrap().metadata.deletion_timestamp.is_some());
    }

    #[test]
    fn a_new_list_tells_only_what_differs_and_indexes_follow() {
        let informer = Informer::<Pod>::unfed();
        informer.add_index("uid", |pod| pod.metadata.uid.clone().into_iter().collect());
        for (name, version) in [("a", 1), ("b", 2), ("c", 3)] {
            informer.apply(Event::Apply(pod(name, name, version)));
        }
        let told = Arc::new(Mutex::new(Vec::new()));
        let log = told.clone();
        informer.subscribe(move |change| {
            let versions = |p: &Option<Arc<Pod>>| p.as_ref().map(|p| version_number(&p.metadata));
            log.lock().unwrap().push((versions(&change.old), versions(&change.new)));
        });
        assert_eq!(told.lock().unwrap().drain(..).count(), 3);
        informer.apply(Event::Init);
        for (name, version) in [("a", 1), ("b", 5)] {
            informer.apply(Event::InitApply(pod(name, name, version)));
        }
        informer.apply(Event::InitDone);
        assert_eq!(*told.lock().unwrap(), [(Some(3), None), (Some(2), Some(5))]);
        assert_eq!(informer.by_index("uid", "b").len(), 1);
        assert!(informer.by_index("uid", "c").is_empty());
        let kept = informer.get(&key("a")).unwrap();
        assert!(kept.metadata.managed_fields.is_none() && kept.metadata.annotations.as_ref().unwrap().is_empty());
    }
}

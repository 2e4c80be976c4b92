//! The shared informers: one a kind.
use parking_lot::{Mutex, MutexGuard};
use std::{
    any::{Any, TypeId},
    collections::{BTreeMap, HashMap},
    fmt::Debug,
    sync::Arc,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Api, Resource,
    core::{ApiResource, DynamicObject, PartialObjectMeta},
    runtime::watcher,
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Informer, ObjectKey, Target};

/// Old and new metadata of an object that changed.
pub type MetaSubscriber = Box<dyn Fn(Option<&ObjectMeta>, Option<&ObjectMeta>) + Send + Sync>;

/// An informer whose type is forgotten.
trait AnyInformer: Send + Sync {
    fn saw_value(&self, value: &Value);
    fn gone_value(&self, key: &ObjectKey, uid: Option<&str>, answer: &Value);
    fn subscribe_meta(&self, subscriber: MetaSubscriber);
    fn synced(&self) -> watch::Receiver<bool>;
}

impl<K> AnyInformer for Informer<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    fn saw_value(&self, value: &Value) {
        match K::deserialize(value) {
            Ok(object) => self.saw(object),
            Err(error) => {
                tracing::debug!(%error, "the API answered with something else than the object")
            }
        }
    }

    fn gone_value(&self, key: &ObjectKey, uid: Option<&str>, answer: &Value) {
        let object = answer.get("metadata").filter(|meta| meta.get("uid").is_some());
        self.gone(key, uid, object.and_then(|_| K::deserialize(answer).ok()));
    }

    fn subscribe_meta(&self, subscriber: MetaSubscriber) {
        self.subscribe(move |change| {
            subscriber(change.old.as_deref().map(Resource::meta), change.new.as_deref().map(Resource::meta));
        });
    }

    fn synced(&self) -> watch::Receiver<bool> {
        self.watch_synced()
    }
}

/// The shared informers of one identity: the first to ask for a kind starts its watch, of all namespaces.
pub struct Informers {
    client: kube::Client,
    shutdown: CancellationToken,
    started: Mutex<Started>,
}

#[derive(Default)]
struct Started {
    by_type: HashMap<TypeId, Arc<dyn Any + Send + Sync>>,
    /// By "apps/v1/replicasets".
    by_resource: BTreeMap<String, Arc<dyn AnyInformer>>,
}

impl Informers {
    /// Nothing is watched yet.
    pub fn new(client: kube::Client, shutdown: CancellationToken) -> Arc<Self> {
        Arc::new(Self { client, shutdown, started: Mutex::default() })
    }

    fn started(&self) -> MutexGuard<'_, Started> {
        self.started.lock()
    }

    /// The informer of a kind, in all namespaces.
    pub fn of<K>(&self) -> Arc<Informer<K>>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let mut started = self.started();
        if let Some(informer) = started.by_type.get(&TypeId::of::<K>()).cloned()
            && let Ok(informer) = informer.downcast::<Informer<K>>()
        {
            return informer;
        }
        let api = Api::<K>::all(self.client.clone());
        let informer = Informer::start(api, watcher::Config::default(), self.shutdown.clone());
        started.by_type.insert(TypeId::of::<K>(), informer.clone());
        let resource = resource_of(&K::api_version(&()), &K::plural(&()));
        started.by_resource.insert(resource, informer.clone());
        informer
    }

    /// Subscribes to the metadata of a kind by the informer that exists, or by one that keeps metadata only. Wait with
    /// [`wait_synced`](Self::wait_synced).
    pub fn subscribe_meta(&self, kind: &ApiResource, subscriber: MetaSubscriber) {
        let resource = resource_of(&kind.api_version, &kind.plural);
        let informer = self.started().by_resource.get(&resource).cloned();
        let informer = informer.unwrap_or_else(|| {
            let api = Api::<PartialObjectMeta<DynamicObject>>::all_with(self.client.clone(), kind);
            let informer = Informer::start(api, watcher::Config::default(), self.shutdown.clone());
            self.started().by_resource.insert(resource, informer.clone());
            informer
        });
        informer.subscribe_meta(subscriber);
    }

    /// Waits until all informers started so far have their first list.
    pub async fn wait_synced(&self) {
        let all: Vec<_> = self.started().by_resource.values().cloned().collect();
        for informer in all {
            if informer.synced().wait_for(|synced| *synced).await.is_err() {
                tracing::debug!("informer dropped while waiting for it");
            }
        }
    }

    /// A write's answer reaches the cache of its kind, if there is one.
    pub(super) fn saw(&self, target: &Target, answer: &Value) {
        if let Some(informer) = self.informer_of(target) {
            informer.saw_value(answer);
        }
    }

    /// A deletion's answer reaches the cache of its kind, if there is one.
    pub(super) fn gone(&self, target: &Target, uid: Option<&str>, answer: &Value) {
        if let Some(informer) = self.informer_of(target) {
            informer.gone_value(&target.key(), uid, answer);
        }
    }

    fn informer_of(&self, target: &Target) -> Option<Arc<dyn AnyInformer>> {
        self.started().by_resource.get(&resource_of(&target.api_version, &target.plural)).cloned()
    }
}

fn resource_of(api_version: &str, plural: &str) -> String {
    format!("{api_version}/{plural}")
}

//! What every namespace has: the service account `default`, under which pods run that name none, and the cluster's CA
//! in the ConfigMap `kube-root-ca.crt`, for pods that talk to the API. Either comes back when it is deleted.
use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use kube::api::ObjectMeta;

use super::{Context, Controller, Loop, namespace::is_active};
use crate::client::{Action, Informer, ObjectKey, Plan, Result, WorkQueue};

const ACCOUNT: &str = "default";
const CA: &str = "kube-root-ca.crt";
const CA_FILE: &str = "ca.crt";

/// Subscribes and returns the loop.
pub(super) fn start(context: &Context) -> Loop {
    let (namespaces, accounts) = (context.informers.of::<Namespace>(), context.informers.of::<ServiceAccount>());
    let maps = context.informers.of::<ConfigMap>();
    let queue = Arc::new(WorkQueue::default());
    namespaces.feed(queue.clone(), |change| change.new.as_ref().and_then(|ns| ns.metadata.name.clone()));
    accounts.feed(queue.clone(), |change| around(&change.latest().metadata, ACCOUNT));
    maps.feed(queue.clone(), |change| around(&change.latest().metadata, CA));
    context.run(Furnishing { namespaces, accounts, maps, ca: context.config.root_ca.clone() }, queue)
}

/// The namespace around an object, if the object has this name.
fn around(meta: &ObjectMeta, name: &str) -> Option<String> {
    meta.namespace.clone().filter(|_| meta.name.as_deref() == Some(name))
}

struct Furnishing {
    namespaces: Arc<Informer<Namespace>>,
    accounts: Arc<Informer<ServiceAccount>>,
    maps: Arc<Informer<ConfigMap>>,
    ca: String,
}

struct View {
    namespace: Option<Arc<Namespace>>,
    account: Option<Arc<ServiceAccount>>,
    map: Option<Arc<ConfigMap>>,
}

impl Controller for Furnishing {
    type Key = String;
    type View = View;
    const NAME: &'static str = "namespace-furnishing-controller";

    async fn observe(&self, key: &String) -> Result<View> {
        let namespace = self.namespaces.get(&ObjectKey::new("", key));
        let account = self.accounts.get(&ObjectKey::new(key, ACCOUNT));
        Ok(View { namespace, account, map: self.maps.get(&ObjectKey::new(key, CA)) })
    }

    fn plan(&self, key: &String, view: &View, _: Timestamp) -> Plan<Action> {
        if !view.namespace.as_deref().is_some_and(is_active) {
            return Plan::default();
        }
        let named = |name: &str| ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(key.clone()),
            ..ObjectMeta::default()
        };
        let mut steps = Vec::new();
        if view.account.is_none() {
            steps.push(Action::create(&ServiceAccount { metadata: named(ACCOUNT), ..ServiceAccount::default() }));
        }
        let data = Some(BTreeMap::from([(CA_FILE.to_owned(), self.ca.clone())]));
        match view.map.as_deref() {
            _ if self.ca.is_empty() => {}
            Some(old) => steps.extend(Action::update(old, &ConfigMap { data, binary_data: None, ..old.clone() })),
            None => {
                let about = "Contains a CA bundle that can be used to verify the API server of this cluster.";
                let annotations = BTreeMap::from([("kubernetes.io/description".to_owned(), about.to_owned())]);
                let metadata = ObjectMeta { annotations: Some(annotations), ..named(CA) };
                steps.push(Action::create(&ConfigMap { metadata, data, ..ConfigMap::default() }));
            }
        }
        Plan::of(steps)
    }
}

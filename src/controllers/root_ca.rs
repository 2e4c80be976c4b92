//! Every namespace has the cluster's CA in the ConfigMap `kube-root-ca.crt`, for pods that talk to the API.
use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::ObjectMeta;

use super::{Context, Controller, Loop, namespace::is_active};
use crate::client::{Action, Informer, ObjectKey, Plan, Result, WorkQueue};

const NAME: &str = "kube-root-ca.crt";
const FILE: &str = "ca.crt";

/// Subscribes and returns the loop.
pub(super) fn start(context: &Context) -> Loop {
    let (namespaces, maps) = (context.informers.of::<Namespace>(), context.informers.of::<ConfigMap>());
    let queue = Arc::new(WorkQueue::default());
    namespaces.feed(queue.clone(), |change| change.new.as_ref().and_then(|ns| ns.metadata.name.clone()));
    maps.feed(queue.clone(), |change| {
        let meta = &change.latest().metadata;
        meta.namespace.clone().filter(|_| meta.name.as_deref() == Some(NAME))
    });
    context.run(RootCa { namespaces, maps, ca: context.config.root_ca.clone() }, queue)
}

struct RootCa {
    namespaces: Arc<Informer<Namespace>>,
    maps: Arc<Informer<ConfigMap>>,
    ca: String,
}

struct View {
    namespace: Option<Arc<Namespace>>,
    map: Option<Arc<ConfigMap>>,
}

impl Controller for RootCa {
    type Key = String;
    type View = View;
    const NAME: &'static str = "root-ca-certificate-publisher-controller";

    async fn observe(&self, key: &String) -> Result<View> {
        let namespace = self.namespaces.get(&ObjectKey::new("", key));
        Ok(View { namespace, map: self.maps.get(&ObjectKey::new(key, NAME)) })
    }

    fn plan(&self, key: &String, view: &View, _: Timestamp) -> Plan<Action> {
        if self.ca.is_empty() || !view.namespace.as_deref().is_some_and(is_active) {
            return Plan::default();
        }
        let data = Some(BTreeMap::from([(FILE.to_owned(), self.ca.clone())]));
        let action = match view.map.as_deref() {
            Some(old) => Action::update(old, &ConfigMap { data, binary_data: None, ..old.clone() }),
            None => {
                let about = "Contains a CA bundle that can be used to verify the API server of this cluster.";
                let annotations = BTreeMap::from([("kubernetes.io/description".to_owned(), about.to_owned())]);
                let metadata = ObjectMeta {
                    name: Some(NAME.to_owned()),
                    namespace: Some(key.clone()),
                    annotations: Some(annotations),
                    ..ObjectMeta::default()
                };
                Some(Action::create(&ConfigMap { metadata, data, ..ConfigMap::default() }))
            }
        };
        Plan::of(action.into_iter().collect())
    }
}

//! Every namespace has the service account `default`.
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::ObjectMeta;

use super::{Context, Controller, Loop, namespace::is_active};
use crate::client::{Action, Informer, ObjectKey, Plan, Result, WorkQueue};

/// The account pods run under that name none.
const DEFAULT: &str = "default";

/// Subscribes and returns the loop.
pub(super) fn start(context: &Context) -> Loop {
    let (namespaces, accounts) = (context.informers.of::<Namespace>(), context.informers.of::<ServiceAccount>());
    let queue = Arc::new(WorkQueue::default());
    namespaces.feed(queue.clone(), |change| change.new.as_ref().and_then(|ns| ns.metadata.name.clone()));
    accounts.feed(queue.clone(), |change| {
        let gone = change.old.as_ref().filter(|_| change.new.is_none());
        gone.and_then(|account| account.metadata.namespace.clone())
    });
    context.run(Accounts { namespaces, accounts }, queue)
}

struct Accounts {
    namespaces: Arc<Informer<Namespace>>,
    accounts: Arc<Informer<ServiceAccount>>,
}

struct View {
    namespace: Option<Arc<Namespace>>,
    account: Option<Arc<ServiceAccount>>,
}

impl Controller for Accounts {
    type Key = String;
    type View = View;
    const NAME: &'static str = "serviceaccount-controller";

    async fn observe(&self, key: &String) -> Result<View> {
        let namespace = self.namespaces.get(&ObjectKey::new("", key));
        Ok(View { namespace, account: self.accounts.get(&ObjectKey::new(key, DEFAULT)) })
    }

    fn plan(&self, key: &String, view: &View, _: Timestamp) -> Plan<Action> {
        if view.account.is_some() || !view.namespace.as_deref().is_some_and(is_active) {
            return Plan::default();
        }
        let metadata =
            ObjectMeta { name: Some(DEFAULT.to_owned()), namespace: Some(key.clone()), ..ObjectMeta::default() };
        Plan::of(vec![Action::create(&ServiceAccount { metadata, ..ServiceAccount::default() })])
    }
}

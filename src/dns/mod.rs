//! Cluster DNS: names of Services and Pods -> records, everything else to the host's resolvers.
//!
//! [`zone`] is the table, rebuilt service by service from the informers' caches; [`answer`] is the whole decision, a
//! function of a question and the table (the record forms of the “Kubernetes DNS-Based Service Discovery”
//! specification, 1.1.0); [`serve`] moves bytes over UDP and TCP and asks other resolvers, with limits.
//!
//! Left out: zone transfers, DNSSEC, and a cache of foreign names: the host's resolver has one.
mod answer;
mod serve;
mod zone;

use crate::client::{Informers, ObjectKey};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use tokio_util::sync::CancellationToken;
use zone::Zone;

/// The domain of every cluster.
pub const DOMAIN: &str = "cluster.local";

/// The label that ties an EndpointSlice to its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The index of EndpointSlices by that label.
const BY_SERVICE: &str = "service";

/// Serves DNS over UDP and TCP on every address until `shutdown`. Fails if an address cannot be bound.
pub async fn run(client: kube::Client, listen: Vec<SocketAddr>, shutdown: CancellationToken) -> anyhow::Result<()> {
    let zone = Arc::new(RwLock::new(Zone::default()));
    let informers = Informers::new(client, shutdown.clone());
    follow(&informers, &zone);
    // Until the first list is in, a name that is not known may well exist: answering “no such name” would be a lie
    // that clients cache.
    tokio::select! {
        () = informers.wait_synced() => {}
        () = shutdown.cancelled() => return Ok(()),
    }
    serve::run(zone, listen, serve::host_resolvers(), shutdown).await
}

/// Keeps the table at what the caches say. A change rebuilds one service, read under the table's lock, so that the last
/// writer has seen everything.
fn follow(informers: &Informers, zone: &Arc<RwLock<Zone>>) {
    let (services, slices) = (informers.of::<Service>(), informers.of::<EndpointSlice>());
    slices.add_index(BY_SERVICE, |slice| index_key(slice).into_iter().collect());
    let rebuild = {
        let (zone, services, slices) = (zone.clone(), services.clone(), slices.clone());
        move |key: ObjectKey| {
            let mut zone = zone.write().unwrap_or_else(PoisonError::into_inner);
            let id = format!("{}/{}", key.namespace, key.name);
            let records = services.get(&key).map(|service| zone::records(&service, &slices.by_index(BY_SERVICE, &id)));
            zone.set(&key.namespace, &key.name, records);
        }
    };
    let of_slice = rebuild.clone();
    services.subscribe(move |change| rebuild(ObjectKey::of(change.latest())));
    slices.subscribe(move |change| {
        for slice in change.either() {
            if let Some((namespace, name)) = index_key(slice).as_deref().and_then(|key| key.split_once('/')) {
                of_slice(ObjectKey::new(namespace, name));
            }
        }
    });
}

/// `<namespace>/<service>` of a slice.
fn index_key(slice: &EndpointSlice) -> Option<String> {
    let service = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some(format!("{}/{service}", slice.metadata.namespace.as_deref()?))
}

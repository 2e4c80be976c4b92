//! Services and EndpointSlices -> every node's nf_tables table; Nodes -> the overlay's peers.
//!
//! Any change of the three kinds, or of the set of nodes that run here, wakes one loop. It computes from the caches what
//! every node should serve ([`plan`], pure) and hands a node what differs from what it was handed last; the net room
//! turns that into an incremental transaction. Changes that arrive meanwhile are one more round, however many they are.
//! Nothing wakes by the clock, except to try again after a failure.
mod plan;

use crate::{
    client::Informers,
    net::{Cluster, NodeHandle, NodeNet, Nodes, Services},
};
use futures::future::join_all;
use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// After a failure (a node that is just going, a rule set that somebody else keeps changing) the next try waits this
/// long: short enough that a real node's services are not missed, long enough to be no load.
const RETRY: Duration = Duration::from_millis(500);

/// What a node was handed, and to which handle: a node that comes back is a new one that knows nothing.
struct Handed {
    handle: NodeHandle,
    services: Arc<Services>,
    peers: Arc<Vec<NodeNet>>,
}

/// Keeps every node's services and peers up to date until `shutdown`.
pub async fn run(
    client: kube::Client,
    cluster: Cluster,
    nodes: Nodes,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let informers = Informers::new(client, shutdown.clone());
    let wake = Arc::new(Notify::new());
    let (services, slices, objects) =
        (informers.of::<Service>(), informers.of::<EndpointSlice>(), informers.of::<Node>());
    let waker = || {
        let wake = wake.clone();
        move || wake.notify_one()
    };
    let (a, b, c) = (waker(), waker(), waker());
    services.subscribe(move |_| a());
    slices.subscribe(move |_| b());
    objects.subscribe(move |_| c());
    // A table made from half a list would cut services that work.
    if shutdown.run_until_cancelled(informers.wait_synced()).await.is_none() {
        return Ok(());
    }
    let mut here = nodes.subscribe();
    let mut handed = BTreeMap::new();
    loop {
        let handles = here.borrow_and_update().clone();
        let peers = Arc::new(plan::peers(&cluster, &objects.list()));
        let view = plan::View::new(&services.list(), &slices.list());
        let complete = hand_out(&handles, &view, &peers, &mut handed).await;
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = wake.notified() => {}
            gone = here.changed() => if gone.is_err() { return Ok(()) },
            () = tokio::time::sleep(RETRY), if !complete => {}
        }
    }
}

/// Hands every node what is new for it, all nodes at once. Returns whether all took it.
async fn hand_out(
    handles: &BTreeMap<String, NodeHandle>,
    view: &plan::View,
    peers: &Arc<Vec<NodeNet>>,
    handed: &mut BTreeMap<String, Handed>,
) -> bool {
    handed.retain(|name, h| handles.get(name).is_some_and(|new| new.same(&h.handle)));
    let work = handles.iter().filter_map(|(name, handle)| {
        let before = handed.get(name);
        let services = view.services(name);
        let new_services = before.is_none_or(|h| *h.services != services).then(|| Arc::new(services));
        let new_peers = before.is_none_or(|h| h.peers != *peers).then(|| peers.clone());
        (new_services.is_some() || new_peers.is_some())
            .then(|| hand(name.clone(), handle.clone(), before, new_services, new_peers))
    });
    let results = join_all(work.collect::<Vec<_>>()).await;
    let complete = results.iter().all(Result::is_ok);
    for result in results {
        match result {
            Ok((name, new)) => drop(handed.insert(name, new)),
            Err((name, error)) => {
                tracing::warn!(node = name, %error, "services and peers");
                handed.remove(&name);
            }
        }
    }
    complete
}

/// Hands one node what is new.
fn hand(
    name: String,
    handle: NodeHandle,
    before: Option<&Handed>,
    services: Option<Arc<Services>>,
    peers: Option<Arc<Vec<NodeNet>>>,
) -> impl Future<Output = Result<(String, Handed), (String, crate::net::Error)>> + use<> {
    let old = before.map(|h| (h.services.clone(), h.peers.clone())).unwrap_or_default();
    async move {
        let changed = async {
            if let Some(peers) = &peers {
                handle.sync_peers(peers).await?;
            }
            if let Some(services) = &services {
                let changes = handle.sync_services(services).await?;
                tracing::debug!(node = name, changes, "services");
            }
            Ok(())
        };
        match changed.await {
            Ok(()) => {
                let (services, peers) = (services.unwrap_or(old.0), peers.unwrap_or(old.1));
                Ok((name, Handed { handle, services, peers }))
            }
            Err(error) => Err((name, error)),
        }
    }
}

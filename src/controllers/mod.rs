//! The reconciliation loops, one file each.
//!
//! A controller is a [`Controller`]: `observe` collects what its plan needs from the shared caches, `plan` is a pure
//! function of that view and the time to a list of [`Action`]s, and the one driver of the client room performs them.
//! So each file reads the same: which objects wake which key, the view, the decisions. A controller never knows why it
//! was woken, never keeps state that a restart would lose (at most when it first saw something), and planning twice
//! plans nothing the second time; the tests perform plans on a small fake world until that is so.
//!
//! Controllers do not know each other: the deployment controller writes ReplicaSets and the replica set controller
//! reads them, through the API like anybody.
//!
//! Timers are deadlines, not polls: a plan that depends on time says when to look again.

mod deployment;
mod endpoints;
mod endpointslice;
mod endpointslice_mirroring;
mod event_ttl;
mod furnishing;
mod garbage;
mod namespace;
mod node_lifecycle;
mod ownership;
mod pod_gc;
mod pods;
mod replicaset;
mod services;
mod taint_eviction;
#[cfg(test)]
mod tests;

use std::{fmt::Debug, hash::Hash, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::client::{Action, Doer, Error, Informers, Plan, Reconcile, Recorder, Result, WorkQueue, drive};

/// Keys of one controller worked on at a time. Plans are quick; what takes time is the store's commit, which is shared
/// by all that wait for it.
const WORKERS: usize = 16;

/// What differs between clusters. The defaults are seconds where Kubernetes has minutes: the cluster fits on a desk.
#[derive(Debug, Clone)]
pub struct Config {
    /// How old a node's heartbeat (its Lease) may get before the node counts as unreachable.
    pub node_monitor_grace: Duration,
    /// The same for a node that has never reported since it was registered.
    pub node_startup_grace: Duration,
    /// Terminated pods that are kept for people to look at; the oldest beyond go.
    pub terminated_pods_kept: usize,
    /// How long an Event is kept after its last write, as kube-apiserver's `--event-ttl`.
    pub event_ttl: Duration,
    /// PEM of the cluster's CA, for the `kube-root-ca.crt` of every namespace.
    pub root_ca: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node_monitor_grace: Duration::from_secs(6),
            node_startup_grace: Duration::from_secs(20),
            terminated_pods_kept: 1000,
            event_ttl: Duration::from_secs(3600),
            root_ca: String::new(),
        }
    }
}

/// Runs every controller until `shutdown`, through `client` (as `system:kube-controller-manager`), reading the caches
/// of `informers` (of the same client).
pub async fn run(client: kube::Client, informers: Arc<Informers>, config: Config, shutdown: CancellationToken) {
    let context = Context { client, informers, config, shutdown };
    let loops: Vec<Loop> = STARTS.iter().map(|start| start(&context)).collect();
    if context.shutdown.run_until_cancelled(context.informers.wait_synced()).await.is_none() {
        return;
    }
    let mut tasks = tokio::task::JoinSet::new();
    loops.into_iter().for_each(|task| drop(tasks.spawn(task)));
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a controller died");
        }
    }
}

/// Every controller. Each function subscribes to what wakes its keys and returns the loop.
const STARTS: &[fn(&Context) -> Loop] = &[
    deployment::start,
    replicaset::start,
    endpointslice::start,
    endpoints::start,
    endpointslice_mirroring::start,
    namespace::start,
    furnishing::start,
    garbage::start,
    node_lifecycle::start,
    taint_eviction::start,
    pod_gc::start,
    event_ttl::start,
];

type Loop = BoxFuture<'static, ()>;

/// What a controller starts from.
struct Context {
    client: kube::Client,
    informers: Arc<Informers>,
    config: Config,
    shutdown: CancellationToken,
}

impl Context {
    /// The loop of `controller` over the keys of `queue`.
    fn run<C: Controller>(&self, controller: C, queue: Arc<WorkQueue<C::Key>>) -> Loop {
        let recorder = Recorder::start(self.client.clone(), C::NAME, "", self.shutdown.clone());
        let doer = Doer::new(self.client.clone(), self.informers.clone(), recorder);
        let reconciler = Arc::new(Performed { controller, doer });
        Box::pin(drive(reconciler, queue, WORKERS, self.shutdown.clone()))
    }
}

/// A loop whose steps are actions against the API.
trait Controller: Send + Sync + 'static {
    /// What is reconciled.
    type Key: Clone + Eq + Hash + Debug + Send + Sync + 'static;
    /// What the plan needs to know.
    type View: Send + Sync;
    /// As events and logs name it.
    const NAME: &'static str;

    /// Gathers the view.
    fn observe(&self, key: &Self::Key) -> impl Future<Output = Result<Self::View>> + Send;

    /// Decides; pure.
    fn plan(&self, key: &Self::Key, view: &Self::View, now: Timestamp) -> Plan<Action>;

    /// A run has ended.
    fn settled(&self, _key: &Self::Key, _outcome: std::result::Result<(), &Error>) {}
}

struct Performed<C> {
    controller: C,
    doer: Doer,
}

impl<C: Controller> Reconcile for Performed<C> {
    type Key = C::Key;
    type View = C::View;
    type Step = Action;

    fn name(&self) -> &'static str {
        C::NAME
    }

    async fn observe(&self, key: &C::Key) -> Result<C::View> {
        self.controller.observe(key).await
    }

    fn plan(&self, key: &C::Key, view: &C::View, now: Timestamp) -> Plan<Action> {
        self.controller.plan(key, view, now)
    }

    async fn perform(&self, _key: &C::Key, step: &Action) -> Result<()> {
        self.doer.perform(step).await.map(drop)
    }

    fn independent(&self, a: &Action, b: &Action) -> bool {
        a.independent(b)
    }

    fn settled(&self, key: &C::Key, outcome: std::result::Result<(), &Error>) {
        self.controller.settled(key, outcome);
    }
}

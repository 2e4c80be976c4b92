//! The node: the kubelet's job for one virtual node. Several run as tasks of the one daemon.
//!
//! A pod is worked on level-triggered, like everything here: whatever happens to it (its object changes, a process
//! ends, a probe answers, a deadline passes) only puts its uid into a queue. Then
//!
//! ```text
//! plan(pod, Observed, policy, now) -> [Admit, Mount, CreateSandbox, Start { app, 0 }]     pure (plan.rs)
//!        │                              performed by the runtime, the network and the image store (driver.rs)
//!        ▼
//! status(pod, Observed, …) -> PodStatus        pure (status.rs); written if it differs from what was written (publish.rs)
//! ```
//!
//! `Observed` (observed.rs) is all a node knows about a pod besides its manifest. It lives in memory only: after a
//! restart of the daemon it is made again from what the runtime finds, the status in the API and the disk (adopt.rs),
//! so containers go on running and their ends are reported. What takes long (hooks, probes, the wait between the stop
//! signal and SIGKILL) never holds up the queue: it runs beside it and comes back as an observation.
//!
//! A pod whose containers start at once costs one write to the API: the first status says Running and Ready.
//!
//! Left out: eviction under pressure, ephemeral containers, shared process namespaces, resize in place, volumes that
//! need a driver, CPU and device managers.
mod admit;
mod adopt;
mod changes;
mod config;
mod downward;
mod driver;
mod entry;
mod env;
mod exits;
mod files;
mod hooks;
mod limits;
mod observed;
mod oci;
mod plan;
mod probe;
mod publish;
mod register;
mod resources;
mod security;
mod server;
mod setup;
mod sources;
mod spec;
mod start;
mod status;
mod step;
#[cfg(test)]
mod tests;
mod volumes;
mod watch;

pub use config::{Capacity, NodeConfig};
pub use limits::{Parts, processors};
pub use observed::Observed;
pub use plan::plan;
pub use step::{Policy, Step, Why};

use crate::{
    client::{Backoff, Informer, Recorder, WorkQueue, drive},
    image::Images,
    net::{Ipam, NodeHandle},
    runtime::Runtime,
};
use entry::Pods;
use k8s_openapi::api::core::v1::Service;
use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex, OnceLock},
};
use tokio_util::sync::CancellationToken;

/// Pods of one node that are worked on at a time: enough to keep two cores busy while some wait for a disk.
const WORKERS: usize = 16;
/// Statuses written at a time: all of them share the store's next commit.
const WRITERS: usize = 64;

/// One virtual node. Owns its pods' sandboxes; knows the cluster only through the API.
pub struct Node {
    config: NodeConfig,
    runtime: Runtime,
    net: NodeHandle,
    images: Images,
    client: kube::Client,
    pods: Pods,
    /// Pods to plan for.
    queue: Arc<WorkQueue<String>>,
    /// Pods whose status may need writing.
    outbox: Arc<WorkQueue<String>>,
    /// Asks for the cgroups above the pods to be looked at.
    limits: Arc<WorkQueue<()>>,
    ipam: Mutex<Ipam>,
    /// There while the node runs.
    recorder: OnceLock<Recorder>,
    services: OnceLock<Arc<Informer<Service>>>,
}

/// What can go wrong in the node room.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    #[error(transparent)]
    Api(#[from] crate::client::Error),
    #[error(transparent)]
    Image(#[from] crate::image::ImageError),
    #[error(transparent)]
    Net(#[from] crate::net::Error),
    #[error(transparent)]
    Runtime(#[from] crate::runtime::Error),
    /// A step that failed was taken note of in `Observed`; the rest of the plan has to wait.
    #[error("{0}")]
    Later(String),
}

impl NodeError {
    fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> NodeError {
        let what = what.into();
        move |source| NodeError::Io { what, source }
    }
}

impl Node {
    /// A node that does nothing yet. `client` speaks as `system:node:<name>`.
    pub fn new(
        config: NodeConfig,
        runtime: Runtime,
        net: NodeHandle,
        images: Images,
        client: kube::Client,
    ) -> Arc<Node> {
        let ipam = Ipam::new(net.net().pod_cidr);
        Arc::new(Node {
            config,
            runtime,
            net,
            images,
            client,
            pods: Pods::default(),
            queue: Arc::new(WorkQueue::new(Backoff::default())),
            outbox: Arc::new(WorkQueue::new(Backoff::default())),
            limits: Arc::new(WorkQueue::new(Backoff::default())),
            ipam: Mutex::new(ipam),
            recorder: OnceLock::new(),
            services: OnceLock::new(),
        })
    }

    /// Runs until `shutdown`: adopts what runs, registers, then keeps the pods bound here running. Pods go on
    /// running afterwards; `power_cut` is what ends them. A node runs once; to run it again, make a new one.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) -> Result<(), NodeError> {
        let host = self.config.name.clone();
        let recorder = Recorder::start(self.client.clone(), "kubelet", &host, shutdown.clone());
        self.recorder.get_or_init(|| recorder);
        self.register().await?;
        let heartbeat = tokio::spawn(self.clone().heartbeat(shutdown.clone()));
        self.watch(shutdown.clone()).await?;
        let pods = driver::Driver(self.clone());
        let statuses = publish::Publisher(self.clone());
        let limiter = limits::Limiter::new(self.clone());
        self.limits.add(());
        tokio::join!(
            drive(Arc::new(pods), self.queue.clone(), WORKERS, shutdown.clone()),
            drive(Arc::new(statuses), self.outbox.clone(), WRITERS, shutdown.clone()),
            drive(Arc::new(limiter), self.limits.clone(), 1, shutdown.clone()),
        );
        heartbeat.abort();
        Ok(())
    }

    /// Ends everything of this node as a power cut would: all processes killed, sandboxes, cgroups and mounts
    /// removed, no word to the API. Call it after `run` has returned. Also what `down` uses.
    pub async fn power_cut(&self) -> Result<(), NodeError> {
        let mut failed = None;
        for sandbox in self.runtime.list().await? {
            if sandbox.spec.labels.get(setup::NODE) != Some(&self.config.name) {
                continue;
            }
            let id = &sandbox.spec.id;
            let net = self.net.detach(id).await.map_err(NodeError::from);
            let run = self.runtime.destroy(id).await.map_err(NodeError::from);
            failed = failed.or(net.err()).or(run.err());
        }
        let rest = Runtime::end(self.cgroup()).await.map_err(NodeError::from);
        failed.or(rest.err()).map_or(Ok(()), Err)
    }

    /// Its own cgroup, below every controller's mount.
    fn cgroup(&self) -> String {
        format!("coracle/{}/{}", self.config.cluster, self.config.name)
    }

    /// The address by which others know this node.
    fn host_ip(&self) -> Ipv4Addr {
        self.net.net().underlay_ip
    }

    fn policy(&self) -> Policy {
        Policy { first: self.config.backoff_first, max: self.config.backoff_max, reset: self.config.backoff_reset }
    }
}

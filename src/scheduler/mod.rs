//! Pods to nodes, with reasons.
//!
//! [`decide`] is the idea: a pure function of a pod and a [`Cluster`] to a [`Decision`], which says for every node why
//! not, or how well. Everything else keeps the cluster up to date and acts on decisions.
//!
//! A plugin is a file in [`plugins`]: for one pod it starts a [`plugins::Check`], or says that it does not care; a check
//! may refuse nodes (with Kubernetes' words) and score the others. A plain pod on a plain node is two comparisons.
//!
//! The cluster is incremental: one [`NodeInfo`] a node with the sum of what its pods ask for, changed by what informers
//! tell. A decided pod is *assumed* on its node at once, so that the next decision sees it while its binding is being
//! written; if that fails it is forgotten.
//!
//! Pods without a node are parked. What could help them (a node that is new or better, a pod that goes) takes them out
//! again; nothing is retried by the clock. The last decision about a pod is kept for `why`.
//!
//! Left out: preemption (a refused pod says so in Kubernetes' words), volumes, image locality, and sampling of nodes:
//! every node is looked at, so that every node can be explained.

mod cluster;
mod decision;
mod journal;
mod node_info;
pub mod plugins;
mod pod_info;
mod run;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

pub use cluster::Cluster;
pub use decision::{Decision, Refusal, Verdict, decide};
pub use node_info::{NodeInfo, Resources};
pub use pod_info::PodInfo;
pub use run::Scheduler;

use crate::client::Informers;

/// Schedules pods until `shutdown`, through `client` (as `system:kube-scheduler`), reading the caches of `informers`.
/// Whoever wants to ask for decisions makes a [`Scheduler`] and runs that.
pub async fn run(client: kube::Client, informers: Arc<Informers>, shutdown: CancellationToken) {
    Scheduler::new(informers).run(client, shutdown).await;
}

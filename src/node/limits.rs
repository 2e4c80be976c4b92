//! The cgroups above a node's pods. They make a virtual node as large as it says it is, and share it out as a kubelet does:
//!
//! ```text
//! <node>                     cpu, memory and pids of the machine; on v2 its processors and its disk's bandwidth
//!   shims                    what a machine spends on itself
//!   kubepods                 all the node offers to pods; guaranteed pods are right below it
//!     burstable              as much weight as its pods ask for together
//!     besteffort             what is left over
//! ```
use super::{Capacity, Node, resources, spec};
use crate::client::{self, Plan, Reconcile};
use crate::runtime::{Runtime, cgroup};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use oci_spec::runtime::LinuxResources;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Processes and threads of a node, as `kernel.pid_max` has it on a small machine: a fork bomb ends there.
const PIDS: i64 = 32_768;

/// What of its host a node is made of; only cgroup v2 can tell them apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parts {
    /// Processors, as `cpuset.cpus` takes them; none: all.
    pub cpus: Option<String>,
    /// The disk its data lie on (major, minor), and bytes a second each way.
    pub disk: Option<(u64, u64, u64)>,
}

/// Limits by path below the node's own cgroup, which is the empty one.
pub type Limits = BTreeMap<&'static str, Value>;

/// What the cgroups of a node with these pods should be limited to. Whether memory is to be held back for them
/// (MemoryQoS) is asked on cgroup v2 only; an answer of no takes back an earlier yes. Pure.
pub fn limits<'a>(
    capacity: &Capacity,
    parts: &Parts,
    pods: impl Iterator<Item = &'a Pod>,
    memory_qos: Option<bool>,
) -> Limits {
    let (mut burstable_milli, mut burstable_bytes, mut all_bytes) = (0, 0, 0);
    for pod in pods.filter(|pod| !matches!(spec::phase(pod), "Succeeded" | "Failed")) {
        let bytes = resources::pod_request(pod, "memory") / 1_000_000_000;
        all_bytes += bytes;
        if resources::qos(pod) == "Burstable" {
            burstable_milli += resources::pod_request(pod, "cpu") / 1_000_000;
            burstable_bytes += bytes;
        }
    }
    let (milli, memory) = (capacity.cpu_milli, json!({"limit": capacity.memory}));
    let quota = (milli * resources::PERIOD / 1000).max(resources::MIN_QUOTA as u64);
    let mut node = json!({
        "cpu": {"shares": resources::shares(milli as i64), "quota": quota, "period": resources::PERIOD},
        "memory": memory,
        "pids": {"limit": PIDS},
    });
    if let Some(cpus) = &parts.cpus {
        node["cpu"]["cpus"] = json!(cpus);
    }
    if let Some((major, minor, rate)) = parts.disk {
        let rate = json!([{"major": major, "minor": minor, "rate": rate}]);
        node["blockIO"] = json!({"throttleReadBpsDevice": rate, "throttleWriteBpsDevice": rate});
    }
    let mut kubepods = json!({"cpu": {"shares": resources::shares(milli as i64)}, "memory": memory});
    let mut burstable = json!({"cpu": {"shares": resources::shares(burstable_milli as i64)}});
    if let Some(on) = memory_qos {
        let held = |bytes: i128| json!({"memory.min": if on { bytes } else { 0 }.to_string()});
        kubepods["unified"] = held(all_bytes);
        burstable["unified"] = held(burstable_bytes);
    }
    let besteffort = json!({"cpu": {"shares": resources::shares(0)}});
    Limits::from([
        ("", node),
        ("kubepods", kubepods),
        ("kubepods/burstable", burstable),
        ("kubepods/besteffort", besteffort),
    ])
}

/// The processors of a node that has fewer than its host: as many as it has cores, the next node's after these. Pure.
pub fn processors(index: u32, cpu_milli: u64, host: &[u32]) -> Option<String> {
    let wanted = cpu_milli.div_ceil(1000) as usize;
    if wanted >= host.len() {
        return None;
    }
    let first = (index as usize - 1) * wanted;
    let mut mine: Vec<u32> = (first..first + wanted).map(|at| host[at % host.len()]).collect();
    mine.sort_unstable();
    Some(mine.iter().map(u32::to_string).collect::<Vec<_>>().join(","))
}

/// What is to be written: limits that differ from those written last. Pure.
fn changes(wanted: &Limits, written: &Limits) -> Plan<(&'static str, Value)> {
    let changed = wanted.iter().filter(|(path, limits)| written.get(*path) != Some(limits));
    Plan::of(changed.map(|(path, limits)| (*path, limits.clone())).collect())
}

/// Keeps the limits as the pods want them. The one key stands for the node.
pub struct Limiter {
    node: Arc<Node>,
    /// What was written; a cgroup that was never written to is as it was found.
    written: Mutex<Limits>,
}

impl Limiter {
    pub fn new(node: Arc<Node>) -> Limiter {
        Limiter { node, written: Mutex::default() }
    }
}

impl Reconcile for Limiter {
    type Key = ();
    /// Wanted, and written.
    type View = (Limits, Limits);
    /// A cgroup and its limits.
    type Step = (&'static str, Value);

    fn name(&self) -> &'static str {
        "limits"
    }

    async fn observe(&self, (): &()) -> client::Result<Self::View> {
        let config = &self.node.config;
        let pods = self.node.pods.lock();
        let memory_qos = cgroup::unified().map_err(client::Error::step)?.then_some(config.memory_qos);
        let wanted = limits(&config.capacity, &config.parts, pods.values().map(|entry| &*entry.pod), memory_qos);
        Ok((wanted, self.written.lock().unwrap_or_else(PoisonError::into_inner).clone()))
    }

    fn plan(&self, (): &(), (wanted, written): &Self::View, _: Timestamp) -> Plan<Self::Step> {
        changes(wanted, written)
    }

    async fn perform(&self, (): &(), (path, limits): &Self::Step) -> client::Result<()> {
        let resources: LinuxResources = serde_json::from_value(limits.clone()).map_err(client::Error::step)?;
        let cgroup = format!("{}/{path}", self.node.cgroup());
        Runtime::limit(cgroup.trim_end_matches('/').into(), resources).await.map_err(client::Error::step)?;
        self.written.lock().unwrap_or_else(PoisonError::into_inner).insert(path, limits.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: Capacity = Capacity { cpu_milli: 1500, memory: 1 << 30, pods: 110 };

    fn pod(resources: Value, phase: &str) -> Pod {
        let spec = json!({"containers": [{"name": "a", "resources": resources}]});
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec, "status": {"phase": phase}})).unwrap()
    }

    #[test]
    fn a_node_is_limited_and_shared_out() {
        let asks = json!({"requests": {"cpu": "250m", "memory": "1Mi"}});
        let whole = json!({"limits": {"cpu": "500m", "memory": "2Mi"}});
        let pods = [
            pod(asks.clone(), "Running"),
            pod(asks.clone(), ""),
            pod(asks, "Succeeded"),
            pod(whole, "Running"),
            pod(json!({}), "Running"),
        ];
        let parts = Parts { cpus: Some("0,1".into()), disk: Some((8, 0, 4096)) };
        let rows = limits(&CAPACITY, &parts, pods.iter(), Some(true));
        let node = &rows[""];
        assert_eq!(node["cpu"], json!({"shares": 1536, "quota": 150_000, "period": 100_000, "cpus": "0,1"}));
        assert_eq!(node["blockIO"]["throttleWriteBpsDevice"][0]["rate"], 4096);
        assert_eq!(rows["kubepods"]["unified"]["memory.min"], (4 << 20).to_string());
        assert_eq!(rows["kubepods/burstable"]["cpu"]["shares"], 512);
        assert_eq!(rows["kubepods/burstable"]["unified"]["memory.min"], (2 << 20).to_string());
        assert_eq!(rows["kubepods/besteffort"]["cpu"]["shares"], 2);
        for limits in rows.values() {
            serde_json::from_value::<LinuxResources>(limits.clone()).unwrap();
        }
    }

    #[test]
    fn a_second_plan_is_empty_and_a_switch_is_taken_back() {
        let asks = json!({"requests": {"memory": "1Mi"}});
        let of = |pods: &[Pod], qos| limits(&CAPACITY, &Parts::default(), pods.iter(), qos);
        let mut written = Limits::new();
        let mut apply = |wanted: &Limits| {
            let plan = changes(wanted, &written);
            let paths: Vec<_> = plan.steps.iter().map(|(path, _)| *path).collect();
            written.extend(plan.steps);
            assert_eq!(changes(wanted, &written).steps, []);
            paths
        };
        assert_eq!(apply(&of(&[], Some(false))), ["", "kubepods", "kubepods/besteffort", "kubepods/burstable"]);
        let pods = [pod(asks.clone(), "Running"), pod(asks, "Running")];
        let on = of(&pods, Some(true));
        assert_eq!(apply(&on), ["kubepods", "kubepods/burstable"]);
        let off = of(&pods, Some(false));
        assert_eq!(apply(&off), ["kubepods", "kubepods/burstable"]);
        assert_eq!(off["kubepods"]["unified"], json!({"memory.min": "0"}));
        assert_eq!(of(&pods, None)["kubepods"].get("unified"), None);
    }

    #[test]
    fn nodes_take_turns_with_the_processors() {
        let host = [0, 1, 2, 3, 8];
        assert_eq!(processors(1, 2000, &host), Some("0,1".into()));
        assert_eq!(processors(2, 1500, &host), Some("2,3".into()));
        assert_eq!(processors(3, 2000, &host), Some("0,8".into()));
        assert_eq!(processors(1, 5000, &host), None);
        assert_eq!(processors(1, 500, &[]), None);
    }
}

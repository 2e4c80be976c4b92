//! A pod as the scheduler sees it: everything parsed once.
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, PodAffinityTerm, PodSpec};

use super::Resources;
use crate::client::{ObjectKey, controller_of};

/// What a pod that asks for no CPU (in millicores) or no memory (in bytes) is taken to use when nodes are compared, as
/// in Kubernetes: otherwise all of them would pile up on one node.
const PRESUMED_CPU: i64 = 100;
const PRESUMED_MEMORY: i64 = 200 * 1024 * 1024;

/// A host port that a pod holds: address ("" for all), protocol, number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// Empty for every address.
    pub ip: String,
    /// TCP, UDP, SCTP.
    pub protocol: String,
    /// Number.
    pub port: i32,
}

impl HostPort {
    /// Whether both cannot be held on one node.
    pub fn clashes(&self, other: &Self) -> bool {
        let both = self.ip.is_empty() || other.ip.is_empty() || self.ip == other.ip;
        both && self.port == other.port && self.protocol == other.protocol
    }
}

/// A pod, parsed.
#[derive(Debug)]
pub struct PodInfo {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Namespace and name.
    pub key: ObjectKey,
    /// What it takes of a node.
    pub requests: Resources,
    /// What it counts as when nodes are compared: CPU and memory only.
    pub presumed: Resources,
    /// Host ports.
    pub ports: Vec<HostPort>,
    /// The uid of its controller.
    pub owner: Option<String>,
    /// Required anti-affinity: whom it keeps away.
    pub anti_affinity: Vec<PodAffinityTerm>,
}

impl PodInfo {
    /// Parses a pod.
    pub fn new(pod: Arc<Pod>) -> Self {
        let requests = pod.spec.as_ref().map(requests).unwrap_or_default();
        let or = |amount: i64, default: i64| if amount == 0 { default } else { amount };
        let presumed = Resources {
            cpu: or(requests.cpu, PRESUMED_CPU),
            memory: or(requests.memory, PRESUMED_MEMORY),
            ..Resources::default()
        };
        let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
        let anti = affinity.and_then(|affinity| affinity.pod_anti_affinity.as_ref());
        let anti_affinity = anti.and_then(|anti| anti.required_during_scheduling_ignored_during_execution.clone());
        Self {
            key: ObjectKey::of(pod.as_ref()),
            requests,
            presumed,
            ports: pod.spec.as_ref().map(ports).unwrap_or_default(),
            owner: controller_of(&pod.metadata).map(|owner| owner.uid.clone()),
            anti_affinity: anti_affinity.unwrap_or_default(),
            pod,
        }
    }

    /// The pod's spec; every stored pod has one.
    pub fn spec(&self) -> Option<&PodSpec> {
        self.pod.spec.as_ref()
    }
}

fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// All containers together, or the largest moment of the start: an init container with the sidecars before it. Plus
/// overhead; what the pod as a whole asks for wins.
fn requests(spec: &PodSpec) -> Resources {
    let of = |container: &Container| Resources::of(container.resources.as_ref().and_then(|r| r.requests.as_ref()));
    let mut running = Resources::default();
    spec.containers.iter().for_each(|container| running.add(&of(container), 1));
    let (mut sidecars, mut starting) = (Resources::default(), Resources::default());
    for container in spec.init_containers.iter().flatten() {
        let mut moment = sidecars.clone();
        moment.add(&of(container), 1);
        if is_sidecar(container) {
            sidecars = moment.clone();
        }
        starting = starting.max(&moment);
    }
    running.add(&sidecars, 1);
    let mut sum = running.max(&starting);
    if let Some(whole) = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()) {
        let given = Resources::of(Some(whole));
        sum.cpu = if whole.contains_key("cpu") { given.cpu } else { sum.cpu };
        sum.memory = if whole.contains_key("memory") { given.memory } else { sum.memory };
    }
    sum.add(&Resources::of(spec.overhead.as_ref()), 1);
    sum
}

fn ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars = spec.init_containers.iter().flatten().filter(|container| is_sidecar(container));
    let all = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    all.filter_map(|port| {
        // On the host's network every port is a host port.
        let own = (spec.host_network == Some(true)).then_some(port.container_port);
        let number = port.host_port.or(own).filter(|number| *number > 0)?;
        Some(HostPort {
            ip: port.host_ip.clone().filter(|ip| ip != "0.0.0.0" && ip != "::").unwrap_or_default(),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            port: number,
        })
    })
    .collect()
}

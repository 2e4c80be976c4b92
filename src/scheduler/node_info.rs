//! What a node has, what its pods take, and the sums.
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use k8s_openapi::{api::core::v1::Node, apimachinery::pkg::api::resource};

use super::PodInfo;
use crate::{
    api::quantity::Quantity,
    client::{ObjectKey, meta_labels},
};

/// Amounts: CPU in thousandths, bytes, counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// Millicores.
    pub cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes of local disk.
    pub storage: i64,
    /// Everything else, by name, in whole units.
    pub other: BTreeMap<String, i64>,
}

impl Resources {
    /// From a resource list; what cannot be parsed counts as nothing (the API refuses to store it).
    pub fn of(list: Option<&BTreeMap<String, resource::Quantity>>) -> Self {
        let mut sum = Self::default();
        for (name, quantity) in list.into_iter().flatten() {
            let Ok(quantity) = quantity.0.parse::<Quantity>() else {
                continue;
            };
            match name.as_str() {
                "cpu" => sum.cpu = quantity.milli(),
                "memory" => sum.memory = quantity.value(),
                "ephemeral-storage" => sum.storage = quantity.value(),
                "pods" => {}
                _ => drop(sum.other.insert(name.clone(), quantity.value())),
            }
        }
        sum
    }

    /// Adds `other`, or takes it away with `sign` -1.
    pub fn add(&mut self, other: &Self, sign: i64) {
        self.cpu += sign * other.cpu;
        self.memory += sign * other.memory;
        self.storage += sign * other.storage;
        for (name, amount) in &other.other {
            *self.other.entry(name.clone()).or_insert(0) += sign * amount;
        }
    }

    /// The larger of both, resource by resource.
    pub fn max(mut self, other: &Self) -> Self {
        self.cpu = self.cpu.max(other.cpu);
        self.memory = self.memory.max(other.memory);
        self.storage = self.storage.max(other.storage);
        for (name, amount) in &other.other {
            let mine = self.other.entry(name.clone()).or_insert(0);
            *mine = (*mine).max(*amount);
        }
        self
    }
}

/// A node and the pods on it, with their sums kept.
#[derive(Debug, Clone, Default)]
pub struct NodeInfo {
    /// The node.
    pub node: Arc<Node>,
    /// What pods may take.
    pub allocatable: Resources,
    /// How many pods there may be.
    pub max_pods: i64,
    /// What its pods take.
    pub requested: Resources,
    /// The same for scoring: pods that ask for nothing count as something.
    pub presumed: Resources,
    /// Its pods.
    pub pods: HashMap<ObjectKey, Arc<PodInfo>>,
    /// How many pods of an owner it has, by the owner's uid.
    pub by_owner: HashMap<String, i64>,
    /// How many of its pods keep others away, or hold ports: when zero, nobody need look.
    pub with_anti_affinity: usize,
    /// How many of its pods hold host ports.
    pub with_ports: usize,
}

impl NodeInfo {
    /// A node without pods.
    pub fn new(node: Arc<Node>) -> Self {
        let mut info = Self::default();
        info.set_node(node);
        info
    }

    /// The node's own facts have changed.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
        self.allocatable = Resources::of(allocatable);
        let pods = allocatable.and_then(|list| list.get("pods")).and_then(|q| q.0.parse::<Quantity>().ok());
        self.max_pods = pods.map_or(0, Quantity::value);
        self.node = node;
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        self.node.metadata.name.as_deref().unwrap_or_default()
    }

    /// A label of the node.
    pub fn label(&self, key: &str) -> Option<&str> {
        meta_labels(&self.node.metadata).get(key).map(String::as_str)
    }

    /// Puts a pod here; one of the same key is replaced.
    pub fn add(&mut self, pod: Arc<PodInfo>) {
        self.remove(&pod.key);
        self.count(&pod, 1);
        self.pods.insert(pod.key.clone(), pod);
    }

    /// Takes a pod away, if it is here.
    pub fn remove(&mut self, key: &ObjectKey) {
        if let Some(pod) = self.pods.remove(key) {
            self.count(&pod, -1);
        }
    }

    fn count(&mut self, pod: &PodInfo, sign: i64) {
        self.requested.add(&pod.requests, sign);
        self.presumed.cpu += sign * pod.presumed.cpu;
        self.presumed.memory += sign * pod.presumed.memory;
        let step = |count: &mut usize, applies: bool| match (applies, sign > 0) {
            (true, true) => *count += 1,
            (true, false) => *count = count.saturating_sub(1),
            (false, _) => {}
        };
        step(&mut self.with_anti_affinity, !pod.anti_affinity.is_empty());
        step(&mut self.with_ports, !pod.ports.is_empty());
        if let Some(owner) = &pod.owner {
            let count = self.by_owner.entry(owner.clone()).or_insert(0);
            *count += sign;
            if *count == 0 {
                self.by_owner.remove(owner);
            }
        }
    }
}

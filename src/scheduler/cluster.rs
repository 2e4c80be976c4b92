//! All nodes with their pods, changed in place as news come.
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use k8s_openapi::api::core::v1::{Node, Pod};

use super::{NodeInfo, PodInfo};
use crate::client::ObjectKey;

/// What decisions are made on.
#[derive(Debug, Default)]
pub struct Cluster {
    nodes: BTreeMap<String, NodeInfo>,
    /// Where each pod is counted, also when that node is not known (yet).
    places: HashMap<ObjectKey, (String, Arc<PodInfo>)>,
    /// Pods counted where they were decided to go, whose binding the API has not confirmed.
    assumed: HashMap<ObjectKey, String>,
    /// Pods anywhere that keep others away: when zero, nobody need look.
    pub(super) with_anti_affinity: usize,
}

impl Cluster {
    /// The nodes, by name.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.values()
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are no nodes.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// A node is new or has changed.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let name = node.metadata.name.clone().unwrap_or_default();
        if let Some(info) = self.nodes.get_mut(&name) {
            return info.set_node(node);
        }
        let mut info = NodeInfo::new(node);
        for (_, pod) in self.places.values().filter(|(place, _)| *place == name) {
            info.add(pod.clone());
        }
        self.nodes.insert(name, info);
    }

    /// A node is gone; its pods stay in mind until they are gone too.
    pub fn remove_node(&mut self, name: &str) {
        self.nodes.remove(name);
    }

    /// A pod is new or has changed. Counted when it has a node and is not over.
    pub fn set_pod(&mut self, pod: &Arc<Pod>) {
        let key = ObjectKey::of(pod.as_ref());
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).filter(|node| !node.is_empty());
        match node {
            None if self.assumed.contains_key(&key) && pod.metadata.deletion_timestamp.is_none() => {}
            None => self.remove_pod(&key),
            Some(_) if matches!(phase, Some("Succeeded" | "Failed")) => self.remove_pod(&key),
            Some(node) => {
                self.assumed.remove(&key);
                self.place(Arc::new(PodInfo::new(pod.clone())), node);
            }
        }
    }

    /// A pod is gone.
    pub fn remove_pod(&mut self, key: &ObjectKey) {
        self.assumed.remove(key);
        if let Some((node, pod)) = self.places.remove(key) {
            if !pod.anti_affinity.is_empty() {
                self.with_anti_affinity = self.with_anti_affinity.saturating_sub(1);
            }
            if let Some(info) = self.nodes.get_mut(&node) {
                info.remove(key);
            }
        }
    }

    /// Counts a pod on the node it was decided for, before the API knows.
    pub fn assume(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.assumed.insert(pod.key.clone(), node.to_owned());
        self.place(pod, node.to_owned());
    }

    /// The pod could not be bound: it is nowhere again. Says whether it was somewhere.
    pub fn forget(&mut self, key: &ObjectKey) -> bool {
        let assumed = self.assumed.contains_key(key);
        if assumed {
            self.remove_pod(key);
        }
        assumed
    }

    /// Whether the pod is counted on a node already.
    pub fn is_placed(&self, key: &ObjectKey) -> bool {
        self.places.contains_key(key)
    }

    fn place(&mut self, pod: Arc<PodInfo>, node: String) {
        let assumed = self.assumed.get(&pod.key).cloned();
        self.remove_pod(&pod.key);
        if let Some(assumed) = assumed {
            self.assumed.insert(pod.key.clone(), assumed);
        }
        if !pod.anti_affinity.is_empty() {
            self.with_anti_affinity += 1;
        }
        if let Some(info) = self.nodes.get_mut(&node) {
            info.add(pod.clone());
        }
        self.places.insert(pod.key.clone(), (node, pod));
    }
}

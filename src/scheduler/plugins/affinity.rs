//! Terms that select pods: shared by spreading and inter-pod affinity.
use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Pod, PodAffinityTerm},
    apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement},
};
use kube::core::{Selector, SelectorExt};

use super::{NodeInfo, PodInfo};
use crate::client::meta_labels;

/// A selector of pods in namespaces.
pub(super) struct Term {
    pub topology: String,
    /// `None` selects nothing.
    selector: Option<Selector>,
    /// `None`: every namespace.
    namespaces: Option<Vec<String>>,
}

impl Term {
    /// A term of `of`, the pod that has it. Namespaces by label are taken as all: the scheduler sees no namespaces, and
    /// too many pods kept together or apart is the safe side.
    pub fn new(term: &PodAffinityTerm, of: &PodInfo) -> Self {
        let own = || vec![of.key.namespace.clone()];
        let namespaces = match (&term.namespaces, &term.namespace_selector) {
            (_, Some(_)) => None,
            (Some(names), None) if !names.is_empty() => Some(names.clone()),
            _ => Some(own()),
        };
        let mut selector = term.label_selector.clone();
        let labels = meta_labels(&of.pod.metadata);
        add_keys(&mut selector, term.match_label_keys.iter().flatten(), "In", labels);
        add_keys(&mut selector, term.mismatch_label_keys.iter().flatten(), "NotIn", labels);
        Self { topology: term.topology_key.clone(), selector: compile(selector.as_ref()), namespaces }
    }

    /// A term over the labels of pods in one namespace.
    pub fn of_labels(
        topology: &str,
        selector: Option<&LabelSelector>,
        keys: &[String],
        labels: &BTreeMap<String, String>,
        namespace: &str,
    ) -> Self {
        let mut selector = selector.cloned();
        add_keys(&mut selector, keys.iter(), "In", labels);
        Self {
            topology: topology.to_owned(),
            selector: compile(selector.as_ref()),
            namespaces: Some(vec![namespace.to_owned()]),
        }
    }

    /// Whether the term selects a pod.
    pub fn selects(&self, pod: &Pod) -> bool {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        self.namespaces.as_ref().is_none_or(|all| all.iter().any(|name| name == namespace))
            && self.selector.as_ref().is_some_and(|selector| selector.matches(meta_labels(&pod.metadata)))
    }

    /// How many selected pods these nodes have in each domain of the topology. As in Kubernetes, pods that are ending
    /// are still company, but do not count when others are spread.
    pub fn count<'a>(&self, nodes: impl Iterator<Item = &'a NodeInfo>, ending: bool) -> BTreeMap<String, i64> {
        let mut counts = BTreeMap::new();
        for node in nodes {
            let Some(domain) = node.label(&self.topology) else {
                continue;
            };
            let here = node
                .pods
                .values()
                .filter(|pod| (ending || pod.pod.metadata.deletion_timestamp.is_none()) && self.selects(&pod.pod));
            *counts.entry(domain.to_owned()).or_insert(0) += here.count() as i64;
        }
        counts
    }
}

fn compile(selector: Option<&LabelSelector>) -> Option<Selector> {
    Selector::try_from(selector?.clone()).ok()
}

/// `matchLabelKeys` (`In`) and `mismatchLabelKeys` (`NotIn`): the pod's own values of these labels are part of the
/// selector.
fn add_keys<'a>(
    selector: &mut Option<LabelSelector>,
    keys: impl Iterator<Item = &'a String>,
    operator: &str,
    labels: &BTreeMap<String, String>,
) {
    let Some(selector) = selector else { return };
    for key in keys {
        if let Some(value) = labels.get(key) {
            let (key, operator, values) = (key.clone(), operator.to_owned(), Some(vec![value.clone()]));
            let requirement = LabelSelectorRequirement { key, operator, values };
            selector.match_expressions.get_or_insert_default().push(requirement);
        }
    }
}

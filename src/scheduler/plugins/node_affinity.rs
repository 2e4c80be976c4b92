//! nodeSelector and node affinity: which nodes a pod must, or would rather, be on.
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, PreferredSchedulingTerm};

use super::{Check, Cluster, NodeInfo, PodInfo, Refusal, Started, scale};

/// Refuses nodes that do not match, prefers those that match more.
pub(super) fn start<'a>(pod: &'a PodInfo, _: &'a Cluster) -> Started<'a> {
    let spec = pod.spec()?;
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    let preferred = affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref());
    let wants = Wants {
        selector: spec.node_selector.as_ref().filter(|selector| !selector.is_empty()),
        required: required.map(|required| required.node_selector_terms.as_slice()),
        preferred: preferred.unwrap_or_default(),
    };
    let any = wants.selector.is_some() || wants.required.is_some() || !wants.preferred.is_empty();
    any.then(|| Box::new(wants) as Box<dyn Check>)
}

struct Wants<'a> {
    selector: Option<&'a BTreeMap<String, String>>,
    required: Option<&'a [NodeSelectorTerm]>,
    preferred: &'a [PreferredSchedulingTerm],
}

impl Check for Wants<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Refusal> {
        let labels = |selector: &BTreeMap<_, String>| {
            selector.iter().all(|(key, value): (&String, _)| node.label(key) == Some(value.as_str()))
        };
        if self.selector.is_none_or(labels) && self.required.is_none_or(|terms| terms.iter().any(|t| matches(t, node)))
        {
            return Ok(());
        }
        Err(Refusal::hopeless("node(s) didn't match Pod's node affinity/selector"))
    }

    fn score(&self, node: &NodeInfo) -> Option<i64> {
        if self.preferred.is_empty() {
            return None;
        }
        let matching = self.preferred.iter().filter(|term| matches(&term.preference, node));
        Some(matching.map(|term| i64::from(term.weight)).sum())
    }

    fn normalize(&self, scores: &mut [i64]) {
        scale(scores, false);
    }
}

/// All requirements of a term; an empty term matches nothing.
fn matches(term: &NodeSelectorTerm, node: &NodeInfo) -> bool {
    let (labels, fields) = (term.match_expressions.iter().flatten(), term.match_fields.iter().flatten());
    if labels.clone().next().is_none() && fields.clone().next().is_none() {
        return false;
    }
    let field = |key: &str| (key == "metadata.name").then(|| node.name());
    labels.into_iter().all(|wanted| holds(wanted, node.label(&wanted.key)))
        && fields.into_iter().all(|wanted| holds(wanted, field(&wanted.key)))
}

fn holds(wanted: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = wanted.values.as_deref().unwrap_or_default();
    let is_in = || value.is_some_and(|value| values.iter().any(|wanted| wanted == value));
    let numbers = || Some((value?.parse::<i64>().ok()?, values.first()?.parse::<i64>().ok()?));
    match wanted.operator.as_str() {
        "In" => is_in(),
        "NotIn" => !is_in(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(value, bound)| value > bound),
        "Lt" => numbers().is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

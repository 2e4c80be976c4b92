//! Inter-pod affinity: near these pods, away from those; and respect for pods that want others away.
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::WeightedPodAffinityTerm;

use super::{Check, Cluster, MAX_SCORE, NodeInfo, PodInfo, Refusal, Started, affinity::Term};

/// Refuses nodes in the wrong company, prefers those in good company.
pub(super) fn start<'a>(pod: &'a PodInfo, cluster: &'a Cluster) -> Started<'a> {
    let affinity = pod.spec()?.affinity.as_ref();
    let near = affinity.and_then(|affinity| affinity.pod_affinity.as_ref());
    let apart = affinity.and_then(|affinity| affinity.pod_anti_affinity.as_ref());
    if near.is_none() && apart.is_none() && cluster.with_anti_affinity == 0 {
        return None;
    }
    let counted = |term: Term| (term.count(cluster.nodes(), true), term);
    let required = near.and_then(|near| near.required_during_scheduling_ignored_during_execution.as_deref());
    let liked = near.and_then(|near| near.preferred_during_scheduling_ignored_during_execution.as_deref());
    let disliked = apart.and_then(|apart| apart.preferred_during_scheduling_ignored_during_execution.as_deref());
    let weighted = |terms: Option<&[WeightedPodAffinityTerm]>, sign: i64| -> Vec<_> {
        let terms = terms.unwrap_or_default().iter();
        terms.map(|t| (sign * i64::from(t.weight), counted(Term::new(&t.pod_affinity_term, pod)))).collect()
    };
    let mut soft = weighted(liked, 1);
    soft.extend(weighted(disliked, -1));
    let near: Vec<_> = required.unwrap_or_default().iter().map(|term| counted(Term::new(term, pod))).collect();
    // The first of a group that wants to be near its own kind has nobody to be near.
    let first = near.iter().all(|(counts, term)| counts.values().all(|n| *n == 0) && term.selects(&pod.pod));
    Some(Box::new(Company {
        near,
        first,
        apart: pod.anti_affinity.iter().map(|term| counted(Term::new(term, pod))).collect(),
        kept_out: kept_out(pod, cluster),
        soft,
    }))
}

type Counted = (BTreeMap<String, i64>, Term);

struct Company {
    near: Vec<Counted>,
    first: bool,
    apart: Vec<Counted>,
    /// Topology key and domain where somebody keeps this pod out.
    kept_out: Vec<(String, String)>,
    soft: Vec<(i64, Counted)>,
}

fn kept_out(pod: &PodInfo, cluster: &Cluster) -> Vec<(String, String)> {
    let mut places = Vec::new();
    for node in cluster.nodes().filter(|node| node.with_anti_affinity > 0) {
        for other in node.pods.values() {
            let terms = other.anti_affinity.iter().map(|term| Term::new(term, other));
            for term in terms.filter(|term| term.selects(&pod.pod)) {
                if let Some(domain) = node.label(&term.topology) {
                    places.push((term.topology.clone(), domain.to_owned()));
                }
            }
        }
    }
    places.sort();
    places.dedup();
    places
}

fn count((counts, term): &Counted, node: &NodeInfo) -> Option<i64> {
    counts.get(node.label(&term.topology)?).copied()
}

impl Check for Company {
    fn filter(&self, node: &NodeInfo) -> Result<(), Refusal> {
        let lonely = |term: &Counted| match count(term, node) {
            None => true, // the node is in no domain
            Some(0) => !self.first,
            Some(_) => false,
        };
        if self.near.iter().any(lonely) {
            return Err(Refusal::hopeless("node(s) didn't match pod affinity rules"));
        }
        if self.apart.iter().any(|term| count(term, node).is_some_and(|count| count > 0)) {
            return Err(Refusal::now(vec!["node(s) didn't match pod anti-affinity rules".into()]));
        }
        if self.kept_out.iter().any(|(key, domain)| node.label(key) == Some(domain)) {
            return Err(Refusal::now(vec!["node(s) didn't satisfy existing pods anti-affinity rules".into()]));
        }
        Ok(())
    }

    fn score(&self, node: &NodeInfo) -> Option<i64> {
        if self.soft.is_empty() {
            return None;
        }
        Some(self.soft.iter().map(|(weight, term)| weight * count(term, node).unwrap_or(0)).sum())
    }

    fn normalize(&self, scores: &mut [i64]) {
        let (min, max) = (scores.iter().copied().min().unwrap_or(0), scores.iter().copied().max().unwrap_or(0));
        for score in scores {
            *score = if max > min { (*score - min) * MAX_SCORE / (max - min) } else { 0 };
        }
    }
}

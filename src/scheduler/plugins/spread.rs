//! Spreading: pods of one kind apart from each other; by the pod's own constraints, or else by its owner.
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::TopologySpreadConstraint;

use super::{Check, Cluster, NodeInfo, PodInfo, Refusal, Started, affinity::Term, node_affinity, scale, taints};
use crate::client::meta_labels;

/// Refuses nodes in crowded domains (`DoNotSchedule`) and prefers empty ones (`ScheduleAnyway`, and by default the
/// nodes with fewest pods of the same owner).
pub(super) fn start<'a>(pod: &'a PodInfo, cluster: &'a Cluster) -> Started<'a> {
    let constraints = pod.spec()?.topology_spread_constraints.as_deref().unwrap_or_default();
    if constraints.is_empty() {
        let owner = pod.owner.as_deref()?;
        return Some(Box::new(BySibling(owner)));
    }
    let constraints = constraints.iter().map(|constraint| Constraint::new(constraint, pod, cluster)).collect();
    Some(Box::new(ByConstraints(constraints)))
}

/// The default: siblings of one owner spread over nodes.
struct BySibling<'a>(&'a str);

impl Check for BySibling<'_> {
    fn score(&self, node: &NodeInfo) -> Option<i64> {
        Some(node.by_owner.get(self.0).copied().unwrap_or(0))
    }

    fn normalize(&self, scores: &mut [i64]) {
        scale(scores, true);
    }
}

/// The raw score of a node that lacks a label of the constraints: as good as the worst, not as an empty domain.
const NO_DOMAIN: i64 = -1;

struct ByConstraints(Vec<Constraint>);

struct Constraint {
    term: Term,
    counts: BTreeMap<String, i64>,
    least: i64,
    max_skew: i64,
    /// The pod itself counts where it goes, if it is selected.
    own: i64,
    hard: bool,
}

impl Constraint {
    fn new(constraint: &TopologySpreadConstraint, pod: &PodInfo, cluster: &Cluster) -> Self {
        let labels = meta_labels(&pod.pod.metadata);
        let keys = constraint.match_label_keys.as_deref().unwrap_or_default();
        let selector = constraint.label_selector.as_ref();
        let term = Term::of_labels(&constraint.topology_key, selector, keys, labels, &pod.key.namespace);
        // Kubernetes' defaults: a node the pod does not select is no place to spread to, a tainted one is.
        let selected = constraint.node_affinity_policy.as_deref() != Some("Ignore");
        let tolerated = constraint.node_taints_policy.as_deref() == Some("Honor");
        let selected = selected.then(|| node_affinity::start(pod, cluster));
        let tolerated = tolerated.then(|| taints::start(pod, cluster));
        let rules: Vec<_> = [selected, tolerated].into_iter().flatten().flatten().collect();
        let nodes = cluster.nodes().filter(|node| rules.iter().all(|rule| rule.filter(node).is_ok()));
        let counts = term.count(nodes, false);
        let domains = i64::try_from(counts.len()).unwrap_or(i64::MAX);
        let enough = domains >= constraint.min_domains.map_or(1, i64::from);
        Self {
            least: if enough { counts.values().copied().min().unwrap_or(0) } else { 0 },
            own: i64::from(term.selects(&pod.pod)),
            max_skew: i64::from(constraint.max_skew),
            hard: constraint.when_unsatisfiable == "DoNotSchedule",
            counts,
            term,
        }
    }

    /// `None` without the label; a domain that is not counted has nobody.
    fn count(&self, node: &NodeInfo) -> Option<i64> {
        let domain = node.label(&self.term.topology)?;
        Some(self.counts.get(domain).copied().unwrap_or(0))
    }
}

impl Check for ByConstraints {
    fn filter(&self, node: &NodeInfo) -> Result<(), Refusal> {
        for constraint in self.0.iter().filter(|constraint| constraint.hard) {
            let Some(count) = constraint.count(node) else {
                return Err(Refusal::hopeless(
                    "node(s) didn't match pod topology spread constraints (missing required label)",
                ));
            };
            if count + constraint.own - constraint.least > constraint.max_skew {
                return Err(Refusal::now(vec!["node(s) didn't match pod topology spread constraints".into()]));
            }
        }
        Ok(())
    }

    fn score(&self, node: &NodeInfo) -> Option<i64> {
        let mut soft = self.0.iter().filter(|constraint| !constraint.hard).peekable();
        soft.peek()?;
        Some(soft.map(|constraint| constraint.count(node)).sum::<Option<i64>>().unwrap_or(NO_DOMAIN))
    }

    fn normalize(&self, scores: &mut [i64]) {
        let raw = scores.to_vec();
        scale(scores, true);
        scores.iter_mut().zip(raw).filter(|(_, raw)| *raw == NO_DOMAIN).for_each(|(score, _)| *score = 0);
    }
}

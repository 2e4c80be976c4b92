//! The decision: every node's verdict, the best node, and the sentence for people.
use std::{borrow::Cow, collections::BTreeMap, fmt::Write};

use serde::Serialize;

use super::{
    Cluster, NodeInfo, PodInfo,
    plugins::{Check, Plugin},
};

/// Why a node is no place for a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// The plugin that says so.
    pub plugin: &'static str,
    /// In Kubernetes' words.
    pub reasons: Vec<Cow<'static, str>>,
    /// Whether it would stay no place if pods were put off it.
    pub hopeless: bool,
}

impl Refusal {
    /// A refusal that pods leaving the node could lift.
    pub fn now(reasons: Vec<Cow<'static, str>>) -> Self {
        Self { plugin: "", reasons, hopeless: false }
    }

    /// A refusal by the node itself.
    pub fn hopeless(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { plugin: "", reasons: vec![reason.into()], hopeless: true }
    }
}

/// What is said about one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// No.
    Refused(Refusal),
    /// Possible: points by plugin, weighted, and their sum.
    Scored { points: Vec<(&'static str, i64)>, total: i64 },
}

/// The answer for one pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// By node name, in order.
    pub verdicts: Vec<(String, Verdict)>,
    /// The best node, if any is possible.
    pub chosen: Option<String>,
}

/// Where `pod` should go. Pure. Of equally good nodes the one with fewest pods, then the first by name.
pub fn decide(pod: &PodInfo, cluster: &Cluster, policy: &'static [Plugin]) -> Decision {
    let start = |plugin: &'static Plugin| Some(Started { plugin, check: (plugin.start)(pod, cluster)? });
    let checks: Vec<Started> = policy.iter().filter_map(start).collect();
    let mut refused: Vec<Option<Refusal>> = Vec::with_capacity(cluster.len());
    let mut possible: Vec<&NodeInfo> = Vec::new();
    for node in cluster.nodes() {
        let refusal = checks.iter().find_map(|started| started.filter(node));
        if refusal.is_none() {
            possible.push(node);
        }
        refused.push(refusal);
    }
    let scores = score(&checks, &possible);
    let total = |at: usize| scores.iter().map(|(_, points)| points[at]).sum::<i64>();
    let better = |a: &usize, b: &usize| {
        let by_pods = possible[*b].pods.len().cmp(&possible[*a].pods.len());
        total(*a).cmp(&total(*b)).then(by_pods).then(b.cmp(a))
    };
    let chosen = (0..possible.len()).max_by(better).map(|at| possible[at].name().to_owned());
    let mut at = 0;
    let mut verdict = |refusal: Option<Refusal>| match refusal {
        Some(refusal) => Verdict::Refused(refusal),
        None => {
            at += 1;
            let points = scores.iter().map(|(plugin, points)| (*plugin, points[at - 1])).collect();
            Verdict::Scored { points, total: total(at - 1) }
        }
    };
    let names = cluster.nodes().map(|node| node.name().to_owned());
    let verdicts = names.zip(refused).map(|(name, refusal)| (name, verdict(refusal))).collect();
    Decision { verdicts, chosen }
}

struct Started<'a> {
    plugin: &'static Plugin,
    check: Box<dyn Check + 'a>,
}

impl Started<'_> {
    fn filter(&self, node: &NodeInfo) -> Option<Refusal> {
        let refusal = self.check.filter(node).err()?;
        Some(Refusal { plugin: self.plugin.name, ..refusal })
    }
}

/// Weighted points of every possible node, by plugin.
fn score(checks: &[Started<'_>], possible: &[&NodeInfo]) -> Vec<(&'static str, Vec<i64>)> {
    let mut scores = Vec::new();
    for started in checks {
        let raw: Option<Vec<i64>> = possible.iter().map(|node| started.check.score(node)).collect();
        let Some(mut points) = raw.filter(|points| !points.is_empty()) else {
            continue;
        };
        started.check.normalize(&mut points);
        points.iter_mut().for_each(|points| *points *= started.plugin.weight);
        scores.push((started.plugin.name, points));
    }
    scores
}

impl Decision {
    /// Why there is no node, as Kubernetes says it.
    pub fn sentence(&self) -> String {
        let all = self.verdicts.len();
        if all == 0 {
            return "no nodes available to schedule pods".to_owned();
        }
        let refusals = || {
            self.verdicts.iter().filter_map(|(_, verdict)| match verdict {
                Verdict::Refused(refusal) => Some(refusal),
                Verdict::Scored { .. } => None,
            })
        };
        let mut reasons = BTreeMap::new();
        for reason in refusals().flat_map(|refusal| &refusal.reasons) {
            *reasons.entry(reason.as_ref()).or_insert(0) += 1;
        }
        let mut sentence = format!("0/{all} nodes are available: {}.", list(&reasons));
        let hopeless = refusals().filter(|refusal| refusal.hopeless).count();
        let mut preemption = BTreeMap::new();
        if hopeless > 0 {
            preemption.insert("Preemption is not helpful for scheduling", hopeless);
        }
        if hopeless < all {
            preemption.insert("No preemption victims found for incoming pod", all - hopeless);
        }
        // Writing to a String cannot fail.
        write!(sentence, " preemption: 0/{all} nodes are available: {}.", list(&preemption)).unwrap_or_default();
        sentence
    }
}

/// "1 Insufficient cpu, 2 Too many pods", in the order of the text, as Kubernetes sorts them.
fn list(reasons: &BTreeMap<&str, usize>) -> String {
    let mut lines: Vec<_> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    lines.sort();
    lines.join(", ")
}

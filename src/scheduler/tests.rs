//! Decisions in tables; never over capacity, whatever comes; and how fast.
use std::{sync::Arc, time::Instant};

use k8s_openapi::api::core::v1::{Node, Pod};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Cluster, Decision, PodInfo, Verdict, decide, plugins::DEFAULT};
use crate::client::ObjectKey;

fn node(name: &str, extra: Value) -> Arc<Node> {
    let mut node = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {},
        "status": {"allocatable": {"cpu": "4", "memory": "4Gi", "pods": "10"}},
    });
    json_patch::merge(&mut node, &extra);
    Arc::new(serde_json::from_value(node).unwrap())
}

fn pod(name: &str, cpu: &str, extra: Value) -> Arc<Pod> {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "ns", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": "1Mi"}}}]},
    });
    json_patch::merge(&mut pod, &extra);
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn cluster(nodes: &[(&str, Value)]) -> Cluster {
    let mut cluster = Cluster::default();
    nodes.iter().for_each(|(name, extra)| cluster.set_node(node(name, extra.clone())));
    cluster
}

fn run(cluster: &Cluster, pod: Arc<Pod>) -> Decision {
    decide(&PodInfo::new(pod), cluster, DEFAULT)
}

/// Where the pod goes, or the reasons against each node.
fn place(cluster: &Cluster, extra: Value) -> String {
    let decision = run(cluster, pod("p", "1", extra));
    if let Some(node) = decision.chosen {
        return node;
    }
    let reasons = decision.verdicts.iter().map(|(node, verdict)| match verdict {
        Verdict::Refused(refusal) => format!("{node}: {}", refusal.reasons.join(" + ")),
        Verdict::Scored { .. } => unreachable!(),
    });
    reasons.collect::<Vec<_>>().join("; ")
}

#[test]
fn the_emptier_node_wins_and_equal_ones_go_by_name() {
    let mut cluster = cluster(&[("a", json!({})), ("b", json!({}))]);
    assert_eq!(place(&cluster, json!({})), "a");
    cluster.set_pod(&pod("x", "2", json!({"spec": {"nodeName": "a"}})));
    assert_eq!(place(&cluster, json!({})), "b");
}

#[test]
fn nodes_refuse_in_the_words_of_kubernetes() {
    let taint = json!({"spec": {"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]}});
    let rows = [
        (json!({"spec": {"unschedulable": true}}), json!({}), "node(s) were unschedulable"),
        (taint.clone(), json!({}), "node(s) had untolerated taint {gpu: yes}"),
        (taint, json!({"spec": {"tolerations": [{"key": "gpu", "operator": "Exists"}]}}), ""),
        (
            json!({}),
            json!({"spec": {"nodeSelector": {"disk": "ssd"}}}),
            "node(s) didn't match Pod's node affinity/selector",
        ),
        (json!({"metadata": {"labels": {"disk": "ssd"}}}), json!({"spec": {"nodeSelector": {"disk": "ssd"}}}), ""),
        (json!({"status": {"allocatable": {"cpu": "500m"}}}), json!({}), "Insufficient cpu"),
        (
            json!({"status": {"allocatable": {"pods": "0", "memory": "1Ki"}}}),
            json!({}),
            "Too many pods + Insufficient memory",
        ),
        (json!({}), json!({"spec": {"overhead": {"cpu": "4"}}}), "Insufficient cpu"),
        (
            json!({}),
            json!({"spec": {"initContainers": [{"name": "i", "resources": {"requests": {"cpu": "5"}}}]}}),
            "Insufficient cpu",
        ),
        (json!({}), json!({"spec": {"nodeName": "b"}}), "node(s) didn't match the requested node name"),
    ];
    for (node, pod, reason) in rows {
        let wanted = if reason.is_empty() { "a".to_owned() } else { format!("a: {reason}") };
        assert_eq!(place(&cluster(&[("a", node)]), pod.clone()), wanted, "{pod}");
    }
}

#[test]
fn host_ports_have_one_holder() {
    let port = |ip: &str| json!({"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80, "hostIP": ip}]}]}});
    let mut cluster = cluster(&[("a", json!({}))]);
    let mut held = port("10.0.0.1");
    held["spec"]["nodeName"] = json!("a");
    cluster.set_pod(&pod("x", "1", held));
    let taken = "a: node(s) didn't have free ports for the requested pod ports";
    assert_eq!(place(&cluster, port("0.0.0.0")), taken);
    assert_eq!(place(&cluster, port("10.0.0.1")), taken);
    assert_eq!(place(&cluster, port("10.0.0.2")), "a");
}

#[test]
fn required_and_preferred_node_affinity() {
    let zones = cluster(&[
        ("a", json!({"metadata": {"labels": {"zone": "1", "size": "3"}}})),
        ("b", json!({"metadata": {"labels": {"zone": "2", "size": "9"}}})),
    ]);
    let required = |key: &str, operator: &str, values: &[&str]| {
        let term = json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        json!({"spec": {"affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}}})
    };
    assert_eq!(place(&zones, required("zone", "In", &["2", "3"])), "b");
    assert_eq!(place(&zones, required("zone", "NotIn", &["1"])), "b");
    assert_eq!(place(&zones, required("size", "Gt", &["5"])), "b");
    assert_eq!(place(&zones, required("other", "DoesNotExist", &[])), "a");
    assert!(place(&zones, required("other", "Exists", &[])).contains("affinity/selector"));
    let term =
        json!({"weight": 1, "preference": {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["2"]}]}});
    let preferred =
        json!({"spec": {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [term]}}}});
    assert_eq!(place(&zones, preferred), "b");
}

#[test]
fn siblings_spread_and_constraints_hold() {
    let owner = json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "R", "name": "r", "uid": "r", "controller": true}]}});
    let mut nodes = cluster(&[
        ("a", json!({"metadata": {"labels": {"zone": "1"}}})),
        ("b", json!({"metadata": {"labels": {"zone": "2"}}})),
    ]);
    let mut on_a = owner.clone();
    json_patch::merge(&mut on_a, &json!({"spec": {"nodeName": "a"}}));
    nodes.set_pod(&pod("x", "10m", on_a));
    nodes.set_pod(&pod("y", "2", json!({"metadata": {"labels": {"app": "other"}}, "spec": {"nodeName": "b"}})));
    assert_eq!(place(&nodes, json!({})), "a", "by load alone");
    assert_eq!(place(&nodes, owner), "b", "away from its sibling");
    let constraint = |when: &str, key: &str| {
        json!({"spec": {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": when,
            "labelSelector": {"matchLabels": {"app": "web"}}}]}})
    };
    assert_eq!(place(&nodes, constraint("DoNotSchedule", "zone")), "b");
    nodes.set_node(node("c", json!({})));
    assert_eq!(place(&nodes, constraint("ScheduleAnyway", "zone")), "b", "although c is empty, it is in no zone");
    nodes.remove_node("c");
    let missing = "node(s) didn't match pod topology spread constraints (missing required label)";
    assert_eq!(place(&nodes, constraint("DoNotSchedule", "rack")), format!("a: {missing}; b: {missing}"));
}

#[test]
fn spreading_counts_the_nodes_that_the_policies_leave() {
    let mut nodes = cluster(&[
        ("a", json!({"metadata": {"labels": {"zone": "1", "disk": "ssd"}}})),
        (
            "b",
            json!({"metadata": {"labels": {"zone": "2"}}, "spec": {"taints": [{"key": "x", "effect": "NoSchedule"}]}}),
        ),
    ]);
    nodes.set_pod(&pod("x", "1m", json!({"spec": {"nodeName": "a"}})));
    let (crowded, tainted) =
        ("a: node(s) didn't match pod topology spread constraints", "b: node(s) had untolerated taint {x: }");
    let unmatched = "b: node(s) didn't match Pod's node affinity/selector";
    let tolerant = json!({"tolerations": [{"key": "x", "operator": "Exists"}]});
    let mut on_ssd = tolerant.clone();
    on_ssd["nodeSelector"] = json!({"disk": "ssd"});
    for (spec, policy, wanted) in [
        (&on_ssd, json!({}), "a".to_owned()),
        (&on_ssd, json!({"nodeAffinityPolicy": "Ignore"}), format!("{crowded}; {unmatched}")),
        (&json!({}), json!({}), format!("{crowded}; {tainted}")),
        (&json!({}), json!({"nodeTaintsPolicy": "Honor"}), "a".to_owned()),
        (&tolerant, json!({"nodeTaintsPolicy": "Honor"}), "b".to_owned()),
    ] {
        let mut constraint = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "web"}}});
        json_patch::merge(&mut constraint, &policy);
        let mut extra = json!({"spec": spec});
        extra["spec"]["topologySpreadConstraints"] = json!([constraint]);
        assert_eq!(place(&nodes, extra.clone()), wanted, "{extra}");
    }
}

#[test]
fn pods_near_and_apart() {
    let term = json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}});
    let affinity =
        |kind: &str| json!({"spec": {"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}});
    let mut nodes = cluster(&[("a", json!({})), ("b", json!({}))]);
    assert_eq!(place(&nodes, affinity("podAffinity")), "a", "the first of its kind is near itself");
    nodes.set_pod(&pod("x", "2", json!({"spec": {"nodeName": "a"}})));
    assert_eq!(place(&nodes, affinity("podAffinity")), "a", "although b is emptier");
    assert_eq!(place(&nodes, affinity("podAntiAffinity")), "b");
    let mut keeper = affinity("podAntiAffinity");
    keeper["spec"]["nodeName"] = json!("b");
    nodes.set_pod(&pod("y", "1m", keeper));
    let out = "node(s) didn't satisfy existing pods anti-affinity rules";
    nodes.remove_pod(&ObjectKey::new("ns", "x"));
    nodes.set_node(node("a", json!({"status": {"allocatable": {"cpu": "1m"}}})));
    assert_eq!(place(&nodes, json!({})), format!("a: Insufficient cpu; b: {out}"));
}

#[test]
fn a_pod_that_is_ending_is_still_company() {
    let required = |kind: &str| {
        json!({"spec": {"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}]}}}})
    };
    let mut nodes = cluster(&[("a", json!({})), ("b", json!({}))]);
    let ending = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"nodeName": "a"}});
    nodes.set_pod(&pod("x", "2", ending));
    assert_eq!(place(&nodes, required("podAffinity")), "a", "although b is emptier");
    nodes.set_pod(&pod("y", "3", json!({"metadata": {"labels": {"app": "other"}}, "spec": {"nodeName": "b"}})));
    assert_eq!(place(&nodes, required("podAntiAffinity")), "b", "although a is emptier");
}

#[test]
fn label_keys_tell_company_by_the_pods_own_labels() {
    let mut nodes = cluster(&[("a", json!({})), ("b", json!({}))]);
    for (node, tenant) in [("a", "1"), ("b", "2")] {
        nodes.set_pod(&pod(node, "1", json!({"metadata": {"labels": {"tenant": tenant}}, "spec": {"nodeName": node}})));
    }
    for (kind, keys, wanted) in [
        ("podAntiAffinity", "matchLabelKeys", "b"),
        ("podAntiAffinity", "mismatchLabelKeys", "a"),
        ("podAffinity", "matchLabelKeys", "a"),
        ("podAffinity", "mismatchLabelKeys", "b"),
    ] {
        let term = json!({"topologyKey": "kubernetes.io/hostname", keys: ["tenant", "absent"],
            "labelSelector": {"matchLabels": {"app": "web"}}});
        let extra = json!({"metadata": {"labels": {"tenant": "1"}},
            "spec": {"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}});
        assert_eq!(place(&nodes, extra), wanted, "{kind} {keys}");
    }
}

#[test]
fn the_sentence_counts_reasons_and_judges_preemption() {
    let mut nodes = cluster(&[
        ("a", json!({})),
        ("b", json!({"spec": {"taints": [{"key": "x", "effect": "NoExecute"}]}})),
        ("c", json!({"spec": {"taints": [{"key": "x", "effect": "NoSchedule"}]}})),
    ]);
    nodes.set_pod(&pod("big", "4", json!({"spec": {"nodeName": "a"}})));
    assert_eq!(
        run(&nodes, pod("p", "1", json!({}))).sentence(),
        "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint {x: }. preemption: 0/3 nodes are \
         available: 1 No preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling."
    );
    assert_eq!(run(&Cluster::default(), pod("p", "1", json!({}))).sentence(), "no nodes available to schedule pods");
}

#[test]
fn an_assumed_pod_counts_until_it_is_forgotten() {
    let mut nodes = cluster(&[("a", json!({}))]);
    let info = Arc::new(PodInfo::new(pod("x", "4", json!({}))));
    nodes.assume(info.clone(), "a");
    nodes.set_pod(&info.pod);
    assert_eq!(place(&nodes, json!({})), "a: Insufficient cpu");
    nodes.forget(&info.key);
    assert_eq!(place(&nodes, json!({})), "a");
}

#[test]
fn pods_known_before_their_node_count_when_it_appears() {
    let mut nodes = Cluster::default();
    nodes.set_pod(&pod("x", "4", json!({"spec": {"nodeName": "a"}})));
    nodes.set_node(node("a", json!({})));
    assert_eq!(place(&nodes, json!({})), "a: Insufficient cpu");
    nodes.set_pod(&pod("x", "4", json!({"spec": {"nodeName": "a"}, "status": {"phase": "Succeeded"}})));
    assert_eq!(place(&nodes, json!({})), "a");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever pods come and go, no node is promised more than it has, and a refused pod fits nowhere.
    #[test]
    fn never_over_capacity(story in prop::collection::vec((0..30_u8, 1..3000_i64, any::<bool>()), 1..120)) {
        let mut nodes = cluster(&[("a", json!({})), ("b", json!({})), ("c", json!({"status": {"allocatable": {"pods": "3"}}}))]);
        for (number, milli, leaves) in story {
            let name = format!("p{number}");
            let key = ObjectKey::new("ns", &name);
            if leaves {
                nodes.remove_pod(&key);
            } else if !nodes.is_placed(&key) {
                let info = Arc::new(PodInfo::new(pod(&name, &format!("{milli}m"), json!({}))));
                match decide(&info, &nodes, DEFAULT).chosen {
                    Some(node) => nodes.assume(info, &node),
                    None => for node in nodes.nodes() {
                        let full = node.pods.len() as i64 >= node.max_pods;
                        prop_assert!(full || node.requested.cpu + milli > node.allocatable.cpu);
                    }
                }
            }
            for node in nodes.nodes() {
                let sum: i64 = node.pods.values().map(|pod| pod.requests.cpu).sum();
                prop_assert_eq!(sum, node.requested.cpu);
                prop_assert!(sum <= node.allocatable.cpu && node.pods.len() as i64 <= node.max_pods);
            }
        }
    }
}

/// Prints how fast decisions are; run it with `--release -- --ignored --nocapture` for a number worth quoting.
#[test]
#[ignore = "a measurement"]
fn five_thousand_pods_on_a_thousand_nodes() {
    let mut nodes = Cluster::default();
    (0..1000).for_each(|number| nodes.set_node(node(&format!("node-{number:04}"), json!({}))));
    let pods: Vec<_> = (0..5000).map(|number| pod(&format!("p{number}"), "100m", json!({}))).collect();
    let start = Instant::now();
    for pod in pods {
        let info = Arc::new(PodInfo::new(pod));
        let node = decide(&info, &nodes, DEFAULT).chosen.unwrap();
        nodes.assume(info, &node);
    }
    println!("{:.0} pods/s", 5000.0 / start.elapsed().as_secs_f64());
}

//! Taint eviction: NoExecute taints put pods off their node, at once or when their toleration runs out.
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod, Taint};

use super::{
    Context, Controller, Loop,
    pods::{self, BY_NODE, by_node, until},
};
use crate::{
    api::taint::tolerates,
    client::{Action, Informer, Note, ObjectKey, Plan, Result, WorkQueue},
};

/// Subscribes and returns the loop.
pub(super) fn start(context: &Context) -> Loop {
    let (nodes, pods) = (context.informers.of::<Node>(), context.informers.of::<Pod>());
    pods.add_index(BY_NODE, by_node);
    let queue = Arc::new(WorkQueue::default());
    nodes.feed(queue.clone(), |change| {
        let taints = |node: &Option<Arc<Node>>| node.as_deref().map(evicting).unwrap_or_default();
        let changed = taints(&change.old) != taints(&change.new) || change.new.is_none();
        changed.then(|| change.latest().metadata.name.clone()).flatten()
    });
    let lookup = nodes.clone();
    pods.feed(queue.clone(), move |change| {
        let node = by_node(change.new.as_deref()?).pop()?;
        lookup.get(&ObjectKey::new("", &node)).filter(|node| !evicting(node).is_empty()).map(|_| node)
    });
    context.run(Evictions { nodes, pods, first_seen: Mutex::default() }, queue)
}

fn evicting(node: &Node) -> Vec<Taint> {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    taints.into_iter().filter(|taint| taint.effect == "NoExecute").collect()
}

/// Since when a node has a taint, by key and value: for taints that do not say.
type FirstSeen = BTreeMap<(String, Option<String>), Timestamp>;

struct Evictions {
    nodes: Arc<Informer<Node>>,
    pods: Arc<Informer<Pod>>,
    first_seen: Mutex<HashMap<String, FirstSeen>>,
}

#[derive(Default)]
struct View {
    /// NoExecute taints and since when.
    taints: Vec<(Taint, Timestamp)>,
    /// The pods on the node.
    pods: Vec<Arc<Pod>>,
}

impl Controller for Evictions {
    type Key = String;
    type View = View;
    const NAME: &'static str = "taint-eviction-controller";

    async fn observe(&self, name: &String) -> Result<View> {
        let node = self.nodes.get(&ObjectKey::new("", name));
        let taints = node.as_deref().map(evicting).unwrap_or_default();
        let mut all = self.first_seen.lock();
        if taints.is_empty() {
            all.remove(name);
            return Ok(View::default());
        }
        let old = all.remove(name).unwrap_or_default();
        let mut seen = FirstSeen::new();
        let mut since = |taint: Taint| {
            let key = (taint.key.clone(), taint.value.clone());
            let first = old.get(&key).copied().unwrap_or_else(Timestamp::now);
            seen.insert(key, first);
            let since = taint.time_added.as_ref().map_or(first, |added| added.0);
            (taint, since)
        };
        let taints = taints.into_iter().map(&mut since).collect();
        all.insert(name.clone(), seen);
        Ok(View { taints, pods: self.pods.by_index(BY_NODE, name) })
    }

    fn plan(&self, _: &String, view: &View, now: Timestamp) -> Plan<Action> {
        plan(view, now)
    }
}

fn plan(view: &View, now: Timestamp) -> Plan<Action> {
    let mut plan = Plan::default();
    for pod in view.pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        match leaves_in(pod, &view.taints, now) {
            None => {}
            Some(wait) if !wait.is_zero() => plan.again_after(wait),
            Some(_) => plan.steps.extend(evict(pod, now)),
        }
    }
    plan
}

/// How long the pod may stay; `None` for ever.
fn leaves_in(pod: &Pod, taints: &[(Taint, Timestamp)], now: Timestamp) -> Option<Duration> {
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    // A pod that came when the taint was there has its full time from then on.
    let bound = pods::condition(pod, "PodScheduled").and_then(|bound| bound.last_transition_time.as_ref());
    let came = bound.or(pod.metadata.creation_timestamp.as_ref()).map_or(Timestamp::MIN, |time| time.0);
    let mut shortest = None;
    for (taint, since) in taints {
        // The first that applies counts, and of several taints the shortest. Zero and below is at once.
        let Some(toleration) = tolerations.iter().find(|toleration| tolerates(toleration, taint)) else {
            return Some(Duration::ZERO);
        };
        if let Some(seconds) = toleration.toleration_seconds {
            let time = SignedDuration::from_secs(seconds.clamp(0, i64::from(i32::MAX)));
            let wait = until(came.max(*since) + time, now);
            shortest = Some(shortest.map_or(wait, |shortest: Duration| shortest.min(wait)));
        }
    }
    shortest
}

fn evict(pod: &Pod, now: Timestamp) -> Vec<Action> {
    let key = ObjectKey::of(pod);
    let mut actions = Vec::new();
    if !pods::is_terminal(pod) {
        let mut new = pod.clone();
        let message = "Taint manager: deleting due to NoExecute taint";
        pods::set_condition(&mut new, "DisruptionTarget", "True", Some("DeletionByTaintManager"), Some(message), now);
        actions.extend(Action::update_status(pod, &new));
    }
    let message = format!("Marking for deletion Pod {key}");
    actions.push(Action::Event(Note::normal(pod, "TaintManagerEviction", message)));
    actions.push(Action::delete(pod));
    actions
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn wait(tolerations: Value, now: i64) -> Option<u64> {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [], "tolerations": tolerations}});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let taint = |key: &str| Taint { key: key.to_owned(), effect: "NoExecute".to_owned(), ..Taint::default() };
        leaves_in(&pod, &[(taint("a"), at(0)), (taint("b"), at(10))], at(now)).map(|wait| wait.as_secs())
    }

    #[test]
    fn a_pod_stays_as_long_as_it_tolerates_every_taint() {
        let all = |seconds: Value| json!([{"operator": "Exists", "tolerationSeconds": seconds}]);
        assert_eq!(wait(json!([]), 0), Some(0));
        assert_eq!(wait(json!([{"key": "a", "operator": "Exists"}]), 0), Some(0), "b is not tolerated");
        assert_eq!(wait(all(json!(null)), 99), None);
        assert_eq!(wait(all(json!(30)), 12), Some(18), "a has been there since 0");
        assert_eq!(wait(all(json!(30)), 31), Some(0));
        assert_eq!(wait(all(json!(-1)), 0), Some(0));
        let each =
            json!([{"key": "a", "operator": "Exists"}, {"key": "b", "operator": "Exists", "tolerationSeconds": 5}]);
        assert_eq!(wait(each, 11), Some(4));
        let first = |one: i64, other: i64| json!([{"operator": "Exists", "tolerationSeconds": one}, {"operator": "Exists", "tolerationSeconds": other}]);
        assert_eq!(wait(first(60, 30), 0), Some(60), "the first that applies");
        assert_eq!(wait(first(30, 60), 0), Some(30));
    }

    #[test]
    fn a_pod_that_comes_to_an_old_taint_has_its_full_time() {
        let taint = Taint { key: "a".to_owned(), effect: "NoExecute".to_owned(), ..Taint::default() };
        let bound = |at: Timestamp| {
            json!({"status": {"conditions": [
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": at.to_string()}]}})
        };
        for (extra, left) in [
            (json!({}), 0),
            (bound(at(100)), 60),
            (bound(at(90)), 50),
            (json!({"metadata": {"creationTimestamp": at(70).to_string()}}), 30),
        ] {
            let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [],
                "tolerations": [{"operator": "Exists", "tolerationSeconds": 60}]}});
            json_patch::merge(&mut pod, &extra);
            let pod: Pod = serde_json::from_value(pod).unwrap();
            let wait = leaves_in(&pod, &[(taint.clone(), at(0))], at(100));
            assert_eq!(wait.map(|wait| wait.as_secs()), Some(left), "{extra}");
        }
    }

    #[test]
    fn eviction_is_marked_told_and_done() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns"}})).unwrap();
        let taint = Taint { key: "a".to_owned(), effect: "NoExecute".to_owned(), ..Taint::default() };
        let mut view = View { taints: vec![(taint, at(0))], pods: vec![Arc::new(pod.clone())] };
        let steps = plan(&view, at(1)).steps;
        assert!(matches!(&steps[..], [Action::Patch { .. }, Action::Event(_), Action::Delete { .. }]));
        let mut ending = pod;
        ending.metadata.deletion_timestamp = Some(pods::time(at(1)));
        view.pods = vec![Arc::new(ending)];
        assert_eq!(plan(&view, at(2)), Plan::default());
    }
}

//! Pod garbage: pods of nodes that are gone, pods that end without ever having been placed, and old terminated pods.
use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;

use super::{
    Context, Controller, Loop, node_lifecycle,
    pods::{self, BY_NODE, by_node},
};
use crate::client::{Action, DeleteOptions, Error, Informer, ObjectKey, Plan, Result, Target, WorkQueue};

/// The index of pods that are over, under one key.
const TERMINATED: &str = "terminated";
/// Says that a node which is not Ready will not end its pods either: whoever sets it has seen to that.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// Terminated pods are counted at most this often.
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// What is looked at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    /// One pod.
    Pod(ObjectKey),
    /// How many terminated pods there are.
    Terminated,
}

/// Subscribes and returns the loop.
pub(super) fn start(context: &Context) -> Loop {
    let (nodes, pods) = (context.informers.of::<Node>(), context.informers.of::<Pod>());
    pods.add_index(BY_NODE, by_node);
    let over = |pod: &Pod| pods::is_terminal(pod).then(|| TERMINATED.to_owned()).into_iter().collect();
    pods.add_index(TERMINATED, over);
    let queue = Arc::new(WorkQueue::default());
    let (lookup, wake) = (pods.clone(), queue.clone());
    nodes.subscribe(move |change| {
        let lost = change.new.as_deref().is_none_or(is_out_of_service);
        let name = change.latest().metadata.name.clone().filter(|_| lost).unwrap_or_default();
        lookup.by_index(BY_NODE, &name).iter().for_each(|pod| wake.add(Key::Pod(ObjectKey::of(pod.as_ref()))));
    });
    let (lookup, wake) = (nodes.clone(), queue.clone());
    pods.subscribe(move |change| {
        let Some(pod) = change.new.as_deref() else {
            return;
        };
        let lost = match by_node(pod).pop() {
            Some(node) => lookup.get(&ObjectKey::new("", node)).is_none_or(|node| is_out_of_service(&node)),
            None => pod.metadata.deletion_timestamp.is_some(),
        };
        if lost {
            wake.add(Key::Pod(ObjectKey::of(pod)));
        }
        if pods::is_terminal(pod) && !change.old.as_deref().is_some_and(pods::is_terminal) {
            wake.add_after(Key::Terminated, COUNT_EVERY);
        }
    });
    let collector = PodGc { nodes, pods, client: context.client.clone(), kept: context.config.terminated_pods_kept };
    context.run(collector, queue)
}

fn is_out_of_service(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    node_lifecycle::ready(node) != Some("True") && taints.iter().any(|taint| taint.key == OUT_OF_SERVICE)
}

struct PodGc {
    nodes: Arc<Informer<Node>>,
    pods: Arc<Informer<Pod>>,
    client: kube::Client,
    kept: usize,
}

enum View {
    /// Its node is gone; the pod.
    Orphan(Arc<Pod>),
    /// Being deleted, on no node; the pod.
    Unplaced(Arc<Pod>),
    /// Being deleted, on a node that is out of service; the pod.
    Stuck(Arc<Pod>),
    /// The terminated pods beyond those kept.
    Surplus(Vec<Arc<Pod>>),
    Nothing,
}

impl Controller for PodGc {
    type Key = Key;
    type View = View;
    const NAME: &'static str = "pod-garbage-collector";

    async fn observe(&self, key: &Key) -> Result<View> {
        let Key::Pod(key) = key else {
            return Ok(self.surplus());
        };
        let Some(pod) = self.pods.get(key) else {
            return Ok(View::Nothing);
        };
        let ending = pod.metadata.deletion_timestamp.is_some();
        let Some(node) = by_node(&pod).pop() else {
            return Ok(if ending { View::Unplaced(pod) } else { View::Nothing });
        };
        if let Some(node) = self.nodes.get(&ObjectKey::new("", &node)) {
            return Ok(if ending && is_out_of_service(&node) { View::Stuck(pod) } else { View::Nothing });
        }
        // The cache may not know a node that has just joined.
        let found = Api::<Node>::all(self.client.clone()).get_metadata_opt(&node).await;
        let found = found.map_err(|e| Error::api(format!("look for node {node}"), e))?;
        Ok(if found.is_none() { View::Orphan(pod) } else { View::Nothing })
    }

    fn plan(&self, _: &Key, view: &View, now: Timestamp) -> Plan<Action> {
        plan(view, now)
    }
}

impl PodGc {
    fn surplus(&self) -> View {
        let mut pods = self.pods.by_index(TERMINATED, TERMINATED);
        pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
        pods.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
        pods.truncate(pods.len().saturating_sub(self.kept));
        View::Surplus(pods)
    }
}

fn plan(view: &View, now: Timestamp) -> Plan<Action> {
    let mut plan = Plan::default();
    match view {
        View::Nothing => {}
        View::Unplaced(pod) => plan.push(remove(pod)),
        View::Surplus(pods) => plan.steps.extend(pods.iter().map(|pod| remove(pod))),
        View::Orphan(pod) | View::Stuck(pod) => {
            if !pods::is_terminal(pod) {
                let mut new = pod.as_ref().clone();
                if matches!(view, View::Orphan(_)) {
                    let (reason, message) = (Some("DeletionByPodGC"), Some("PodGC: node no longer exists"));
                    pods::set_condition(&mut new, "DisruptionTarget", "True", reason, message, now);
                }
                new.status.get_or_insert_default().phase = Some("Failed".to_owned());
                plan.steps.extend(Action::update_status(pod.as_ref(), &new));
            }
            plan.push(remove(pod));
        }
    }
    plan
}

fn remove(pod: &Pod) -> Action {
    let options = DeleteOptions { uid: pod.metadata.uid.clone(), grace_seconds: Some(0), ..DeleteOptions::default() };
    Action::Delete { target: Target::of(pod), options, done: None, failed: None }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn a_pod_that_ends_on_a_node_out_of_service_is_failed_and_removed() {
        let taint = json!([{"key": OUT_OF_SERVICE, "effect": "NoExecute"}]);
        for (ready, taints, ending, stuck) in [
            ("Unknown", &taint, true, true),
            ("False", &taint, true, true),
            ("Unknown", &taint, false, false),
            ("True", &taint, true, false),
            ("Unknown", &json!([]), true, false),
        ] {
            let node = json!({"metadata": {"name": "n"}, "spec": {"taints": taints},
                "status": {"conditions": [{"type": "Ready", "status": ready}]}});
            let ended = ending.then_some("2026-01-01T00:00:00Z");
            let pod = json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u", "deletionTimestamp": ended},
                "spec": {"nodeName": "n", "containers": []}, "status": {"phase": "Running"}});
            let client = crate::client::in_process(axum::Router::new(), crate::client::Identity::master("test"));
            let (nodes, pods) = (Arc::new(Informer::unfed()), Arc::new(Informer::unfed()));
            nodes.saw(serde_json::from_value::<Node>(node).unwrap());
            pods.saw(serde_json::from_value::<Pod>(pod).unwrap());
            let collector = PodGc { nodes, pods, client, kept: 0 };
            let view = collector.observe(&Key::Pod(ObjectKey::new("ns", "p"))).await.unwrap();
            let steps = plan(&view, Timestamp::UNIX_EPOCH).steps;
            match &steps[..] {
                [Action::Patch { patch, .. }, Action::Delete { .. }] if stuck => {
                    assert_eq!(patch["status"], json!({"phase": "Failed"}));
                }
                [] if !stuck => {}
                other => panic!("{ready} {taints} {ending}: {other:?}"),
            }
        }
    }

    #[test]
    fn lost_pods_are_failed_and_removed_at_once() {
        let pod = json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "status": {"phase": "Running"}});
        let pod = Arc::new(serde_json::from_value::<Pod>(pod).unwrap());
        let steps = plan(&View::Orphan(pod.clone()), Timestamp::UNIX_EPOCH).steps;
        let [Action::Patch { patch, .. }, Action::Delete { options, .. }] = &steps[..] else { panic!("{steps:?}") };
        assert_eq!(patch["status"]["phase"], "Failed");
        assert_eq!((options.grace_seconds, options.uid.as_deref()), (Some(0), Some("u")));
        assert_eq!(plan(&View::Unplaced(pod), Timestamp::UNIX_EPOCH).steps.len(), 1);
        assert_eq!(plan(&View::Nothing, Timestamp::UNIX_EPOCH), Plan::default());
    }
}

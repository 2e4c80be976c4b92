//! Node health: a heartbeat that stays away makes a node unreachable, and everybody is told.
//!
//! A heartbeat counts from when it was *seen*, not from what is written in it: after the daemon was down for a while
//! every node gets its full grace. One timer a node waits for the time its grace would end; a healthy node costs a
//! look at the clock once in that time.
use parking_lot::{Mutex, MutexGuard};
use std::{collections::HashMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Node, NodeCondition, Pod, Taint},
};

use super::{
    Context, Controller, Loop,
    pods::{self, BY_NODE, by_node, time, until},
};
use crate::client::{Action, Informer, Note, ObjectKey, Plan, Result, WorkQueue};

/// Where nodes keep their leases.
const LEASES: &str = "kube-node-lease";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// Subscribes and returns the loop.
pub(super) fn start(context: &Context) -> Loop {
    let (nodes, pods) = (context.informers.of::<Node>(), context.informers.of::<Pod>());
    let leases = context.informers.of::<Lease>();
    pods.add_index(BY_NODE, by_node);
    let seen: Arc<Mutex<Seen>> = Arc::default();
    let queue = Arc::new(WorkQueue::default());
    note_heartbeats(&seen, &nodes, &leases);
    nodes.feed(queue.clone(), |change| [change.latest().metadata.name.clone().unwrap_or_default()]);
    // A pod that turns Ready on a dead node cannot be, but a status written just before the node died may arrive late.
    let lookup = nodes.clone();
    pods.feed(queue.clone(), move |change| {
        let pod = change.new.as_deref().filter(|pod| pods::is_ready(pod))?;
        let node = pod.spec.as_ref()?.node_name.clone()?;
        lookup.get(&ObjectKey::new("", &node)).filter(|node| ready(node) == Some("Unknown")).map(|_| node)
    });
    let grace = context.config.node_monitor_grace;
    let startup = context.config.node_startup_grace.max(grace);
    context.run(Lifecycle { nodes, pods, seen, grace, startup }, queue)
}

/// Notes when a sign of life of a node is seen.
fn note_heartbeats(seen: &Arc<Mutex<Seen>>, nodes: &Informer<Node>, leases: &Informer<Lease>) {
    let heartbeats = seen.clone();
    nodes.subscribe(move |change| {
        let name = change.latest().metadata.name.clone().unwrap_or_default();
        if change.new.is_none() {
            lock(&heartbeats).remove(&name);
        } else if change.old.as_deref().and_then(heartbeat) != change.new.as_deref().and_then(heartbeat) {
            lock(&heartbeats).insert(name, Timestamp::now());
        }
    });
    let heartbeats = seen.clone();
    leases.subscribe(move |change| {
        let Some(lease) = change.new.as_deref().filter(|l| l.metadata.namespace.as_deref() == Some(LEASES)) else {
            return;
        };
        let renewed = |lease: &Lease| lease.spec.as_ref().and_then(|spec| spec.renew_time.clone());
        if change.old.as_deref().and_then(renewed) != renewed(lease) {
            lock(&heartbeats).insert(lease.metadata.name.clone().unwrap_or_default(), Timestamp::now());
        }
    });
}

type Seen = HashMap<String, Timestamp>;

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock()
}

/// What the node itself wrote last into its Ready condition.
fn heartbeat(node: &Node) -> Option<Timestamp> {
    condition(node, "Ready")?.last_heartbeat_time.as_ref().map(|time| time.0)
}

fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

/// The status of the Ready condition.
pub(super) fn ready(node: &Node) -> Option<&str> {
    condition(node, "Ready").map(|condition| condition.status.as_str())
}

struct Lifecycle {
    nodes: Arc<Informer<Node>>,
    pods: Arc<Informer<Pod>>,
    /// When each node's last sign of life was seen.
    seen: Arc<Mutex<Seen>>,
    grace: Duration,
    startup: Duration,
}

#[derive(Default)]
struct View {
    node: Option<Arc<Node>>,
    /// The pods on it.
    pods: Vec<Arc<Pod>>,
    /// When its grace ends.
    deadline: Timestamp,
}

impl Controller for Lifecycle {
    type Key = String;
    type View = View;
    const NAME: &'static str = "node-controller";

    async fn observe(&self, name: &String) -> Result<View> {
        let Some(node) = self.nodes.get(&ObjectKey::new("", name)) else {
            return Ok(View::default());
        };
        let seen = *lock(&self.seen).entry(name.clone()).or_insert_with(Timestamp::now);
        let grace = if ready(&node).is_some() { self.grace } else { self.startup };
        let deadline = jiff::SignedDuration::try_from(grace).map_or(Timestamp::MAX, |grace| seen + grace);
        Ok(View { node: Some(node), pods: self.pods.by_index(BY_NODE, name), deadline })
    }

    fn plan(&self, _: &String, view: &View, now: Timestamp) -> Plan<Action> {
        plan(view, now)
    }
}

fn plan(view: &View, now: Timestamp) -> Plan<Action> {
    let Some(node) = view.node.as_deref() else {
        return Plan::default();
    };
    let mut plan = Plan::default();
    if now < view.deadline {
        plan.again_after(until(view.deadline, now));
    } else if let Some(silent) = silenced(node, now) {
        plan.steps.extend(Action::update_status(node, &silent));
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let message = format!("Node {name} status is now: NodeNotReady");
        plan.push(Action::Event(Note::normal(node, "NodeNotReady", message)));
        plan.steps.extend(unready_pods(&view.pods, now));
        return plan; // the changed node wakes us for its taints
    }
    let taints = tainted(node, now);
    if Some(&taints) != node.spec.as_ref().map(|spec| spec.taints.as_ref().unwrap_or(const { &Vec::new() })) {
        let mut new = node.clone();
        new.spec.get_or_insert_default().taints = (!taints.is_empty()).then_some(taints);
        plan.steps.extend(Action::update(node, &new));
    }
    if ready(node) == Some("Unknown") {
        plan.steps.extend(unready_pods(&view.pods, now));
    }
    plan
}

/// The node with everything it can no longer vouch for Unknown; `None` when that is known.
fn silenced(node: &Node, now: Timestamp) -> Option<Node> {
    let mut new = node.clone();
    let conditions = new.status.get_or_insert_default().conditions.get_or_insert_default();
    let mut changed = false;
    for kind in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"] {
        let unknown = |reason: &str, message: &str| NodeCondition {
            type_: kind.to_owned(),
            status: "Unknown".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_heartbeat_time: node.metadata.creation_timestamp.clone(),
            last_transition_time: Some(time(now)),
        };
        match conditions.iter_mut().find(|condition| condition.type_ == kind) {
            None => conditions.push(unknown("NodeStatusNeverUpdated", "Kubelet never posted node status.")),
            Some(old) if old.status == "Unknown" => continue,
            Some(old) => {
                let last_heartbeat_time = old.last_heartbeat_time.clone();
                let new = unknown("NodeStatusUnknown", "Kubelet stopped posting node status.");
                *old = NodeCondition { last_heartbeat_time, ..new };
            }
        }
        changed = true;
    }
    changed.then_some(new)
}

/// Pods on a silent node count as not Ready, so that services stop sending there.
fn unready_pods(pods: &[Arc<Pod>], now: Timestamp) -> Vec<Action> {
    let mut actions = Vec::new();
    for pod in pods.iter().filter(|pod| pods::is_ready(pod)) {
        let mut new = pod.as_ref().clone();
        pods::set_condition(&mut new, "Ready", "False", Some("NodeNotReady"), None, now);
        actions.extend(Action::update_status(pod.as_ref(), &new));
        actions.push(Action::Event(Note::warning(pod.as_ref(), "NodeNotReady", "Node is not ready")));
    }
    actions
}

/// The taints the node shall have: those of others, and ours by its conditions and `spec.unschedulable`.
fn tainted(node: &Node, now: Timestamp) -> Vec<Taint> {
    let spec = node.spec.clone().unwrap_or_default();
    let old = spec.taints.unwrap_or_default();
    let is = |kind: &str, status: &str| condition(node, kind).is_some_and(|condition| condition.status == status);
    let (absent, unknown) = (!is("Ready", "True") && !is("Ready", "Unknown"), is("Ready", "Unknown"));
    let ours = [
        (NOT_READY, "NoSchedule", absent),
        (UNREACHABLE, "NoSchedule", unknown),
        (NOT_READY, "NoExecute", absent && ready(node).is_some()),
        (UNREACHABLE, "NoExecute", unknown),
        ("node.kubernetes.io/memory-pressure", "NoSchedule", is("MemoryPressure", "True")),
        ("node.kubernetes.io/disk-pressure", "NoSchedule", is("DiskPressure", "True")),
        ("node.kubernetes.io/pid-pressure", "NoSchedule", is("PIDPressure", "True")),
        ("node.kubernetes.io/network-unavailable", "NoSchedule", is("NetworkUnavailable", "True")),
        ("node.kubernetes.io/unschedulable", "NoSchedule", spec.unschedulable == Some(true)),
    ];
    let same = |taint: &Taint, key: &str, effect: &str| taint.key == key && taint.effect == effect;
    let mut taints = old;
    taints.retain(|taint| !ours.iter().any(|(key, effect, wanted)| same(taint, key, effect) && !wanted));
    for (key, effect, _) in ours.iter().filter(|(_, _, wanted)| *wanted) {
        if !taints.iter().any(|taint| same(taint, key, effect)) {
            taints.push(Taint {
                key: (*key).to_owned(),
                effect: (*effect).to_owned(),
                time_added: Some(time(now)),
                value: None,
            });
        }
    }
    taints
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::controllers::tests::world::World;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn world(node: Value) -> World {
        let mut world = World::default();
        let mut whole = json!({"metadata": {"name": "n"}, "spec": {}});
        json_patch::merge(&mut whole, &node);
        world.put(&serde_json::from_value::<Node>(whole).unwrap());
        world
    }

    /// Plans and performs until nothing is left to do.
    fn settle(world: &mut World, now: i64) -> Option<Duration> {
        for _ in 0..5 {
            let view = View { node: world.list().pop(), pods: world.list(), deadline: at(6) };
            let plan = plan(&view, at(now));
            if plan.steps.is_empty() {
                return plan.requeue_after;
            }
            world.perform(&plan.steps);
        }
        panic!("does not settle");
    }

    fn taints(world: &World) -> Vec<String> {
        let spec = world.list::<Node>()[0].spec.clone().unwrap_or_default();
        spec.taints.unwrap_or_default().iter().map(|taint| format!("{}:{}", taint.key, taint.effect)).collect()
    }

    fn ready(status: &str) -> Value {
        json!({"status": {"conditions": [{"type": "Ready", "status": status}]}})
    }

    #[test]
    fn a_healthy_node_is_looked_at_when_its_grace_would_end() {
        let mut world = world(ready("True"));
        assert_eq!(settle(&mut world, 2), Some(Duration::from_secs(4)));
        assert!(taints(&world).is_empty());
    }

    #[test]
    fn a_silent_node_is_unknown_tainted_and_its_pods_unready_until_it_speaks() {
        let mut world = world(ready("True"));
        let mut pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns"}})).unwrap();
        pods::set_condition(&mut pod, "Ready", "True", None, None, at(0));
        world.put(&pod);
        assert_eq!(settle(&mut world, 7), None);
        let node = world.list::<Node>().pop().unwrap();
        assert_eq!(super::ready(&node), Some("Unknown"));
        assert_eq!(condition(&node, "Ready").unwrap().reason.as_deref(), Some("NodeStatusUnknown"));
        assert_eq!(
            taints(&world),
            ["node.kubernetes.io/unreachable:NoSchedule", "node.kubernetes.io/unreachable:NoExecute"]
        );
        assert!(!pods::is_ready(&world.list::<Pod>()[0]));
        assert_eq!(
            world.events,
            ["NodeNotReady: Node n status is now: NodeNotReady", "NodeNotReady: Node is not ready"]
        );
        world.change::<Node>(|node| {
            node.status.as_mut().unwrap().conditions.as_mut().unwrap()[0].status = "True".to_owned();
        });
        settle(&mut world, 5);
        assert!(taints(&world).is_empty());
    }

    #[test]
    fn taints_follow_conditions_and_leave_those_of_others() {
        let mut node = json!({"spec": {"unschedulable": true, "taints": [{"key": "gpu", "effect": "NoSchedule"}]}});
        json_patch::merge(&mut node, &ready("False"));
        let mut world = world(node);
        settle(&mut world, 0);
        assert_eq!(
            taints(&world),
            [
                "gpu:NoSchedule",
                "node.kubernetes.io/not-ready:NoSchedule",
                "node.kubernetes.io/not-ready:NoExecute",
                "node.kubernetes.io/unschedulable:NoSchedule"
            ]
        );
    }

    #[test]
    fn a_node_that_has_never_reported_takes_no_pods_but_keeps_those_it_has() {
        let mut world = world(json!({}));
        settle(&mut world, 0);
        assert_eq!(taints(&world), ["node.kubernetes.io/not-ready:NoSchedule"]);
    }
}

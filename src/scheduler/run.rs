//! The loop around decisions: which pods, when, and what becomes of a decision.
use parking_lot::{Mutex, MutexGuard};
use std::{collections::HashSet, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Resource;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{Cluster, Decision, PodInfo, decide, journal::Journal, plugins};
use crate::client::{
    Action, Change, Doer, Error, Informer, Informers, Note, ObjectKey, Plan, Reconcile, Recorder, Result, Target,
    WorkQueue, drive, set_condition,
};

/// The scheduler that pods name to get this one, and get when they name none.
const NAME: &str = "default-scheduler";
/// Bindings under way at a time; decisions are made one after the other.
const WORKERS: usize = 64;
/// News that could help parked pods are gathered for this long: a node's birth is a burst of changes.
const GATHER: Duration = Duration::from_millis(20);

/// The scheduler: decides, binds, and remembers why.
pub struct Scheduler {
    informers: Arc<Informers>,
    pods: Arc<Informer<Pod>>,
    nodes: Arc<Informer<Node>>,
    state: Mutex<State>,
    queue: Arc<WorkQueue<ObjectKey>>,
}

#[derive(Default)]
struct State {
    cluster: Cluster,
    /// Pods that no node would have.
    parked: HashSet<ObjectKey>,
    journal: Journal,
}

impl Scheduler {
    /// A scheduler that reads these caches; it starts with [`run`](Self::run).
    pub fn new(informers: Arc<Informers>) -> Arc<Self> {
        let (pods, nodes) = (informers.of::<Pod>(), informers.of::<Node>());
        let queue = Arc::new(WorkQueue::default());
        Arc::new(Self { informers, pods, nodes, state: Mutex::default(), queue })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// The last decision about a pod, if it is still remembered.
    pub fn decision(&self, pod: &ObjectKey) -> Option<Arc<Decision>> {
        self.state().journal.get(pod)
    }

    /// Schedules until `shutdown`, writing through `client`.
    pub async fn run(self: Arc<Self>, client: kube::Client, shutdown: CancellationToken) {
        let both = async {
            self.nodes.wait_synced().await;
            self.pods.wait_synced().await;
        };
        if shutdown.run_until_cancelled(both).await.is_none() {
            return;
        }
        // The subscribers live as long as the shared informers, so they must not keep the scheduler alive.
        let me = Arc::downgrade(&self);
        self.nodes.subscribe(move |change| {
            if let Some(me) = me.upgrade() {
                me.node_changed(change);
            }
        });
        let me = Arc::downgrade(&self);
        self.pods.subscribe(move |change| {
            if let Some(me) = me.upgrade() {
                me.pod_changed(change);
            }
        });
        let recorder = Recorder::start(client.clone(), NAME, "", shutdown.clone());
        let doer = Doer::new(client, self.informers.clone(), recorder);
        let queue = self.queue.clone();
        drive(Arc::new(Loop { scheduler: self, doer }), queue, WORKERS, shutdown).await;
    }

    fn node_changed(&self, change: &Change<Node>) {
        let mut state = self.state();
        match &change.new {
            Some(node) => state.cluster.set_node(node.clone()),
            None => state.cluster.remove_node(change.latest().metadata.name.as_deref().unwrap_or_default()),
        }
        let matters = |node: &Arc<Node>| {
            let allocatable = node.status.as_ref().and_then(|status| status.allocatable.clone());
            (node.spec.clone(), node.metadata.labels.clone(), allocatable)
        };
        if change.new.is_some() && change.old.as_ref().map(matters) != change.new.as_ref().map(matters) {
            self.unpark(&mut state, |_| true);
        }
    }

    fn pod_changed(&self, change: &Change<Pod>) {
        let key = ObjectKey::of(change.latest());
        let mut state = self.state();
        let placed = state.cluster.is_placed(&key);
        match &change.new {
            Some(pod) => state.cluster.set_pod(pod),
            None => {
                state.cluster.remove_pod(&key);
                state.parked.remove(&key);
                state.journal.drop(&key);
            }
        }
        let same =
            |(old, new): (&Arc<Pod>, &Arc<Pod>)| old.spec == new.spec && old.metadata.labels == new.metadata.labels;
        let changed = !change.old.as_ref().zip(change.new.as_ref()).is_some_and(same);
        match change.new.as_ref().filter(|pod| waits(pod)) {
            // Its own status (what we wrote) is no news; its spec or labels are.
            Some(_) if changed => {
                state.parked.remove(&key);
                self.queue.add(key);
            }
            Some(_) => {}
            // A pod that came or went on some node: room, or company.
            None if placed != state.cluster.is_placed(&key) => self.unpark(&mut state, |_| true),
            // One that was counted already is bound now, or has other labels: company, but no room.
            None if placed && changed => self.unpark(&mut state, minds_company),
            None => {}
        }
    }

    fn unpark(&self, state: &mut State, helped: impl Fn(&Pod) -> bool) {
        let helped = |key: &ObjectKey| self.pods.get(key).is_none_or(|pod| helped(&pod));
        state.parked.extract_if(helped).for_each(|key| self.queue.add_after(key, GATHER));
    }
}

/// Whether other pods' labels decide where the pod may go.
fn minds_company(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|spec| {
        let affinity = spec.affinity.as_ref();
        affinity.is_some_and(|affinity| affinity.pod_affinity.is_some() || affinity.pod_anti_affinity.is_some())
            || spec.topology_spread_constraints.is_some()
    })
}

/// Whether the pod is ours to place.
fn waits(pod: &Pod) -> bool {
    let Some(spec) = pod.spec.as_ref() else {
        return false;
    };
    let over = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    spec.node_name.as_deref().unwrap_or_default().is_empty()
        && spec.scheduler_name.as_deref().is_none_or(|name| name == NAME || name.is_empty())
        && spec.scheduling_gates.as_ref().is_none_or(Vec::is_empty)
        && pod.metadata.deletion_timestamp.is_none()
        && !matches!(over, Some("Succeeded" | "Failed"))
}

/// The scheduler with a hand to write.
struct Loop {
    scheduler: Arc<Scheduler>,
    doer: Doer,
}

/// A pod and what was decided about it.
struct View {
    pod: Option<(Arc<Pod>, Arc<Decision>)>,
}

impl Reconcile for Loop {
    type Key = ObjectKey;
    type View = View;
    type Step = Action;

    fn name(&self) -> &'static str {
        NAME
    }

    /// Deciding is observing: under the lock, so that the next decision sees this one.
    async fn observe(&self, key: &ObjectKey) -> Result<View> {
        let scheduler = &self.scheduler;
        let Some(pod) = scheduler.pods.get(key).filter(|pod| waits(pod)) else {
            return Ok(View { pod: None });
        };
        let mut state = scheduler.state();
        if state.cluster.is_placed(key) {
            return Ok(View { pod: None });
        }
        let info = Arc::new(PodInfo::new(pod.clone()));
        let decision = Arc::new(decide(&info, &state.cluster, plugins::DEFAULT));
        match &decision.chosen {
            Some(node) => state.cluster.assume(info, node),
            None => drop(state.parked.insert(key.clone())),
        }
        state.journal.keep(key.clone(), decision.clone());
        Ok(View { pod: Some((pod, decision)) })
    }

    fn plan(&self, _: &ObjectKey, view: &View, now: Timestamp) -> Plan<Action> {
        match &view.pod {
            None => Plan::default(),
            Some((pod, decision)) => plan(pod, decision, now),
        }
    }

    async fn perform(&self, _: &ObjectKey, step: &Action) -> Result<()> {
        self.doer.perform(step).await.map(drop)
    }

    fn settled(&self, key: &ObjectKey, outcome: std::result::Result<(), &Error>) {
        if outcome.is_err() {
            let mut state = self.scheduler.state();
            if state.cluster.forget(key) {
                self.scheduler.unpark(&mut state, |_| true); // the room it was to have is free
            }
        }
    }
}

/// What to do about a decision: bind, or say why not (once).
fn plan(pod: &Pod, decision: &Decision, now: Timestamp) -> Plan<Action> {
    match &decision.chosen {
        Some(node) => Plan::of(vec![bind(pod, node)]),
        None => {
            let sentence = decision.sentence();
            let Some(status) = unschedulable(pod, &sentence, now) else {
                return Plan::default();
            };
            Plan::of(vec![status, Action::Event(Note::warning(pod, "FailedScheduling", sentence))])
        }
    }
}

fn bind(pod: &Pod, node: &str) -> Action {
    let key = ObjectKey::of(pod);
    let binding = json!({
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": { "name": key.name, "namespace": key.namespace, "uid": pod.meta().uid },
        "target": { "apiVersion": "v1", "kind": "Node", "name": node },
    });
    let done = Note::normal(pod, "Scheduled", format!("Successfully assigned {key} to {node}"));
    let failed = Note::warning(pod, "FailedScheduling", "Binding failed: {error}");
    let target = Target::of(pod).subresource("binding");
    Action::Create { target, object: binding, done: None, failed: None }.announced(done, failed)
}

/// The status that says why; nothing when it says so already.
fn unschedulable(pod: &Pod, message: &str, now: Timestamp) -> Option<Action> {
    let mut new = pod.clone();
    set_condition(&mut new, "PodScheduled", "False", Some("Unschedulable"), Some(message), now);
    Action::update_status(pod, &new)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::client::{Identity, in_process};

    fn pod(name: &str, version: u64, extra: Value) -> Pod {
        let mut pod = json!({"metadata": {"name": name, "namespace": "ns", "resourceVersion": version.to_string()},
            "spec": {"containers": []}});
        json_patch::merge(&mut pod, &extra);
        serde_json::from_value(pod).unwrap()
    }

    /// A scheduler whose caches are fed by hand, with `parked` parked, and a hand to write that reaches nobody.
    fn parking(parked: Pod) -> Loop {
        let client = in_process(axum::Router::new(), Identity::master("test"));
        let informers = Informers::new(client.clone(), CancellationToken::new());
        let state = State { parked: HashSet::from([ObjectKey::of(&parked)]), ..State::default() };
        let scheduler = Arc::new(Scheduler {
            informers: informers.clone(),
            pods: Arc::new(Informer::unfed()),
            nodes: Arc::new(Informer::unfed()),
            state: Mutex::new(state),
            queue: Arc::default(),
        });
        scheduler.pods.saw(parked);
        let me = scheduler.clone();
        scheduler.pods.subscribe(move |change| me.pod_changed(change));
        scheduler.state().parked.insert(ObjectKey::new("ns", "parked"));
        let recorder = Recorder::start(client.clone(), NAME, "", CancellationToken::new());
        Loop { scheduler, doer: Doer::new(client, informers, recorder) }
    }

    #[tokio::test]
    async fn parked_pods_hear_of_company() {
        let near = json!({"spec": {"affinity": {"podAffinity": {}}}});
        let apart = json!({"spec": {"affinity": {"podAntiAffinity": {}}}});
        let spread = json!({"spec": {"topologySpreadConstraints": []}});
        let (here, nowhere) = (json!({"spec": {"nodeName": "a"}}), json!({}));
        let labelled = json!({"spec": {"nodeName": "a"}, "metadata": {"labels": {"app": "x"}}});
        let running = json!({"spec": {"nodeName": "a"}, "status": {"phase": "Running"}});
        let over = json!({"spec": {"nodeName": "a"}, "status": {"phase": "Succeeded"}});
        for (parked, old, new, woken) in [
            (&near, &here, &labelled, true),
            (&apart, &labelled, &here, true),
            (&spread, &here, &labelled, true),
            (&nowhere, &here, &labelled, false),
            (&near, &here, &running, false),
            (&near, &nowhere, &here, true),
            (&nowhere, &nowhere, &here, false),
            (&nowhere, &running, &over, true),
        ] {
            let scheduler = parking(pod("parked", 1, parked.clone())).scheduler;
            let before = pod("other", 2, old.clone());
            scheduler.pods.saw(before.clone());
            if old == &nowhere {
                scheduler.state().cluster.assume(Arc::new(PodInfo::new(Arc::new(before))), "a");
            }
            scheduler.state().parked.insert(ObjectKey::new("ns", "parked"));
            scheduler.pods.saw(pod("other", 3, new.clone()));
            assert_eq!(scheduler.state().parked.is_empty(), woken, "{parked}: {old} -> {new}");
        }
    }

    #[tokio::test]
    async fn room_that_was_promised_in_vain_is_for_the_parked() {
        let hand = parking(pod("parked", 1, json!({})));
        let failed = Error::step("no");
        let key = ObjectKey::new("ns", "promised");
        hand.settled(&key, Err(&failed));
        assert!(!hand.scheduler.state().parked.is_empty(), "nothing was promised");
        hand.scheduler.state().cluster.assume(Arc::new(PodInfo::new(Arc::new(pod("promised", 2, json!({}))))), "a");
        hand.settled(&key, Err(&failed));
        assert!(hand.scheduler.state().parked.is_empty());
    }
}

//! ReplicaSets: as many pods as asked for.
use parking_lot::Mutex;
use std::{
    cmp::Ordering,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus},
    core::v1::Pod,
};
use kube::api::ObjectMeta;

use super::{
    Context, Controller, Loop,
    ownership::{self, BY_OWNER, claim, is_claimed, orphans, owner_keys, woken_by},
    pods,
};
use crate::client::{
    Action, Error, Informer, Note, ObjectKey, Plan, Result, WorkQueue, controller_of, meta_labels, owner_reference,
};

/// The most pods one plan creates or deletes, as in Kubernetes: others get their turn.
const BURST: usize = 500;

/// Subscribes and returns the loop.
pub(super) fn start(context: &Context) -> Loop {
    let (sets, pods) = (context.informers.of::<ReplicaSet>(), context.informers.of::<Pod>());
    pods.add_index(BY_OWNER, owner_keys::<Pod>);
    sets.add_index(BY_OWNER, owner_keys::<ReplicaSet>);
    let queue = Arc::new(WorkQueue::default());
    sets.feed(queue.clone(), |change| [ObjectKey::of(change.latest())]);
    let lookup = sets.clone();
    pods.feed(queue.clone(), move |change| woken_by(change, &lookup, selector));
    context.run(ReplicaSets { sets, pods, failures: Mutex::default() }, queue)
}

fn selector(set: &ReplicaSet) -> Option<kube::core::Selector> {
    ownership::selector(&set.spec.as_ref()?.selector)
}

struct ReplicaSets {
    sets: Arc<Informer<ReplicaSet>>,
    pods: Arc<Informer<Pod>>,
    /// Why the last run of a set could not create or delete pods.
    failures: Mutex<HashMap<ObjectKey, String>>,
}

#[derive(Default)]
struct View {
    set: Option<Arc<ReplicaSet>>,
    /// Its own, and the ownerless of the namespace.
    pods: Vec<Arc<Pod>>,
    /// Active pods per node of all sets with the same owner: where a rollout has doubled up.
    crowd: BTreeMap<String, usize>,
    failure: Option<String>,
}

impl Controller for ReplicaSets {
    type Key = ObjectKey;
    type View = View;
    const NAME: &'static str = "replicaset-controller";

    async fn observe(&self, key: &ObjectKey) -> Result<View> {
        let Some(set) = self.sets.get(key) else {
            return Ok(View::default());
        };
        let uid = set.metadata.uid.clone().unwrap_or_default();
        let mut pods = self.pods.by_index(BY_OWNER, &uid);
        let crowd = self.crowd(&set, &pods);
        pods.extend(self.pods.by_index(BY_OWNER, &orphans(&key.namespace)));
        let failure = self.failures.lock().get(key).cloned();
        Ok(View { set: Some(set), pods, crowd, failure })
    }

    fn plan(&self, _: &ObjectKey, view: &View, now: Timestamp) -> Plan<Action> {
        plan(view, now)
    }

    fn settled(&self, key: &ObjectKey, outcome: std::result::Result<(), &Error>) {
        let mut failures = self.failures.lock();
        match outcome {
            Err(error) if !error.is_conflict() && !error.is_not_found() => {
                failures.insert(key.clone(), error.message());
            }
            Err(_) => {}
            Ok(()) => {
                failures.remove(key);
            }
        }
    }
}

impl ReplicaSets {
    fn crowd(&self, set: &ReplicaSet, own: &[Arc<Pod>]) -> BTreeMap<String, usize> {
        let siblings = match controller_of(&set.metadata) {
            Some(owner) => self.sets.by_index(BY_OWNER, &owner.uid),
            None => Vec::new(),
        };
        let others = siblings.iter().filter(|sibling| sibling.metadata.uid != set.metadata.uid);
        let others = others.flat_map(|s| self.pods.by_index(BY_OWNER, s.metadata.uid.as_deref().unwrap_or_default()));
        let mut crowd = BTreeMap::new();
        for pod in others.chain(own.iter().cloned()).filter(|pod| pods::is_active(pod)) {
            if let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) {
                *crowd.entry(node).or_insert(0) += 1;
            }
        }
        crowd
    }
}

/// Claims, then creates or deletes, then tells.
fn plan(view: &View, now: Timestamp) -> Plan<Action> {
    let Some(set) = view.set.as_deref() else {
        return Plan::default();
    };
    let selector = selector(set);
    let claims = claim(set, selector.as_ref(), &view.pods);
    if !claims.is_empty() {
        return Plan::of(claims);
    }
    let own = || view.pods.iter().filter(|pod| is_claimed(set, selector.as_ref(), &pod.metadata));
    let active: Vec<&Pod> = own().filter(|pod| pods::is_active(pod)).map(AsRef::as_ref).collect();
    let ending = own().filter(|pod| !pods::is_terminal(pod) && !pods::is_active(pod)).count();
    let wanted = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1).max(0) as usize;
    let moves = match set.metadata.deletion_timestamp {
        Some(_) => Vec::new(),
        None if active.len() < wanted => creations(set, (wanted - active.len()).min(BURST)),
        None => deletions(set, &active, active.len() - wanted, &view.crowd),
    };
    let mut plan = Plan::default();
    let failure = view.failure.as_deref().filter(|_| !moves.is_empty());
    let status = status(set, &active, ending as i32, wanted, failure, now);
    if moves.is_empty() || failure.is_some() {
        // While pods come and go their own news bring us back here; but why they do not come must be told first.
        plan.steps.extend(Action::set_status(set, &ReplicaSet { status: Some(status), ..set.clone() }));
    }
    plan.steps.extend(moves);
    let min_ready = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    let waits = active.iter().filter_map(|pod| pods::available_in(pod, min_ready, now));
    plan.requeue_after = waits.filter(|wait| !wait.is_zero()).min();
    plan
}

fn creations(set: &ReplicaSet, count: usize) -> Vec<Action> {
    let Some(template) = set.spec.as_ref().and_then(|spec| spec.template.clone()) else {
        return Vec::new();
    };
    let from = template.metadata.unwrap_or_default();
    let pod = Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", set.metadata.name.as_deref().unwrap_or_default())),
            namespace: set.metadata.namespace.clone(),
            labels: from.labels,
            annotations: from.annotations,
            finalizers: from.finalizers,
            owner_references: Some(vec![owner_reference(set)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    };
    let create = Action::create(&pod).announced(
        Note::normal(set, "SuccessfulCreate", "Created pod: {name}"),
        Note::warning(set, "FailedCreate", "Error creating: {error}"),
    );
    vec![create; count]
}

fn deletions(set: &ReplicaSet, active: &[&Pod], count: usize, crowd: &BTreeMap<String, usize>) -> Vec<Action> {
    let mut ranked = active.to_vec();
    if count < ranked.len() {
        ranked.sort_by(|a, b| rank(a, b, crowd));
    }
    let chosen = ranked.into_iter().take(count.min(BURST));
    chosen
        .map(|pod| {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            Action::delete(pod).announced(
                Note::normal(set, "SuccessfulDelete", format!("Deleted pod: {name}")),
                Note::warning(set, "FailedDelete", "Error deleting: {error}"),
            )
        })
        .collect()
}

/// Which of two pods is deleted first, as Kubernetes ranks them: not on a node, not running, not ready, cheap by
/// annotation, on a node with many siblings, ready for a shorter time, restarted more often, younger.
fn rank(a: &Pod, b: &Pod, crowd: &BTreeMap<String, usize>) -> Ordering {
    let node = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).filter(|node| !node.is_empty());
    let phase = |pod: &Pod| match pods::phase(pod) {
        "Running" => 2,
        "Unknown" => 1,
        _ => 0,
    };
    let cost = |pod: &Pod| {
        let annotations = pod.metadata.annotations.as_ref();
        let cost = annotations.and_then(|a| a.get("controller.kubernetes.io/pod-deletion-cost"));
        cost.and_then(|cost| cost.parse::<i32>().ok()).unwrap_or(0)
    };
    let neighbours = |pod: &Pod| node(pod).and_then(|node| crowd.get(&node).copied()).unwrap_or(0);
    let restarts = |pod: &Pod| {
        let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
        statuses.into_iter().flatten().map(|status| status.restart_count).max().unwrap_or(0)
    };
    let created = |pod: &Pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    node(a)
        .is_some()
        .cmp(&node(b).is_some())
        .then_with(|| phase(a).cmp(&phase(b)))
        .then_with(|| pods::is_ready(a).cmp(&pods::is_ready(b)))
        .then_with(|| cost(a).cmp(&cost(b)))
        .then_with(|| neighbours(b).cmp(&neighbours(a)))
        .then_with(|| pods::ready_since(b).cmp(&pods::ready_since(a)))
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| created(b).cmp(&created(a)))
        .then_with(|| a.metadata.uid.cmp(&b.metadata.uid))
}

fn status(
    set: &ReplicaSet,
    active: &[&Pod],
    ending: i32,
    wanted: usize,
    failure: Option<&str>,
    now: Timestamp,
) -> ReplicaSetStatus {
    let spec = set.spec.as_ref();
    let min_ready = spec.and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    let template = spec.and_then(|spec| spec.template.as_ref()).and_then(|template| template.metadata.as_ref());
    let labels = template.map(meta_labels).cloned().unwrap_or_default();
    let count = |is: &dyn Fn(&Pod) -> bool| active.iter().filter(|pod| is(pod)).count() as i32;
    let labelled = |pod: &Pod| labels.iter().all(|(key, value)| meta_labels(&pod.metadata).get(key) == Some(value));
    let available = |pod: &Pod| pods::available_in(pod, min_ready, now).is_some_and(|wait| wait.is_zero());
    let old = set.status.clone().unwrap_or_default();
    let mut conditions = old.conditions.unwrap_or_default();
    match failure {
        None => conditions.retain(|condition| condition.type_ != "ReplicaFailure"),
        Some(_) if conditions.iter().any(|condition| condition.type_ == "ReplicaFailure") => {}
        Some(message) => {
            let reason = if active.len() < wanted { "FailedCreate" } else { "FailedDelete" };
            conditions.push(ReplicaSetCondition {
                type_: "ReplicaFailure".to_owned(),
                status: "True".to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message.to_owned()),
                last_transition_time: Some(pods::time(now)),
            });
        }
    }
    let some = |count: i32| (count > 0).then_some(count);
    ReplicaSetStatus {
        replicas: active.len() as i32,
        fully_labeled_replicas: some(count(&labelled)),
        ready_replicas: some(count(&pods::is_ready)),
        available_replicas: some(count(&available)),
        terminating_replicas: Some(ending),
        observed_generation: set.metadata.generation,
        conditions: (!conditions.is_empty()).then_some(conditions),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::controllers::tests::world::World;

    fn world(replicas: i32) -> World {
        let mut world = World::default();
        let set = json!({
            "metadata": {"name": "web", "namespace": "ns"},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c"}]}}},
        });
        world.put(&serde_json::from_value::<ReplicaSet>(set).unwrap());
        world
    }

    fn view(world: &World) -> View {
        View { set: world.list().pop(), pods: world.list(), ..View::default() }
    }

    fn now() -> Timestamp {
        Timestamp::from_second(1_700_000_100).unwrap()
    }

    fn settle(world: &mut World) {
        for _ in 0..10 {
            let steps = plan(&view(world), now()).steps;
            if steps.is_empty() {
                return;
            }
            world.perform(&steps);
        }
        panic!("does not settle: {:?}", world.events);
    }

    fn pod(name: &str, spec: Value, status: Value) -> Pod {
        let meta = json!({"name": name, "namespace": "ns", "labels": {"app": "web"}});
        serde_json::from_value(json!({"metadata": meta, "spec": spec, "status": status})).unwrap()
    }

    fn set_size(world: &mut World, replicas: i32) {
        world.change::<ReplicaSet>(|set| set.spec.as_mut().unwrap().replicas = Some(replicas));
    }

    #[test]
    fn pods_are_made_owned_and_counted() {
        let mut world = world(3);
        settle(&mut world);
        let pods = world.list::<Pod>();
        assert_eq!(pods.len(), 3);
        let set = world.list::<ReplicaSet>().pop().unwrap();
        assert!(pods.iter().all(|pod| controller_of(&pod.metadata).unwrap().uid == set.metadata.uid.clone().unwrap()));
        assert_eq!(set.status.as_ref().unwrap().replicas, 3);
        assert_eq!(set.status.as_ref().unwrap().fully_labeled_replicas, Some(3));
        assert_eq!(world.events.len(), 3);
        assert!(world.events[0].starts_with("SuccessfulCreate: Created pod: web-"));
    }

    #[test]
    fn orphans_are_adopted_strangers_released_and_the_dead_replaced() {
        let mut world = world(2);
        world.put(&pod("orphan", json!({}), json!({})));
        settle(&mut world);
        assert_eq!(world.list::<Pod>().len(), 2);
        let mut first = true;
        world.change::<Pod>(|pod| {
            if std::mem::take(&mut first) {
                pod.metadata.labels.as_mut().unwrap().insert("app".into(), "other".into());
            } else {
                pod.status.get_or_insert_default().phase = Some("Failed".into());
            }
        });
        settle(&mut world);
        let pods = world.list::<Pod>();
        assert_eq!(pods.len(), 4, "two new, one dead, one free");
        assert_eq!(pods.iter().filter(|pod| controller_of(&pod.metadata).is_none()).count(), 1);
    }

    #[test]
    fn who_is_of_least_use_goes_first() {
        let ready = |since: &str| json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": since}]});
        let old = ready("2023-11-14T22:00:00Z");
        let mut costly = pod("f-cheap", json!({"nodeName": "n1"}), old.clone());
        let cost = ("controller.kubernetes.io/pod-deletion-cost".to_owned(), "-5".to_owned());
        costly.metadata.annotations = Some([cost].into());
        let pods = [
            pod("a-best", json!({"nodeName": "n1"}), old.clone()),
            pod("b-young", json!({"nodeName": "n1"}), ready("2023-11-14T22:10:00Z")),
            pod("c-crowded", json!({"nodeName": "n2"}), old.clone()),
            pod("d-unready", json!({"nodeName": "n1"}), json!({"phase": "Running"})),
            pod("e-unplaced", json!({}), json!({"phase": "Pending"})),
            costly,
            pod("g-pending", json!({"nodeName": "n1"}), json!({"phase": "Pending"})),
        ];
        let crowd = BTreeMap::from([("n1".to_owned(), 1), ("n2".to_owned(), 2)]);
        let mut ranked: Vec<&Pod> = pods.iter().collect();
        ranked.sort_by(|a, b| rank(a, b, &crowd));
        let names: Vec<_> = ranked.iter().map(|pod| pod.metadata.name.as_deref().unwrap()).collect();
        assert_eq!(names, ["e-unplaced", "g-pending", "d-unready", "f-cheap", "c-crowded", "b-young", "a-best"]);
    }

    #[test]
    fn shrinking_deletes_and_says_so() {
        let mut world = world(3);
        settle(&mut world);
        set_size(&mut world, 1);
        settle(&mut world);
        assert_eq!(world.list::<Pod>().len(), 1);
        assert_eq!(
            world.events.iter().filter(|event| event.starts_with("SuccessfulDelete: Deleted pod: web-")).count(),
            2
        );
    }

    #[test]
    fn a_refusal_is_told_in_the_status_before_trying_again() {
        let mut world = world(1);
        let mut refused = view(&world);
        refused.failure = Some("quota".to_owned());
        let steps = plan(&refused, now()).steps;
        assert_eq!(steps.len(), 2);
        world.perform(&steps);
        let condition = world.list::<ReplicaSet>()[0].status.clone().unwrap().conditions.unwrap().remove(0);
        assert_eq!((condition.reason.as_deref(), condition.message.as_deref()), (Some("FailedCreate"), Some("quota")));
        settle(&mut world);
        assert_eq!(world.list::<ReplicaSet>()[0].status.clone().unwrap().conditions, None);
    }

    #[test]
    fn a_ready_pod_is_available_after_min_ready_seconds() {
        let mut world = world(1);
        world.change::<ReplicaSet>(|set| set.spec.as_mut().unwrap().min_ready_seconds = Some(10));
        settle(&mut world);
        world.change::<Pod>(|pod| pods::set_condition(pod, "Ready", "True", None, None, now()));
        let plan_now = plan(&view(&world), now());
        assert_eq!(plan_now.requeue_after.unwrap().as_secs(), 10);
        world.perform(&plan_now.steps);
        assert_eq!(world.list::<ReplicaSet>()[0].status.clone().unwrap().available_replicas, None);
        let later = now() + jiff::SignedDuration::from_secs(10);
        world.perform(&plan(&view(&world), later).steps);
        assert_eq!(world.list::<ReplicaSet>()[0].status.clone().unwrap().available_replicas, Some(1));
        assert_eq!(plan(&view(&world), later), Plan::default());
    }
}

//! Deployments: one ReplicaSet for each template there ever was, and the walk from the old to the new.
//!
//! `plan` in the order of its decisions: claim the sets; find the set of the current template, or make it; keep its
//! annotations and the deployment's revision; resize ([`scale`]); clean up history; tell ([`status`]). It resizes one
//! thing at a time, the sets' new state wakes it again.
mod revision;
mod scale;
mod status;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{Deployment, DeploymentSpec, ReplicaSet},
    core::v1::Pod,
};

use super::{
    Context, Controller, Loop,
    ownership::{self, BY_OWNER, claim, is_claimed, orphans, owner_keys, woken_by},
    pods,
};
use crate::client::{Action, Change, Informer, Note, ObjectKey, Plan, Result, WorkQueue, controller_of};

/// Subscribes and returns the loop.
pub(super) fn start(context: &Context) -> Loop {
    let deployments = context.informers.of::<Deployment>();
    let (sets, pods) = (context.informers.of::<ReplicaSet>(), context.informers.of::<Pod>());
    sets.add_index(BY_OWNER, owner_keys::<ReplicaSet>);
    pods.add_index(BY_OWNER, owner_keys::<Pod>);
    let queue = Arc::new(WorkQueue::default());
    deployments.feed(queue.clone(), |change| [ObjectKey::of(change.latest())]);
    let lookup = deployments.clone();
    sets.feed(queue.clone(), move |change| woken_by(change, &lookup, selector));
    let lookup = (deployments.clone(), sets.clone());
    pods.feed(queue.clone(), move |change| woken_by_pod(change, &lookup.0, &lookup.1));
    context.run(Deployments { deployments, sets, pods }, queue)
}

/// With the Recreate strategy the last pod's end is what the new set waits for.
fn woken_by_pod(
    change: &Change<Pod>,
    deployments: &Informer<Deployment>,
    sets: &Informer<ReplicaSet>,
) -> Option<ObjectKey> {
    let over = change.new.as_deref().is_none_or(pods::is_terminal);
    let pod = change.old.as_deref().filter(|_| over)?;
    let namespace = pod.metadata.namespace.clone()?;
    let set = sets.get(&ObjectKey::new(&namespace, &controller_of(&pod.metadata)?.name))?;
    let deployment = ObjectKey::new(&namespace, &controller_of(&set.metadata)?.name);
    deployments.get(&deployment).filter(|d| Kind::of(d) == Kind::Recreate).map(|_| deployment)
}

fn selector(deployment: &Deployment) -> Option<kube::core::Selector> {
    ownership::selector(&deployment.spec.as_ref()?.selector)
}

struct Deployments {
    deployments: Arc<Informer<Deployment>>,
    sets: Arc<Informer<ReplicaSet>>,
    pods: Arc<Informer<Pod>>,
}

#[derive(Default)]
struct View {
    deployment: Option<Arc<Deployment>>,
    /// Its own, and the ownerless of the namespace.
    sets: Vec<Arc<ReplicaSet>>,
    /// The set, whoever's, that has the name the next new set would get.
    namesake: Option<Arc<ReplicaSet>>,
    /// The uids of the own sets that still have pods which are not over.
    running: Vec<String>,
}

impl Controller for Deployments {
    type Key = ObjectKey;
    type View = View;
    const NAME: &'static str = "deployment-controller";

    async fn observe(&self, key: &ObjectKey) -> Result<View> {
        let Some(deployment) = self.deployments.get(key) else {
            return Ok(View::default());
        };
        let uid = deployment.metadata.uid.clone().unwrap_or_default();
        let mut sets = self.sets.by_index(BY_OWNER, &uid);
        let running = |uid: &String| self.pods.by_index(BY_OWNER, uid).iter().any(|pod| !pods::is_terminal(pod));
        let running = sets.iter().filter_map(|set| set.metadata.uid.clone()).filter(running).collect();
        sets.extend(self.sets.by_index(BY_OWNER, &orphans(&key.namespace)));
        let name = revision::new_set_name(&deployment);
        let namesake = self.sets.get(&ObjectKey::new(&key.namespace, name));
        Ok(View { deployment: Some(deployment), sets, namesake, running })
    }

    fn plan(&self, _: &ObjectKey, view: &View, now: Timestamp) -> Plan<Action> {
        plan(view, now)
    }
}

/// How a deployment gets from the old to the new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Recreate,
    RollingUpdate,
}

impl Kind {
    fn of(deployment: &Deployment) -> Self {
        let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
        match strategy.and_then(|strategy| strategy.type_.as_deref()) {
            Some("Recreate") => Self::Recreate,
            _ => Self::RollingUpdate,
        }
    }
}

/// A deployment and its sets, sorted out.
struct Rollout<'a> {
    deployment: &'a Deployment,
    spec: &'a DeploymentSpec,
    /// The set of the current template.
    new: Option<&'a ReplicaSet>,
    /// All others, oldest first.
    old: Vec<&'a ReplicaSet>,
}

impl Rollout<'_> {
    fn replicas(&self) -> i32 {
        self.spec.replicas.unwrap_or(1)
    }

    /// Old and new.
    fn all(&self) -> impl Iterator<Item = &ReplicaSet> {
        self.old.iter().copied().chain(self.new)
    }
}

fn plan(view: &View, now: Timestamp) -> Plan<Action> {
    let Some((deployment, spec)) = view.deployment.as_deref().and_then(|d| Some((d, d.spec.as_ref()?))) else {
        return Plan::default();
    };
    let selector = selector(deployment);
    let claims = claim(deployment, selector.as_ref(), &view.sets);
    if !claims.is_empty() {
        return Plan::of(claims);
    }
    let own = view.sets.iter().filter(|set| is_claimed(deployment, selector.as_ref(), &set.metadata));
    let mut own: Vec<&ReplicaSet> = own.map(AsRef::as_ref).collect();
    own.sort_by_key(|set| (set.metadata.creation_timestamp.as_ref().map(|t| t.0), set.metadata.name.clone()));
    let new = own.iter().copied().find(|set| revision::same_template(set, &spec.template));
    let old = own.into_iter().filter(|set| new.is_none_or(|new| !std::ptr::eq(new, *set))).collect();
    let rollout = Rollout { deployment, spec, new, old };
    let mut plan = Plan::default();
    if deployment.metadata.deletion_timestamp.is_some() {
        status::plan(&mut plan, &rollout, status::Progress::default(), now);
        return plan;
    }
    let progress = decide(&mut plan, &rollout, view);
    status::plan(&mut plan, &rollout, progress, now);
    plan
}

/// Adds what moves the rollout on.
fn decide(plan: &mut Plan<Action>, rollout: &Rollout<'_>, view: &View) -> status::Progress {
    let mut progress = status::Progress::default();
    let paused = rollout.spec.paused == Some(true);
    progress.found = rollout.new.is_some();
    plan.steps.extend(revision::keep(rollout));
    if !plan.steps.is_empty() {
        return progress; // one write to a set at a time; it wakes us again
    }
    if paused || scale::was_resized(rollout) {
        resize(plan, rollout, scale::proportionally(rollout));
        if paused {
            plan.steps.extend(clean_up(rollout));
        }
        return progress;
    }
    let recreate = Kind::of(rollout.deployment) == Kind::Recreate;
    if recreate {
        let old: Vec<_> = rollout.old.iter().filter(|set| scale::size(set) > 0).map(|set| (*set, 0)).collect();
        let running = |set: &&ReplicaSet| set.metadata.uid.as_ref().is_some_and(|uid| view.running.contains(uid));
        if !old.is_empty() || rollout.old.iter().any(running) {
            resize(plan, rollout, old);
            return progress;
        }
    }
    let Some(new) = rollout.new else {
        match &view.namesake {
            Some(_) => progress.collided = true,
            None => progress.created = Some(create(plan, rollout)),
        }
        return progress;
    };
    let grown = scale::new_size(rollout, scale::size(new));
    if grown != scale::size(new) {
        resize(plan, rollout, vec![(new, grown)]);
    } else if !recreate {
        resize(plan, rollout, scale::shrink_old(rollout));
    }
    if status::is_complete(rollout) {
        plan.steps.extend(clean_up(rollout));
    }
    progress
}

/// Makes the set of the current template; returns its name.
fn create(plan: &mut Plan<Action>, rollout: &Rollout<'_>) -> String {
    let set = revision::new_set(rollout, scale::new_size(rollout, 0));
    let size = scale::size(&set);
    let done = format!("Scaled up replica set {{name}} from 0 to {size}");
    let failed = "Failed to create new replica set: {error}";
    plan.push(Action::create(&set).announced(
        Note::normal(rollout.deployment, "ScalingReplicaSet", done),
        Note::warning(rollout.deployment, "ReplicaSetCreateError", failed),
    ));
    set.metadata.name.unwrap_or_default()
}

fn resize(plan: &mut Plan<Action>, rollout: &Rollout<'_>, sizes: Vec<(&ReplicaSet, i32)>) {
    for (set, size) in sizes {
        let mut new = set.clone();
        revision::annotate_size(&mut new, rollout);
        new.spec.get_or_insert_default().replicas = Some(size);
        let Some(action) = Action::update(set, &new) else {
            continue;
        };
        plan.push(action);
        let before = scale::size(set);
        if size != before {
            let direction = if size > before { "up" } else { "down" };
            let name = set.metadata.name.as_deref().unwrap_or_default();
            let message = format!("Scaled {direction} replica set {name} from {before} to {size}");
            plan.push(Action::Event(Note::normal(rollout.deployment, "ScalingReplicaSet", message)));
        }
    }
}

/// Deletes the oldest sets beyond the history limit, if they are empty and settled.
fn clean_up(rollout: &Rollout<'_>) -> Vec<Action> {
    let limit = rollout.spec.revision_history_limit.unwrap_or(10);
    if limit == i32::MAX {
        return Vec::new();
    }
    let mut alive: Vec<_> = rollout.old.iter().filter(|set| set.metadata.deletion_timestamp.is_none()).collect();
    let surplus = alive.len().saturating_sub(limit.max(0) as usize);
    alive.sort_by_key(|set| revision::of_set(set));
    let settled = |set: &ReplicaSet| {
        let status = set.status.clone().unwrap_or_default();
        status.replicas == 0 && scale::size(set) == 0 && set.metadata.generation <= status.observed_generation
    };
    alive.into_iter().take(surplus).filter(|set| settled(set)).map(|set| Action::delete(*set)).collect()
}

//! What a deployment says about itself: counts and conditions, worded as Kubernetes words them.
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};

use super::{Rollout, scale};
use crate::{
    client::{Action, Plan},
    controllers::pods::{time, until},
};

const PROGRESSING: &str = "Progressing";
const DONE: &str = "NewReplicaSetAvailable";
const LATE: &str = "ProgressDeadlineExceeded";

/// What this run of the plan has found or done, as far as the conditions tell it.
#[derive(Default)]
pub(super) struct Progress {
    /// The new set was there.
    pub found: bool,
    /// The new set is being made, under this name.
    pub created: Option<String>,
    /// The name of the new set is taken.
    pub collided: bool,
}

/// Adds the status, when it changes, and when to look at the deadline.
pub(super) fn plan(plan: &mut Plan<Action>, rollout: &Rollout<'_>, progress: Progress, now: Timestamp) {
    let old = rollout.deployment.status.clone().unwrap_or_default();
    let mut status = count(rollout, &old);
    if progress.collided {
        status.collision_count = Some(old.collision_count.unwrap_or(0) + 1);
    }
    let mut conditions = Conditions { list: old.conditions.clone().unwrap_or_default(), now };
    let enough = rollout.replicas() - scale::max_unavailable(rollout.spec);
    if status.available_replicas.unwrap_or(0) >= enough {
        conditions.set("Available", "True", "MinimumReplicasAvailable", "Deployment has minimum availability.");
    } else {
        let message = "Deployment does not have minimum availability.";
        conditions.set("Available", "False", "MinimumReplicasUnavailable", message);
    }
    conditions.paused(rollout.spec.paused == Some(true), deadline(rollout).is_some());
    if rollout.spec.paused != Some(true) && rollout.deployment.metadata.deletion_timestamp.is_none() {
        conditions.progress(rollout, &old, &status, &progress);
    }
    conditions.failure(rollout);
    plan_deadline(plan, rollout, &conditions);
    status.conditions = Some(conditions.list);
    let new = Deployment { status: Some(status), ..rollout.deployment.clone() };
    plan.steps.extend(Action::set_status(rollout.deployment, &new));
}

fn count(rollout: &Rollout<'_>, old: &DeploymentStatus) -> DeploymentStatus {
    let sum = |of: &dyn Fn(&ReplicaSet) -> i32| rollout.all().map(of).sum::<i32>();
    let actual = |set: &ReplicaSet| set.status.as_ref().map_or(0, |status| status.replicas);
    let ready = |set: &ReplicaSet| set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
    let ending = |set: &ReplicaSet| set.status.as_ref().and_then(|status| status.terminating_replicas).unwrap_or(0);
    let available = sum(&scale::available);
    let some = |count: i32| (count != 0).then_some(count);
    DeploymentStatus {
        observed_generation: rollout.deployment.metadata.generation,
        replicas: some(sum(&actual)),
        updated_replicas: some(rollout.new.map_or(0, actual)),
        ready_replicas: some(sum(&ready)),
        available_replicas: some(available),
        unavailable_replicas: some((sum(&scale::size) - available).max(0)),
        terminating_replicas: Some(sum(&ending)),
        collision_count: old.collision_count,
        conditions: None,
    }
}

/// Whether everybody is on the new template and available, by the deployment's current sets.
pub(super) fn is_complete(rollout: &Rollout<'_>) -> bool {
    let old = rollout.deployment.status.clone().unwrap_or_default();
    complete(rollout, &count(rollout, &old))
}

fn complete(rollout: &Rollout<'_>, status: &DeploymentStatus) -> bool {
    let all = Some(rollout.replicas()).filter(|replicas| *replicas != 0);
    status.updated_replicas == all && status.replicas == all && status.available_replicas == all
}

/// The time a rollout may stand still.
fn deadline(rollout: &Rollout<'_>) -> Option<SignedDuration> {
    let seconds = rollout.spec.progress_deadline_seconds.filter(|seconds| *seconds != i32::MAX)?;
    Some(SignedDuration::from_secs(i64::from(seconds)))
}

fn plan_deadline(plan: &mut Plan<Action>, rollout: &Rollout<'_>, conditions: &Conditions) {
    let (Some(deadline), Some(progressing)) = (deadline(rollout), conditions.get(PROGRESSING)) else {
        return;
    };
    // What is done cannot be late, also when it is incomplete anew; what is on its way out or paused is nobody's wait.
    let settled = matches!(progressing.reason.as_deref(), Some(DONE | LATE));
    if settled || rollout.spec.paused == Some(true) || rollout.deployment.metadata.deletion_timestamp.is_some() {
        return;
    }
    if let Some(since) = &progressing.last_update_time {
        // One second late rather than a moment early: times are kept in whole seconds.
        let due = since.0 + deadline + SignedDuration::from_secs(1);
        plan.again_after(until(due, conditions.now).max(Duration::from_secs(1)));
    }
}

struct Conditions {
    list: Vec<DeploymentCondition>,
    now: Timestamp,
}

impl Conditions {
    fn get(&self, kind: &str) -> Option<&DeploymentCondition> {
        self.list.iter().find(|condition| condition.type_ == kind)
    }

    /// Sets a condition unless it says so already (by status and reason).
    fn set(&mut self, kind: &str, status: &str, reason: &str, message: &str) {
        let says = |c: &DeploymentCondition| c.status == status && c.reason.as_deref() == Some(reason);
        if !self.get(kind).is_some_and(says) {
            self.renew(kind, status, reason, message);
        }
    }

    /// Sets a condition as of now, whatever it said.
    fn renew(&mut self, kind: &str, status: &str, reason: &str, message: &str) {
        let now = Some(time(self.now));
        let same = self.get(kind).filter(|old| old.status == status);
        let new = DeploymentCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_transition_time: same.map_or(now.clone(), |old| old.last_transition_time.clone()),
            last_update_time: now,
        };
        match self.list.iter_mut().find(|condition| condition.type_ == kind) {
            Some(old) => *old = new,
            None => self.list.push(new),
        }
    }

    fn paused(&mut self, paused: bool, has_deadline: bool) {
        let reason = self.get(PROGRESSING).and_then(|condition| condition.reason.clone());
        if !has_deadline || reason.as_deref() == Some(LATE) {
            return;
        }
        let was_paused = reason.as_deref() == Some("DeploymentPaused");
        if paused && !was_paused {
            self.renew(PROGRESSING, "Unknown", "DeploymentPaused", "Deployment is paused");
        } else if !paused && was_paused {
            self.renew(PROGRESSING, "Unknown", "DeploymentResumed", "Deployment is resumed");
        }
    }

    fn progress(&mut self, rollout: &Rollout<'_>, old: &DeploymentStatus, new: &DeploymentStatus, run: &Progress) {
        let Some(deadline) = deadline(rollout) else {
            return self.list.retain(|condition| condition.type_ != PROGRESSING);
        };
        if let Some(name) = &run.created {
            let message = format!("Created new replica set \"{name}\"");
            return self.set(PROGRESSING, "True", "NewReplicaSetCreated", &message);
        }
        // Without a new set (Recreate waits for the old pods) the deployment itself gets on, or does not.
        let (kind, meta) =
            rollout.new.map_or(("Deployment", &rollout.deployment.metadata), |set| ("ReplicaSet", &set.metadata));
        let name = meta.name.as_deref().unwrap_or_default();
        if run.found && self.get(PROGRESSING).is_none() {
            let message = format!("Found new replica set \"{name}\"");
            self.set(PROGRESSING, "True", "FoundNewReplicaSet", &message);
        }
        let reason = self.get(PROGRESSING).and_then(|condition| condition.reason.clone());
        if reason.as_deref() == Some(DONE) && new.replicas == new.updated_replicas {
            return; // done before; a pod that fails later is no rollout
        }
        if complete(rollout, new) {
            self.set(PROGRESSING, "True", DONE, &format!("{kind} \"{name}\" has successfully progressed."));
        } else if progressed(old, new) {
            let message = format!("{kind} \"{name}\" is progressing.");
            self.renew(PROGRESSING, "True", "ReplicaSetUpdated", &message);
        } else if self.timed_out(deadline) {
            self.set(PROGRESSING, "False", LATE, &format!("{kind} \"{name}\" has timed out progressing."));
        }
    }

    fn timed_out(&self, deadline: SignedDuration) -> bool {
        let Some(condition) = self.get(PROGRESSING) else {
            return false;
        };
        match condition.reason.as_deref() {
            Some(DONE) => false,
            Some(LATE) => true,
            _ => condition.last_update_time.as_ref().is_some_and(|since| since.0 + deadline < self.now),
        }
    }

    /// What keeps a set from its pods keeps the deployment from them.
    fn failure(&mut self, rollout: &Rollout<'_>) {
        let of = |set: &ReplicaSet| {
            let conditions = set.status.as_ref().and_then(|status| status.conditions.clone());
            conditions.into_iter().flatten().find(|condition| condition.type_ == "ReplicaFailure")
        };
        match rollout.new.into_iter().chain(rollout.old.iter().copied()).find_map(of) {
            None => self.list.retain(|condition| condition.type_ != "ReplicaFailure"),
            Some(failure) => {
                let (reason, message) = (failure.reason.unwrap_or_default(), failure.message.unwrap_or_default());
                self.set("ReplicaFailure", &failure.status, &reason, &message);
            }
        }
    }
}

/// Whether the counts have moved towards the goal.
fn progressed(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let count = |count: Option<i32>| count.unwrap_or(0);
    let not_updated = |s: &DeploymentStatus| count(s.replicas) - count(s.updated_replicas);
    count(new.updated_replicas) > count(old.updated_replicas)
        || not_updated(new) < not_updated(old)
        || count(new.ready_replicas) > count(old.ready_replicas)
        || count(new.available_replicas) > count(old.available_replicas)
}

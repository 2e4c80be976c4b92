//! The arithmetic of rollouts: who grows, who shrinks, by how much.
use k8s_openapi::{
    api::apps::v1::{DeploymentSpec, ReplicaSet},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{Kind, Rollout, revision};

/// `spec.replicas` of a set.
pub(super) fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// `status.availableReplicas` of a set.
pub(super) fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

fn resolve(value: Option<&IntOrString>, of: i32, up: bool) -> i32 {
    match value {
        None => resolve(Some(&IntOrString::String("25%".to_owned())), of, up),
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(text)) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let product = i64::from(of) * percent;
            let whole = if up { (product + 99) / 100 } else { product / 100 };
            i32::try_from(whole).unwrap_or(i32::MAX)
        }
    }
}

/// Surge and unavailability in pods. Both zero would never move: then one may be unavailable.
fn fenceposts(spec: &DeploymentSpec) -> (i32, i32) {
    let strategy = spec.strategy.as_ref();
    if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate") {
        return (0, 0);
    }
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let replicas = spec.replicas.unwrap_or(1);
    let surge = resolve(rolling.and_then(|rolling| rolling.max_surge.as_ref()), replicas, true);
    let unavailable = resolve(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()), replicas, false);
    match (surge, unavailable) {
        (0, 0) => (0, 1),
        both => both,
    }
}

/// How many pods there may be above `spec.replicas`.
pub(super) fn max_surge(spec: &DeploymentSpec) -> i32 {
    fenceposts(spec).0
}

/// How many pods of `spec.replicas` may be missing.
pub(super) fn max_unavailable(spec: &DeploymentSpec) -> i32 {
    let replicas = spec.replicas.unwrap_or(1);
    if replicas == 0 { 0 } else { fenceposts(spec).1.min(replicas) }
}

/// The size the set of the current template, of size `now` today, shall have next.
pub(super) fn new_size(rollout: &Rollout<'_>, now: i32) -> i32 {
    let replicas = rollout.replicas();
    if now >= replicas || Kind::of(rollout.deployment) == Kind::Recreate {
        return replicas;
    }
    let room = replicas + max_surge(rollout.spec) - rollout.all().map(size).sum::<i32>();
    now + room.clamp(0, replicas - now)
}

/// New sizes for old sets: first those pods go that are of no use, then as many as may be missing.
pub(super) fn shrink_old<'a>(rollout: &Rollout<'a>) -> Vec<(&'a ReplicaSet, i32)> {
    let Some(new) = rollout.new else {
        return Vec::new();
    };
    let mut sizes: Vec<(&ReplicaSet, i32)> = rollout.old.iter().map(|set| (*set, size(set))).collect();
    let pods: i32 = rollout.all().map(size).sum();
    let must_stay = rollout.replicas() - max_unavailable(rollout.spec);
    let new_unavailable = size(new) - available(new);
    let mut may_go = pods - must_stay - new_unavailable;
    if may_go <= 0 {
        return Vec::new();
    }
    for (set, size) in &mut sizes {
        let useless = (*size - available(set)).clamp(0, may_go);
        *size -= useless;
        may_go -= useless;
    }
    let mut may_go = rollout.all().map(available).sum::<i32>() - must_stay;
    for (_, size) in &mut sizes {
        let going = (*size).min(may_go).max(0);
        *size -= going;
        may_go -= going;
    }
    sizes.retain(|(set, new)| size(set) != *new);
    sizes
}

/// Whether the deployment was scaled since its sets were sized.
pub(super) fn was_resized(rollout: &Rollout<'_>) -> bool {
    let noted = |set: &ReplicaSet| noted(set, revision::DESIRED).is_some_and(|desired| desired != rollout.replicas());
    rollout.all().any(|set| size(set) > 0 && noted(set))
}

fn noted(set: &ReplicaSet, annotation: &str) -> Option<i32> {
    set.metadata.annotations.as_ref()?.get(annotation)?.parse().ok()
}

/// New sizes after the deployment was scaled in the middle of a rollout: everybody gets a share by its size, and what
/// rounding leaves goes to the largest.
pub(super) fn proportionally<'a>(rollout: &Rollout<'a>) -> Vec<(&'a ReplicaSet, i32)> {
    let replicas = rollout.replicas();
    let everybody = || rollout.old.iter().copied().chain(rollout.new);
    let mut active: Vec<&'a ReplicaSet> = everybody().filter(|set| size(set) > 0).collect();
    if active.len() <= 1 {
        let newest = || rollout.new.or(rollout.old.last().copied());
        let only = active.pop().or_else(newest);
        return only
            .filter(|set| size(set) != replicas || noted(set, revision::DESIRED) != Some(replicas))
            .map(|set| (set, replicas))
            .into_iter()
            .collect();
    }
    if let Some(new) = rollout.new
        && size(new) == replicas
        && noted(new, revision::DESIRED) == Some(replicas)
        && available(new) == replicas
    {
        return rollout.old.iter().filter(|set| size(set) > 0).map(|set| (*set, 0)).collect();
    }
    if Kind::of(rollout.deployment) == Kind::Recreate {
        return Vec::new();
    }
    let allowed = if replicas > 0 { replicas + max_surge(rollout.spec) } else { 0 };
    let to_add = allowed - active.iter().map(|set| size(set)).sum::<i32>();
    let created = |set: &ReplicaSet| set.metadata.creation_timestamp.as_ref().map(|time| time.0);
    // Growing favours the newer of equals, shrinking takes from the older.
    active.sort_by(|a, b| {
        let by_age = created(b).cmp(&created(a));
        size(b).cmp(&size(a)).then(if to_add > 0 { by_age } else { by_age.reverse() })
    });
    let mut added = 0;
    let mut sizes: Vec<(&ReplicaSet, i32)> = Vec::new();
    for set in active {
        let share = share(rollout, set, to_add, added);
        added += share;
        sizes.push((set, size(set) + share));
    }
    if let Some((_, largest)) = sizes.first_mut() {
        *largest = (*largest + to_add - added).max(0);
    }
    sizes
}

fn share(rollout: &Rollout<'_>, set: &ReplicaSet, to_add: i32, added: i32) -> i32 {
    let left = to_add - added;
    if size(set) == 0 || to_add == 0 || left == 0 {
        return 0;
    }
    if rollout.replicas() == 0 {
        return (-size(set)).max(left);
    }
    let status = rollout.deployment.status.as_ref();
    let before = noted(set, revision::MAX).or_else(|| status.and_then(|status| status.replicas)).unwrap_or(0);
    if before <= 0 {
        return 0;
    }
    let after = f64::from(rollout.replicas() + max_surge(rollout.spec));
    let scaled = (f64::from(size(set)) * after / f64::from(before)).round() as i32 - size(set);
    if to_add > 0 { scaled.min(left) } else { scaled.max(left) }
}

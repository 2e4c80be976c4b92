//! Templates, their hash, and the annotations in which Kubernetes keeps history.
use std::collections::BTreeMap;

use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec},
    core::v1::PodTemplateSpec,
};
use kube::api::ObjectMeta;
use serde_json::json;

use super::{Rollout, scale};
use crate::client::{Action, Target, owner_reference};

/// The label that tells the pods of one template from those of another.
const HASH_LABEL: &str = "pod-template-hash";
const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// `spec.replicas` of the deployment when the set was last sized: differs when the deployment was scaled since.
pub(super) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// The same with the surge: the base of proportional scaling.
pub(super) const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations that a set does not take over from its deployment.
const OWN: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];
/// The most bytes of history in an annotation, as in Kubernetes.
const HISTORY_BYTES: usize = 2000;

type Annotations = BTreeMap<String, String>;

/// Whether the set was made from this template.
pub(super) fn same_template(set: &ReplicaSet, template: &PodTemplateSpec) -> bool {
    let Some(of_set) = set.spec.as_ref().and_then(|spec| spec.template.as_ref()) else {
        return false;
    };
    plain(of_set) == plain(template)
}

/// The template as JSON without the hash label. Through JSON, because `{}` and absent mean the same.
fn plain(template: &PodTemplateSpec) -> serde_json::Value {
    let mut template = template.clone();
    if let Some(meta) = &mut template.metadata {
        meta.creation_timestamp = None;
        meta.labels.iter_mut().for_each(|labels| drop(labels.remove(HASH_LABEL)));
    }
    let mut value = serde_json::to_value(&template).unwrap_or_default();
    drop_empty(&mut value);
    value
}

fn drop_empty(value: &mut serde_json::Value) {
    if let Some(fields) = value.as_object_mut() {
        fields.values_mut().for_each(drop_empty);
        // `emptyDir: {}` and its like say something by being there; empty metadata and label maps do not.
        for name in ["metadata", "labels", "annotations"] {
            if fields.get(name).and_then(|v| v.as_object()).is_some_and(|fields| fields.is_empty()) {
                fields.remove(name);
            }
        }
    }
}

/// FNV-1a of the template (and of how often its name was taken), in the letters Kubernetes finds safe.
fn hash(deployment: &Deployment) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let template = deployment.spec.as_ref().map(|spec| plain(&spec.template)).unwrap_or_default();
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count);
    let mut bytes = template.to_string().into_bytes();
    bytes.extend(collisions.iter().flat_map(|count| count.to_le_bytes()));
    let sum = bytes.iter().fold(0x811c_9dc5_u32, |sum, byte| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    sum.to_string().bytes().map(|digit| char::from(LETTERS[usize::from(digit) % LETTERS.len()])).collect()
}

/// The name of the set for the current template, should it have to be made.
pub(super) fn new_set_name(deployment: &Deployment) -> String {
    format!("{}-{}", deployment.metadata.name.as_deref().unwrap_or_default(), hash(deployment))
}

/// The set for the current template.
pub(super) fn new_set(rollout: &Rollout<'_>, size: i32) -> ReplicaSet {
    let (deployment, spec) = (rollout.deployment, rollout.spec);
    let hash = hash(deployment);
    let mut template = spec.template.clone();
    let mut labels = template.metadata.clone().unwrap_or_default().labels.unwrap_or_default();
    labels.insert(HASH_LABEL.to_owned(), hash.clone());
    template.metadata.get_or_insert_default().labels = Some(labels.clone());
    let mut selector = spec.selector.clone();
    selector.match_labels.get_or_insert_default().insert(HASH_LABEL.to_owned(), hash);
    let mut set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(new_set_name(deployment)),
            namespace: deployment.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: Some(annotations(rollout, None)),
            owner_references: Some(vec![owner_reference(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(size),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    };
    annotate_size(&mut set, rollout);
    set
}

/// Notes on a set what it was sized for.
pub(super) fn annotate_size(set: &mut ReplicaSet, rollout: &Rollout<'_>) {
    let annotations = set.metadata.annotations.get_or_insert_default();
    annotations.insert(DESIRED.to_owned(), rollout.replicas().to_string());
    let max = rollout.replicas() + scale::max_surge(rollout.spec);
    annotations.insert(MAX.to_owned(), max.to_string());
}

/// What a set is annotated with besides its size: the deployment's annotations and its revision, with the revisions
/// it had before.
fn annotations(rollout: &Rollout<'_>, set: Option<&ReplicaSet>) -> Annotations {
    let mut annotations = set.and_then(|set| set.metadata.annotations.clone()).unwrap_or_default();
    let theirs = rollout.deployment.metadata.annotations.iter().flatten();
    annotations.extend(theirs.filter(|(key, _)| !OWN.contains(&key.as_str())).map(|(k, v)| (k.clone(), v.clone())));
    let before = annotations.get(REVISION).and_then(|revision| revision.parse::<i64>().ok());
    let now = rollout.old.iter().map(|set| of_set(set)).max().unwrap_or(0) + 1;
    if before.is_none_or(|before| before < now) {
        annotations.insert(REVISION.to_owned(), now.to_string());
        if let Some(before) = before {
            let mut history: Vec<String> = annotations
                .get(HISTORY)
                .map(|history| history.split(',').map(str::to_owned).collect())
                .unwrap_or_default();
            history.push(before.to_string());
            while history.iter().map(|revision| revision.len() + 1).sum::<usize>() > HISTORY_BYTES {
                history.remove(0);
            }
            annotations.insert(HISTORY.to_owned(), history.join(","));
        }
    }
    annotations
}

/// The revision of a set; 0 when it has none.
pub(super) fn of_set(set: &ReplicaSet) -> i64 {
    let annotations = set.metadata.annotations.as_ref();
    annotations.and_then(|a| a.get(REVISION)).and_then(|revision| revision.parse().ok()).unwrap_or(0)
}

/// Keeps the annotations and `minReadySeconds` of the current set, and the deployment's own revision.
pub(super) fn keep(rollout: &Rollout<'_>) -> Vec<Action> {
    let mut actions = Vec::new();
    let revision = match rollout.new {
        Some(set) => {
            let mut new = set.clone();
            new.metadata.annotations = Some(annotations(rollout, Some(set)));
            let spec = new.spec.get_or_insert_default();
            if spec.min_ready_seconds.unwrap_or(0) != rollout.spec.min_ready_seconds.unwrap_or(0) {
                spec.min_ready_seconds = Some(rollout.spec.min_ready_seconds.unwrap_or(0));
            }
            actions.extend(Action::update(set, &new));
            of_set(&new)
        }
        None => return actions,
    };
    let known = rollout.deployment.metadata.annotations.as_ref().and_then(|a| a.get(REVISION));
    if known != Some(&revision.to_string()) {
        let patch = json!({ "metadata": { "annotations": { REVISION: revision.to_string() } } });
        actions.push(Action::patch(Target::of(rollout.deployment), patch));
    }
    actions
}

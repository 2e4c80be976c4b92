//! Namespaces that go: first their pods, then everything else, then themselves.
use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, NamespaceStatus, Pod};
use kube::{
    Api, Resource,
    api::ListParams,
    core::{ApiResource, DynamicObject, PartialObjectMeta},
};

use super::{Context, Controller, Loop, pods::time};
use crate::{
    api,
    client::{Action, Error, Informer, Informers, ObjectKey, Plan, Result, Target, WorkQueue},
};

/// The finalizer in a namespace's spec that this controller removes.
const FINALIZER: &str = "kubernetes";
/// What is deleted is usually gone at once; then the next round can start.
const NEXT_ROUND: Duration = Duration::from_millis(50);
/// What waits for a finalizer or a grace period wakes us when it goes; this is for kinds nobody watches.
const PATIENCE: Duration = Duration::from_secs(5);

/// Subscribes and returns the loop.
pub(super) fn start(context: &Context) -> Loop {
    let namespaces = context.informers.of::<Namespace>();
    let queue = Arc::new(WorkQueue::default());
    namespaces.feed(queue.clone(), |change| {
        let ending = change.new.as_ref().filter(|namespace| !is_active(namespace));
        ending.and_then(|namespace| namespace.metadata.name.clone())
    });
    wake_by_content(&context.informers, &namespaces, &queue);
    context.run(Namespaces { namespaces, client: context.client.clone() }, queue)
}

/// Whether objects may be created in the namespace.
pub(super) fn is_active(namespace: &Namespace) -> bool {
    namespace.metadata.deletion_timestamp.is_none()
}

/// The kinds that live in namespaces and can be listed and deleted; each storage once.
fn contents() -> impl Iterator<Item = &'static api::Kind> {
    watched_kinds().filter(|kind| kind.namespaced)
}

/// The kinds that are stored: listed, watched, deleted; each storage once.
pub(super) fn watched_kinds() -> impl Iterator<Item = &'static api::Kind> {
    let can = |kind: &&api::Kind| ["list", "watch", "delete"].iter().all(|verb| kind.verbs.contains(verb));
    api::kinds().iter().filter(can).filter(|kind| kind.storage_group() == kind.group)
}

/// A kind of the table as kube names it.
pub(super) fn resource(kind: &api::Kind) -> ApiResource {
    ApiResource {
        group: kind.group.to_owned(),
        version: kind.version.to_owned(),
        api_version: kind.api_version(),
        kind: kind.kind.to_owned(),
        plural: kind.plural.to_owned(),
    }
}

/// An object of a kind of the table; without a name, the collection.
pub(super) fn target(kind: &api::Kind, key: ObjectKey) -> Target {
    Target {
        api_version: kind.api_version().into(),
        kind: kind.kind.into(),
        plural: kind.plural.into(),
        namespace: key.namespace,
        name: key.name,
        subresource: "",
    }
}

fn wake_by_content(informers: &Informers, namespaces: &Arc<Informer<Namespace>>, queue: &Arc<WorkQueue<String>>) {
    for kind in contents().filter(|kind| kind.kind != "Event") {
        let (namespaces, queue) = (namespaces.clone(), queue.clone());
        informers.subscribe_meta(
            &resource(kind),
            Box::new(move |old, new| {
                let gone = old.filter(|_| new.is_none()).and_then(|meta| meta.namespace.as_ref());
                if let Some(name) = gone
                    && namespaces.get(&ObjectKey::new("", name)).is_some_and(|namespace| !is_active(&namespace))
                {
                    queue.add(name.clone());
                }
            }),
        );
    }
}

struct Namespaces {
    namespaces: Arc<Informer<Namespace>>,
    client: kube::Client,
}

#[derive(Default)]
struct View {
    namespace: Option<Arc<Namespace>>,
    /// What is left in it, by kind; only of a namespace that goes.
    left: Vec<Left>,
}

/// What is left of one kind.
struct Left {
    /// The collection.
    target: Target,
    group: &'static str,
    count: usize,
    /// Not being deleted yet.
    untouched: usize,
    /// How many objects wait for which finalizer.
    finalizers: BTreeMap<String, usize>,
}

impl Controller for Namespaces {
    type Key = String;
    type View = View;
    const NAME: &'static str = "namespace-controller";

    async fn observe(&self, key: &String) -> Result<View> {
        let Some(namespace) = self.namespaces.get(&ObjectKey::new("", key)) else {
            return Ok(View::default());
        };
        let mut left = Vec::new();
        if !is_active(&namespace) {
            for kind in contents() {
                left.extend(self.left(key, kind).await?);
            }
        }
        Ok(View { namespace: Some(namespace), left })
    }

    fn plan(&self, _: &String, view: &View, now: Timestamp) -> Plan<Action> {
        plan(view, now)
    }
}

impl Namespaces {
    async fn left(&self, namespace: &str, kind: &'static api::Kind) -> Result<Option<Left>> {
        let resource = resource(kind);
        let api: Api<PartialObjectMeta<DynamicObject>> =
            Api::namespaced_with(self.client.clone(), namespace, &resource);
        let list = api.list(&ListParams::default()).await;
        let list = list.map_err(|e| Error::api(format!("list {} in {namespace}", kind.plural), e))?;
        let mut finalizers = BTreeMap::new();
        for finalizer in list.items.iter().flat_map(|object| object.meta().finalizers.iter().flatten()) {
            *finalizers.entry(finalizer.clone()).or_insert(0) += 1;
        }
        let target = target(kind, ObjectKey::new(namespace, ""));
        let untouched = list.items.iter().filter(|object| object.meta().deletion_timestamp.is_none()).count();
        let left = Left { target, group: kind.group, count: list.items.len(), untouched, finalizers };
        Ok((left.count > 0).then_some(left))
    }
}

fn plan(view: &View, now: Timestamp) -> Plan<Action> {
    let Some(namespace) = view.namespace.as_deref().filter(|namespace| !is_active(namespace)) else {
        return Plan::default();
    };
    let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.clone()).unwrap_or_default();
    if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
        return Plan::default();
    }
    if view.left.is_empty() {
        return Plan::of(vec![finalize(namespace, finalizers)]);
    }
    let mut plan = Plan::default();
    // Pods first: while they end they may need what else is here.
    let pods = Target::new::<Pod>("", "").plural;
    let has_pods = view.left.iter().any(|left| left.target.plural == pods);
    let round = view.left.iter().filter(|left| !has_pods || left.target.plural == pods);
    for left in round.filter(|left| left.untouched > 0) {
        plan.push(Action::DeleteAll { target: left.target.clone() });
    }
    plan.again_after(if plan.steps.is_empty() { PATIENCE } else { NEXT_ROUND });
    let mut conditions = namespace.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    tell(&mut conditions, &view.left, now);
    let phase = namespace.status.as_ref().and_then(|status| status.phase.clone());
    let status = NamespaceStatus { phase, conditions: Some(conditions) };
    plan.steps.extend(Action::set_status(namespace, &Namespace { status: Some(status), ..namespace.clone() }));
    plan
}

fn finalize(namespace: &Namespace, mut finalizers: Vec<String>) -> Action {
    finalizers.retain(|finalizer| finalizer != FINALIZER);
    let mut object = namespace.clone();
    object.spec.get_or_insert_default().finalizers = Some(finalizers);
    let object = serde_json::to_value(&object).unwrap_or_default();
    Action::Replace { target: Target::of(namespace).subresource("finalize"), object }
}

/// What cannot go wrong here, said because Kubernetes says it: type, status, reason, message.
const FINE: &[(&str, &str, &str, &str)] = &[
    ("NamespaceDeletionDiscoveryFailure", "False", "ResourcesDiscovered", "All resources successfully discovered"),
    (
        "NamespaceDeletionGroupVersionParsingFailure",
        "False",
        "ParsedGroupVersions",
        "All legacy kube types successfully parsed",
    ),
    (
        "NamespaceDeletionContentFailure",
        "False",
        "ContentDeleted",
        "All content successfully deleted, may be waiting on finalization",
    ),
];

fn tell(conditions: &mut Vec<NamespaceCondition>, left: &[Left], now: Timestamp) {
    let name = |left: &Left| match left.group {
        "" => format!("{}.", left.target.plural),
        group => format!("{}.{group}", left.target.plural),
    };
    let remaining: Vec<_> =
        left.iter().map(|left| format!("{} has {} resource instances", name(left), left.count)).collect();
    let mut waiting = BTreeMap::new();
    for (finalizer, count) in left.iter().flat_map(|left| &left.finalizers) {
        *waiting.entry(finalizer).or_insert(0) += count;
    }
    let waiting: Vec<_> =
        waiting.iter().map(|(finalizer, count)| format!("{finalizer} in {count} resource instances")).collect();
    let finalizers = if waiting.is_empty() {
        ("False", "ContentHasNoFinalizers", "All content-preserving finalizers finished".to_owned())
    } else {
        let list = waiting.join(", ");
        let message = format!("Some content in the namespace has finalizers remaining: {list}");
        ("True", "SomeFinalizersRemain", message)
    };
    let remaining = format!("Some resources are remaining: {}", remaining.join(", "));
    let told = [
        ("NamespaceContentRemaining", "True", "SomeResourcesRemain", remaining.as_str()),
        ("NamespaceFinalizersRemaining", finalizers.0, finalizers.1, &finalizers.2),
    ];
    for (kind, status, reason, message) in FINE.iter().copied().chain(told) {
        set(conditions, kind, status, reason, message, now);
    }
}

fn set(
    conditions: &mut Vec<NamespaceCondition>,
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let old = conditions.iter_mut().find(|condition| condition.type_ == kind);
    let since = old.as_ref().filter(|old| old.status == status);
    let new = NamespaceCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: since.map_or(Some(time(now)), |old| old.last_transition_time.clone()),
    };
    match old {
        Some(old) => *old = new,
        None => conditions.push(new),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn namespace(ending: bool) -> Arc<Namespace> {
        let mut object = json!({"metadata": {"name": "team"}, "spec": {"finalizers": ["kubernetes"]}});
        if ending {
            object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn left(plural: &'static str, untouched: usize) -> Left {
        let target = Target { plural: plural.into(), ..Target::new::<Pod>("team", "") };
        Left { target, group: "", count: 2, untouched, finalizers: BTreeMap::from([("x/y".to_owned(), 1)]) }
    }

    fn steps(left: Vec<Left>, ending: bool) -> Vec<String> {
        let plan = plan(&View { namespace: Some(namespace(ending)), left }, Timestamp::UNIX_EPOCH);
        let say = |action: &Action| match action {
            Action::DeleteAll { target } => format!("delete all {}", target.plural),
            Action::Replace { target, object } => {
                format!("{} {}", target.subresource, object["spec"])
            }
            Action::Patch { patch, .. } => patch["status"]["conditions"][3]["message"].to_string(),
            other => format!("{other:?}"),
        };
        plan.steps.iter().map(say).collect()
    }

    #[test]
    fn pods_go_first_then_the_rest_then_the_namespace() {
        assert!(steps(vec![], false).is_empty());
        let both = || vec![left("pods", 2), left("secrets", 2)];
        let remain =
            "\"Some resources are remaining: pods. has 2 resource instances, secrets. has 2 resource instances\"";
        assert_eq!(steps(both(), true), ["delete all pods", remain]);
        let waiting = steps(vec![left("pods", 0), left("secrets", 2)], true);
        assert_eq!(waiting, [remain], "pods are ending");
        assert_eq!(steps(vec![left("secrets", 2)], true)[0], "delete all secrets");
        assert_eq!(steps(vec![], true), [r#"finalize {"finalizers":[]}"#]);
    }
}

//! The garbage collector: what is owned does not outlive its owners.
//!
//! It knows every object's metadata as a graph by uid, fed by the shared informers. An object whose owners are all
//! gone is deleted; an owner deleted in the foreground waits for those dependents that block it; an owner deleted as
//! an orphaner lets them go first. "Gone" is asked of the API, not of the cache: a dependent's news may overtake its
//! owner's.
use parking_lot::{Mutex, MutexGuard};
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{
    Api, Resource,
    core::{DynamicObject, PartialObjectMeta},
};
use serde_json::json;

use super::{
    Context, Controller, Loop,
    namespace::{resource, target, watched_kinds},
};
use crate::{
    api,
    client::{Action, DeleteOptions, Error, ObjectKey, Plan, Result, Target, WorkQueue},
};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// Subscribes and returns the loop.
pub(super) fn start(context: &Context) -> Loop {
    let graph = Arc::new(Mutex::new(Graph::default()));
    let queue = Arc::new(WorkQueue::default());
    for kind in watched_kinds().filter(|kind| kind.kind != "Event") {
        let (graph, queue) = (graph.clone(), queue.clone());
        context.informers.subscribe_meta(
            &resource(kind),
            Box::new(move |old, new| {
                let woken = lock(&graph).change(kind, old, new);
                woken.into_iter().for_each(|uid| queue.add(uid));
            }),
        );
    }
    context.run(Collector { graph, client: context.client.clone() }, queue)
}

fn lock(graph: &Mutex<Graph>) -> MutexGuard<'_, Graph> {
    graph.lock()
}

/// What the collector knows of an object.
#[derive(Clone)]
struct Item {
    kind: &'static api::Kind,
    key: ObjectKey,
    uid: String,
    version: Option<String>,
    owners: Vec<OwnerReference>,
    finalizers: Vec<String>,
    deleting: bool,
}

impl Item {
    fn new(kind: &'static api::Kind, meta: &ObjectMeta) -> Self {
        Self {
            kind,
            key: ObjectKey::from(meta),
            uid: meta.uid.clone().unwrap_or_default(),
            version: meta.resource_version.clone(),
            owners: meta.owner_references.clone().unwrap_or_default(),
            finalizers: meta.finalizers.clone().unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
        }
    }

    fn has(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|f| f == finalizer)
    }

    /// Being deleted, and waiting for what blocks it.
    fn waits(&self) -> bool {
        self.deleting && self.has(FOREGROUND)
    }

    fn blocks(&self, owner: &str) -> bool {
        self.owners.iter().any(|o| o.uid == owner && o.block_owner_deletion == Some(true))
    }

    fn target(&self) -> Target {
        target(self.kind, self.key.clone())
    }

    fn without_owners(&self, leaves: impl Fn(&OwnerReference) -> bool) -> Action {
        let stay: Vec<_> = self.owners.iter().filter(|owner| !leaves(owner)).collect();
        let patch = json!({ "metadata": { "ownerReferences": stay, "resourceVersion": self.version } });
        Action::patch(self.target(), patch)
    }

    fn without_finalizer(&self, finalizer: &str) -> Action {
        let stay: Vec<_> = self.finalizers.iter().filter(|f| *f != finalizer).collect();
        let patch = json!({ "metadata": { "finalizers": stay, "resourceVersion": self.version } });
        Action::patch(self.target(), patch)
    }
}

/// All objects, and who depends on whom.
#[derive(Default)]
struct Graph {
    items: HashMap<String, Item>,
    dependents: HashMap<String, BTreeSet<String>>,
}

impl Graph {
    /// Learns of a change; says whose turn it is.
    fn change(
        &mut self,
        kind: &'static api::Kind,
        old: Option<&ObjectMeta>,
        new: Option<&ObjectMeta>,
    ) -> BTreeSet<String> {
        let mut woken = BTreeSet::new();
        let same = new.is_some_and(|new| old.is_none_or(|old| old.uid == new.uid));
        if let Some(item) = old.and_then(|old| self.items.remove(old.uid.as_deref()?)) {
            for owner in &item.owners {
                self.unlink(&owner.uid, &item.uid);
                woken.extend(self.items.get(&owner.uid).filter(|owner| owner.waits()).map(|owner| owner.uid.clone()));
            }
            if !same {
                woken.extend(self.dependents_of(&item.uid));
            }
        }
        if let Some(item) = new.map(|new| Item::new(kind, new)) {
            for owner in &item.owners {
                self.dependents.entry(owner.uid.clone()).or_default().insert(item.uid.clone());
            }
            if item.deleting && (item.has(FOREGROUND) || item.has(ORPHAN)) {
                woken.insert(item.uid.clone());
                woken.extend(self.dependents_of(&item.uid));
            }
            if !item.owners.is_empty() && !item.deleting {
                woken.insert(item.uid.clone());
            }
            self.items.insert(item.uid.clone(), item);
        }
        woken
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(dependents) = self.dependents.get_mut(owner) {
            dependents.remove(dependent);
            if dependents.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }

    fn dependents_of(&self, uid: &str) -> Vec<String> {
        self.dependents.get(uid).into_iter().flatten().cloned().collect()
    }
}

struct Collector {
    graph: Arc<Mutex<Graph>>,
    client: kube::Client,
}

/// What is known of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// There, and staying.
    Solid,
    /// There, waiting for its dependents to go.
    Waiting,
    /// Not there (any more).
    Gone,
}

#[derive(Default)]
struct View {
    item: Option<Item>,
    /// In the order of the references.
    owners: Vec<Owner>,
    dependents: Vec<Item>,
}

impl Controller for Collector {
    type Key = String;
    type View = View;
    const NAME: &'static str = "garbage-collector-controller";

    async fn observe(&self, uid: &String) -> Result<View> {
        let (item, known, dependents) = {
            let graph = lock(&self.graph);
            let Some(item) = graph.items.get(uid).cloned() else {
                return Ok(View::default());
            };
            let state = |owner: &OwnerReference| graph.items.get(&owner.uid).map(|owner| owner.waits());
            let known: Vec<_> = item.owners.iter().map(state).collect();
            let dependents = graph.dependents_of(uid);
            let dependents = dependents.iter().filter_map(|uid| graph.items.get(uid).cloned()).collect();
            (item, known, dependents)
        };
        let mut owners = Vec::new();
        for (reference, known) in item.owners.iter().zip(known) {
            owners.push(match known {
                Some(true) => Owner::Waiting,
                Some(false) => Owner::Solid,
                None if self.exists(reference, &item.key.namespace).await? => Owner::Solid,
                None => Owner::Gone,
            });
        }
        Ok(View { item: Some(item), owners, dependents })
    }

    fn plan(&self, _: &String, view: &View, _: Timestamp) -> Plan<Action> {
        plan(view)
    }
}

impl Collector {
    async fn exists(&self, owner: &OwnerReference, namespace: &str) -> Result<bool> {
        let (group, version) = owner.api_version.split_once('/').unwrap_or(("", &owner.api_version));
        // Of a kind that nobody knows nothing can be said; its dependents stay.
        let Some(kind) = api::find_kind(group, version, &owner.kind) else {
            return Ok(true);
        };
        let resource = resource(kind);
        let api: Api<PartialObjectMeta<DynamicObject>> = if kind.namespaced {
            Api::namespaced_with(self.client.clone(), namespace, &resource)
        } else {
            Api::all_with(self.client.clone(), &resource)
        };
        let found = api.get_opt(&owner.name).await;
        let found = found.map_err(|e| Error::api(format!("look for owner {} {}", owner.kind, owner.name), e))?;
        Ok(found.is_some_and(|found| found.meta().uid.as_ref() == Some(&owner.uid)))
    }
}

fn plan(view: &View) -> Plan<Action> {
    let Some(item) = &view.item else {
        return Plan::default();
    };
    if item.deleting {
        return Plan::of(plan_owner(item, &view.dependents));
    }
    let has = |state: Owner| view.owners.contains(&state);
    if !has(Owner::Gone) && !has(Owner::Waiting) {
        return Plan::default();
    }
    if has(Owner::Solid) {
        let state = |owner: &OwnerReference| item.owners.iter().position(|o| o == owner).map(|at| view.owners[at]);
        return Plan::of(vec![item.without_owners(|owner| state(owner) != Some(Owner::Solid))]);
    }
    let propagation = if item.has(ORPHAN) {
        "Orphan"
    } else if item.has(FOREGROUND) || (has(Owner::Waiting) && !view.dependents.is_empty()) {
        "Foreground"
    } else {
        "Background"
    };
    let options = DeleteOptions {
        uid: Some(item.uid.clone()),
        // The owner references are the reason: if they changed, think again.
        resource_version: item.version.clone(),
        grace_seconds: None,
        propagation: Some(propagation),
    };
    Plan::of(vec![Action::Delete { target: item.target(), options, done: None, failed: None }])
}

/// An owner that is being deleted: lets its dependents go, or waits for them.
fn plan_owner(item: &Item, dependents: &[Item]) -> Vec<Action> {
    if item.has(ORPHAN) {
        let release = |dependent: &Item| dependent.without_owners(|owner| owner.uid == item.uid);
        let mut actions: Vec<_> = dependents.iter().map(release).collect();
        actions.push(item.without_finalizer(ORPHAN));
        return actions;
    }
    if item.has(FOREGROUND) && !dependents.iter().any(|dependent| dependent.blocks(&item.uid)) {
        return vec![item.without_finalizer(FOREGROUND)];
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(uid: &str, owners: &[(&str, bool)], finalizers: &[&str], deleting: bool) -> Item {
        let owner = |(uid, blocks): &(&str, bool)| OwnerReference {
            uid: (*uid).to_owned(),
            block_owner_deletion: Some(*blocks),
            ..OwnerReference::default()
        };
        Item {
            kind: &api::kinds()[0],
            key: ObjectKey::new("ns", uid),
            uid: uid.to_owned(),
            version: Some("7".to_owned()),
            owners: owners.iter().map(owner).collect(),
            finalizers: finalizers.iter().map(|f| (*f).to_owned()).collect(),
            deleting,
        }
    }

    fn steps(item: Item, owners: &[Owner], dependents: Vec<Item>) -> Vec<String> {
        let plan = plan(&View { item: Some(item), owners: owners.to_vec(), dependents });
        let say = |action: Action| match action {
            Action::Delete { target, options, .. } => {
                format!("delete {} {}", target.name, options.propagation.unwrap_or_default())
            }
            Action::Patch { target, patch } => {
                format!("patch {} {}", target.name, patch["metadata"])
            }
            other => format!("{other:?}"),
        };
        plan.steps.into_iter().map(say).collect()
    }

    #[test]
    fn an_object_lives_as_long_as_one_owner() {
        let two = || item("a", &[("x", true), ("y", true)], &[], false);
        assert!(steps(two(), &[Owner::Solid, Owner::Solid], vec![]).is_empty());
        assert_eq!(steps(two(), &[Owner::Gone, Owner::Gone], vec![]), ["delete a Background"]);
        let patch = steps(two(), &[Owner::Gone, Owner::Solid], vec![]).remove(0);
        assert!(patch.contains("\"uid\":\"y\"") && !patch.contains("\"uid\":\"x\""), "{patch}");
    }

    #[test]
    fn a_foreground_deletion_goes_down_the_tree_and_comes_back_up() {
        let owner = || item("o", &[], &[FOREGROUND], true);
        let middle = |deleting| item("m", &[("o", true)], if deleting { &[FOREGROUND] } else { &[] }, deleting);
        let leaf = || item("l", &[("m", true)], &[], false);
        assert!(steps(owner(), &[], vec![middle(false)]).is_empty(), "waits");
        assert_eq!(steps(middle(false), &[Owner::Waiting], vec![leaf()]), ["delete m Foreground"]);
        assert_eq!(steps(leaf(), &[Owner::Waiting], vec![]), ["delete l Background"]);
        assert_eq!(steps(middle(true), &[Owner::Waiting], vec![]).len(), 1, "its finalizer goes");
        let unblocking = item("m", &[("o", false)], &[], true);
        assert_eq!(steps(owner(), &[], vec![unblocking]).len(), 1);
    }

    #[test]
    fn orphans_are_let_go_before_their_owner() {
        let steps = steps(item("o", &[], &[ORPHAN], true), &[], vec![item("d", &[("o", true)], &[], false)]);
        assert_eq!(
            steps,
            [
                r#"patch d {"ownerReferences":[],"resourceVersion":"7"}"#,
                r#"patch o {"finalizers":[],"resourceVersion":"7"}"#
            ]
        );
    }
}

//! Who owns what: by owner reference, and by selector for those without an owner.
use std::fmt::Debug;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::{
    Resource,
    core::{Selector, SelectorExt},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::client::{Action, Change, Informer, ObjectKey, controller_of, meta_labels, owner_reference};

/// The index of objects by the uid of their controller; those without one under [`orphans`] of their namespace.
pub(super) const BY_OWNER: &str = "owner";

/// The keys of the index [`BY_OWNER`].
pub(super) fn owner_keys<K: Resource>(object: &K) -> Vec<String> {
    let meta = object.meta();
    vec![match controller_of(meta) {
        Some(owner) => owner.uid.clone(),
        None => orphans(meta.namespace.as_deref().unwrap_or_default()),
    }]
}

/// Where [`BY_OWNER`] files the ownerless of a namespace.
pub(super) fn orphans(namespace: &str) -> String {
    format!("orphans/{namespace}")
}

/// A selector that can be asked; one that is broken or empty selects nothing (the API refuses to store either).
pub(super) fn selector(of: &LabelSelector) -> Option<Selector> {
    Selector::try_from(of.clone()).ok().filter(|selector| !selector.selects_all())
}

/// Whether `selector` selects an object.
pub(super) fn selects(selector: Option<&Selector>, meta: &ObjectMeta) -> bool {
    selector.is_some_and(|selector| selector.matches(meta_labels(meta)))
}

/// The owners of kind `O` that a changed object concerns: its controllers, or all that may want to adopt it.
pub(super) fn woken_by<O, K>(
    change: &Change<K>,
    owners: &Informer<O>,
    selector: fn(&O) -> Option<Selector>,
) -> Vec<ObjectKey>
where
    O: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    K: Resource,
{
    let mut keys = Vec::new();
    for meta in change.either().map(|object| object.meta()) {
        let namespace = meta.namespace.clone().unwrap_or_default();
        match controller_of(meta) {
            Some(owner) if owner.kind == O::kind(&()) => keys.push(ObjectKey::new(namespace, &owner.name)),
            Some(_) => {}
            None => {
                let all = owners.list_in(&namespace);
                let wanting = all.iter().filter(|owner| selects(selector(owner).as_ref(), meta));
                keys.extend(wanting.map(|owner| ObjectKey::of(owner.as_ref())));
            }
        }
    }
    keys
}

/// What to do so that the owner's references say what its selector says: adopts the ownerless that match (unless
/// either is being deleted), releases the owned that do not.
pub(super) fn claim<O, K>(owner: &O, selector: Option<&Selector>, objects: &[impl AsRef<K>]) -> Vec<Action>
where
    O: Resource<DynamicType = ()>,
    K: Resource<DynamicType = ()> + Serialize + Clone,
{
    let Some(uid) = owner.meta().uid.as_deref() else {
        return Vec::new();
    };
    let owner_stays = owner.meta().deletion_timestamp.is_none();
    let mut actions = Vec::new();
    for object in objects.iter().map(AsRef::as_ref) {
        let meta = object.meta();
        if meta.deletion_timestamp.is_some() {
            continue;
        }
        let mut new = object.clone();
        match controller_of(meta) {
            None if owner_stays && selects(selector, meta) => {
                new.meta_mut().owner_references.get_or_insert_default().push(owner_reference(owner));
            }
            Some(controller) if controller.uid == uid && !selects(selector, meta) => {
                new.meta_mut().owner_references.iter_mut().for_each(|owners| owners.retain(|o| o.uid != uid));
            }
            _ => continue,
        }
        actions.extend(Action::update(object, &new));
    }
    actions
}

/// Whether `owner` is the object's controller and still selects it.
pub(super) fn is_claimed<O: Resource>(owner: &O, selector: Option<&Selector>, meta: &ObjectMeta) -> bool {
    controller_of(meta).is_some_and(|controller| Some(&controller.uid) == owner.meta().uid.as_ref())
        && selects(selector, meta)
}

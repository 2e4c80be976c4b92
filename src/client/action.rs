//! Steps against the API, as data that can be compared and printed.
use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Note, ObjectKey};

/// What in the API a step is about: a kind, a namespace, a name (empty when the server shall choose one), and perhaps
/// a subresource.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Target {
    /// As in manifests: "v1", "apps/v1".
    pub api_version: Cow<'static, str>,
    /// "Pod".
    pub kind: Cow<'static, str>,
    /// "pods".
    pub plural: Cow<'static, str>,
    /// Empty for cluster-scoped kinds.
    pub namespace: String,
    /// Empty when creating with `generateName`, and for collections.
    pub name: String,
    /// "status", "binding", …; empty for the object itself.
    pub subresource: &'static str,
}

impl Target {
    /// An object of a kind known at compile time.
    pub fn new<K: Resource<DynamicType = ()>>(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            api_version: K::api_version(&()).into_owned().into(),
            kind: K::kind(&()).into_owned().into(),
            plural: K::plural(&()).into_owned().into(),
            namespace: namespace.into(),
            name: name.into(),
            subresource: "",
        }
    }

    /// `object` itself.
    pub fn of<K: Resource<DynamicType = ()>>(object: &K) -> Self {
        let key = ObjectKey::of(object);
        Self::new::<K>(key.namespace, key.name)
    }

    /// The same object's subresource.
    pub fn subresource(self, subresource: &'static str) -> Self {
        Self { subresource, ..self }
    }

    /// Namespace and name.
    pub fn key(&self) -> ObjectKey {
        ObjectKey::new(self.namespace.clone(), self.name.clone())
    }

    /// The path below the server's root, without the name: "/apis/apps/v1/namespaces/default/replicasets".
    pub fn collection(&self) -> String {
        let root = if self.api_version.contains('/') { "apis" } else { "api" };
        let scope = if self.namespace.is_empty() { String::new() } else { format!("/namespaces/{}", self.namespace) };
        format!("/{root}/{}{scope}/{}", self.api_version, self.plural)
    }

    /// The path of the object or its subresource.
    pub fn path(&self) -> String {
        let mut path = self.collection();
        for part in [self.name.as_str(), self.subresource].into_iter().filter(|part| !part.is_empty()) {
            path.push('/');
            path.push_str(part);
        }
        path
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.plural, self.key())?;
        if !self.subresource.is_empty() {
            write!(f, " ({})", self.subresource)?;
        }
        Ok(())
    }
}

/// One step of a plan against the API.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// POST; to a subresource such as "binding" when the target names one. In the notes `{name}` stands for the name
    /// that the server gave and `{error}` for its refusal.
    Create { target: Target, object: Value, done: Option<Note>, failed: Option<Note> },
    /// PUT of a whole object with its resourceVersion.
    Replace { target: Target, object: Value },
    /// PATCH with an RFC 7386 merge patch. With `metadata.resourceVersion` in it, it conflicts instead of overwriting.
    Patch { target: Target, patch: Value },
    /// DELETE. Gone already counts as done.
    Delete { target: Target, options: DeleteOptions, done: Option<Note>, failed: Option<Note> },
    /// DELETE of everything of a kind in a namespace.
    DeleteAll { target: Target },
    /// Says something about an object, to people.
    Event(Note),
}

/// What a deletion insists on.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeleteOptions {
    /// Only if it is still this object and not another of the same name.
    pub uid: Option<String>,
    /// Only if nothing has changed.
    pub resource_version: Option<String>,
    /// Seconds a pod gets to end; `None` leaves it to the pod.
    pub grace_seconds: Option<i64>,
    /// "Background", "Foreground", "Orphan".
    pub propagation: Option<&'static str>,
}

impl Action {
    /// Creates `object`, whose metadata says where.
    pub fn create<K: Resource<DynamicType = ()> + Serialize>(object: &K) -> Self {
        let target = Target::of(object);
        Self::Create { target, object: to_value(object), done: None, failed: None }
    }

    /// Patches what differs between `old` and `new` outside of status; nothing when nothing does. Conflicts when
    /// somebody changed the object since `old`.
    pub fn update<K: Resource<DynamicType = ()> + Serialize>(old: &K, new: &K) -> Option<Self> {
        let strip = |object: &K| {
            let mut value = to_value(object);
            if let Some(fields) = value.as_object_mut() {
                fields.remove("status");
            }
            value
        };
        let patch = with_version(merge_diff(&strip(old), &strip(new))?, old.meta());
        Some(Self::Patch { target: Target::of(old), patch })
    }

    /// Patches what differs between the status of `old` and that of `new`; nothing when nothing does. Conflicts when
    /// somebody changed the object since `old`.
    pub fn update_status<K: Resource<DynamicType = ()> + Serialize>(old: &K, new: &K) -> Option<Self> {
        let status = |object: &K| to_value(object).get("status").cloned().unwrap_or_else(|| json!({}));
        let patch = merge_diff(&status(old), &status(new))?;
        let patch = with_version(json!({ "status": patch }), old.meta());
        Some(Self::Patch { target: Target::of(old).subresource("status"), patch })
    }

    /// As [`update_status`](Self::update_status), but overwrites: for a status that has one writer only.
    pub fn set_status<K: Resource<DynamicType = ()> + Serialize>(old: &K, new: &K) -> Option<Self> {
        let mut action = Self::update_status(old, new)?;
        if let Self::Patch { patch, .. } = &mut action
            && let Some(fields) = patch.as_object_mut()
        {
            fields.remove("metadata");
        }
        Some(action)
    }

    /// Merge-patches `target` whatever its version.
    pub fn patch(target: Target, patch: Value) -> Self {
        Self::Patch { target, patch }
    }

    /// Deletes exactly this object (by uid), as its own grace period says.
    pub fn delete<K: Resource<DynamicType = ()>>(object: &K) -> Self {
        let options = DeleteOptions { uid: object.meta().uid.clone(), ..DeleteOptions::default() };
        Self::Delete { target: Target::of(object), options, done: None, failed: None }
    }

    /// The same step, announcing its success and failure.
    pub fn announced(mut self, when_done: Note, when_failed: Note) -> Self {
        if let Self::Create { done, failed, .. } | Self::Delete { done, failed, .. } = &mut self {
            *done = Some(when_done);
            *failed = Some(when_failed);
        }
        self
    }

    /// Whether two neighbouring steps may be performed at once: the same verb on different objects of one kind.
    pub fn independent(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Create { target: a, .. }, Self::Create { target: b, .. })
            | (Self::Delete { target: a, .. }, Self::Delete { target: b, .. })
            | (Self::DeleteAll { target: a }, Self::DeleteAll { target: b }) => {
                a.plural == b.plural && (a.name.is_empty() || a.key() != b.key())
                    || matches!(self, Self::DeleteAll { .. })
            }
            _ => false,
        }
    }
}

fn to_value<K: Serialize>(object: &K) -> Value {
    // Objects of the API are JSON by definition; failing here would be a bug in k8s-openapi.
    serde_json::to_value(object).unwrap_or(Value::Null)
}

fn with_version(mut patch: Value, meta: &ObjectMeta) -> Value {
    if let Some(version) = &meta.resource_version {
        patch["metadata"]["resourceVersion"] = json!(version);
    }
    patch
}

/// The RFC 7386 merge patch that makes `new` of `old`; `None` when they are equal. An empty object or list counts as
/// absent, as the API drops it on the way.
pub fn merge_diff(old: &Value, new: &Value) -> Option<Value> {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            let mut patch = Map::new();
            for (name, value) in new {
                if let Some(change) = merge_diff(old.get(name).unwrap_or(&Value::Null), value) {
                    patch.insert(name.clone(), change);
                }
            }
            for name in old.keys().filter(|name| !new.contains_key(*name)) {
                patch.insert(name.clone(), Value::Null);
            }
            (!patch.is_empty()).then_some(Value::Object(patch))
        }
        (Value::Null, Value::Object(fields)) if fields.is_empty() => None,
        (Value::Null, Value::Array(items)) if items.is_empty() => None,
        _ => (old != new).then(|| new.clone()),
    }
}

impl DeleteOptions {
    pub(super) fn body(&self) -> Value {
        // The API reads null as absent.
        json!({
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": { "uid": self.uid, "resourceVersion": self.resource_version },
            "gracePeriodSeconds": self.grace_seconds,
            "propagationPolicy": self.propagation,
        })
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Node, Pod};

    use super::*;

    #[test]
    fn targets_know_their_paths() {
        let pod = Target::new::<Pod>("ns", "a");
        assert_eq!(pod.path(), "/api/v1/namespaces/ns/pods/a");
        assert_eq!(pod.subresource("binding").path(), "/api/v1/namespaces/ns/pods/a/binding");
        assert_eq!(Target::new::<Node>("", "n").path(), "/api/v1/nodes/n");
        let set = Target::new::<k8s_openapi::api::apps::v1::ReplicaSet>("ns", "");
        assert_eq!(set.path(), "/apis/apps/v1/namespaces/ns/replicasets");
    }

    #[test]
    fn a_merge_diff_is_the_smallest_patch_that_leads_there() {
        let old = json!({"a": 1, "b": {"c": [1, 2], "d": "x"}, "gone": true, "same": {"e": 1}});
        let new = json!({"a": 1, "b": {"c": [1], "d": "x"}, "same": {"e": 1}, "new": {"f": null}, "empty": []});
        let patch = merge_diff(&old, &new).unwrap();
        assert_eq!(patch, json!({"b": {"c": [1]}, "gone": null, "new": {"f": null}}));
        assert_eq!(merge_diff(&new, &new), None);
    }

    #[test]
    fn an_unchanged_status_needs_no_action() {
        let pod: Pod = serde_json::from_value(
            json!({"metadata": {"name": "a", "resourceVersion": "7"}, "status": {"phase": "Running"}}),
        )
        .unwrap();
        let mut new = pod.clone();
        assert_eq!(Action::update_status(&pod, &new), None);
        new.status.as_mut().unwrap().phase = Some("Failed".into());
        let Some(Action::Patch { patch, target }) = Action::update_status(&pod, &new) else { panic!() };
        assert_eq!(patch, json!({"status": {"phase": "Failed"}, "metadata": {"resourceVersion": "7"}}));
        assert_eq!(target.subresource, "status");
    }
}

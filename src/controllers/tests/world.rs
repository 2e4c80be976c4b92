//! A small fake world for tests: performs actions on objects in memory, so that a plan can be planned again.
use std::collections::BTreeMap;

use kube::Resource;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::sync::Arc;

use crate::client::{Action, Target};

/// Objects by their path.
#[derive(Default)]
pub(in crate::controllers) struct World {
    objects: BTreeMap<String, Value>,
    version: u64,
    /// What was told, as "Reason: message".
    pub events: Vec<String>,
}

impl World {
    /// Puts an object there, as the API would store it.
    pub fn put<K: Resource<DynamicType = ()> + Serialize>(&mut self, object: &K) {
        let target = Target::of(object);
        let mut value = serde_json::to_value(object).unwrap();
        self.stamp(&mut value);
        self.objects.insert(target.path(), value);
    }

    fn stamp(&mut self, value: &mut Value) {
        self.version += 1;
        let version = self.version;
        let meta = &mut value["metadata"];
        meta["resourceVersion"] = json!(version.to_string());
        if meta["uid"].is_null() {
            meta["uid"] = json!(format!("uid-{version}"));
            meta["generation"] = json!(1);
            let created = jiff::Timestamp::from_second(1_700_000_000 + version as i64).unwrap();
            meta["creationTimestamp"] = json!(created.to_string());
        }
    }

    /// All objects of a kind.
    pub fn list<K: Resource<DynamicType = ()> + DeserializeOwned>(&self) -> Vec<Arc<K>> {
        let plural = format!("/{}/", K::plural(&()));
        let of_kind = self.objects.iter().filter(|(path, _)| path.contains(&plural));
        of_kind.map(|(_, value)| Arc::new(serde_json::from_value(value.clone()).unwrap())).collect()
    }

    /// Changes every object of a kind.
    pub fn change<K>(&mut self, mut change: impl FnMut(&mut K))
    where
        K: Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone,
    {
        for old in self.list::<K>() {
            let mut new = old.as_ref().clone();
            change(&mut new);
            self.put(&new);
        }
    }

    /// Performs actions as the API would.
    pub fn perform(&mut self, actions: &[Action]) {
        actions.iter().for_each(|action| self.act(action));
    }

    fn act(&mut self, action: &Action) {
        match action {
            Action::Create { target, object, done, .. } => {
                let mut object = object.clone();
                let prefix = object["metadata"]["generateName"].as_str().unwrap_or_default().to_owned();
                if target.name.is_empty() {
                    object["metadata"]["name"] = json!(format!("{prefix}{:05}", self.version + 1));
                }
                self.stamp(&mut object);
                let name = object["metadata"]["name"].as_str().unwrap().to_owned();
                if let Some(note) = done {
                    self.events.push(format!("{}: {}", note.reason, note.message.replace("{name}", &name)));
                }
                let path = Target { name, ..target.clone() }.path();
                assert!(self.objects.insert(path, object).is_none(), "created twice");
            }
            Action::Patch { target, patch } => {
                let path = Target { subresource: "", ..target.clone() }.path();
                let mut object = self.objects[&path].clone();
                if let Some(version) = patch["metadata"].get("resourceVersion") {
                    assert_eq!(version, &object["metadata"]["resourceVersion"], "conflict on {target}");
                }
                let old = object.get("spec").cloned();
                json_patch::merge(&mut object, patch);
                if old.as_ref() != object.get("spec") {
                    let generation = object["metadata"]["generation"].as_i64().unwrap_or(0);
                    object["metadata"]["generation"] = json!(generation + 1);
                }
                self.stamp(&mut object);
                self.objects.insert(path, object);
            }
            Action::Delete { target, done, .. } => {
                assert!(self.objects.remove(&target.path()).is_some(), "deleted what is not there");
                self.events.extend(done.iter().map(|note| format!("{}: {}", note.reason, note.message)));
            }
            Action::Event(note) => self.events.push(format!("{}: {}", note.reason, note.message)),
            Action::Replace { .. } | Action::DeleteAll { .. } => {
                panic!("not in this world: {action:?}")
            }
        }
    }
}

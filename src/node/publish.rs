//! Brings statuses to the API: the newest only, and only if it differs from what was written.
use super::{
    Node, NodeError,
    entry::{self, Entry},
    status::{OWN_CONDITIONS, status},
};
use crate::client::{self, Plan, Reconcile};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use std::sync::Arc;

/// Fields of a status, and of a condition, that may go away again: a patch must say so.
const VANISHING: [&str; 6] = ["reason", "message", "podIP", "podIPs", "initContainerStatuses", "containerStatuses"];
const VANISHING_OF_CONDITION: [&str; 2] = ["reason", "message"];

/// The reconciler of statuses; a step carries nothing, because what counts is what is wanted when it is performed.
pub struct Publisher(pub Arc<Node>);

impl Reconcile for Publisher {
    type Key = String;
    type View = bool;
    type Step = ();

    fn name(&self) -> &'static str {
        "node-status"
    }

    async fn observe(&self, uid: &String) -> client::Result<bool> {
        Ok(self.0.pods.get(uid).is_some_and(|entry| entry.wanted != entry.written))
    }

    fn plan(&self, _: &String, outdated: &bool, _: Timestamp) -> Plan<()> {
        Plan::of(if *outdated { vec![()] } else { Vec::new() })
    }

    async fn perform(&self, uid: &String, _: &()) -> client::Result<()> {
        self.0.write_status(uid).await.map_err(client::Error::step)
    }
}

impl Node {
    /// Works out what the status of a pod should be now.
    pub(super) fn publish(&self, uid: &str, now: Timestamp) {
        let (policy, host) = (self.policy(), self.host_ip());
        let news = self.pods.with(uid, |entry| {
            if entry.seen.gone || entry.seen.settled {
                return false;
            }
            let old = conditions(entry.wanted.as_ref(), &entry.pod);
            let status = status(&entry.pod, &entry.seen, &policy, &old, host, now);
            let news = entry.wanted.as_ref() != Some(&status);
            entry.wanted = Some(status);
            news
        });
        if news == Some(true) {
            self.outbox.add(uid.to_string());
        }
    }

    /// Told by the watch, or found after a write whose answer came later than the news of what followed it.
    pub(super) fn write_again_if_overwritten(&self, uid: &str, entry: &mut Entry) {
        if entry.is_overwritten() {
            entry.written = None;
            self.outbox.add(uid.to_string());
        }
    }

    /// Writes the wanted status, if it is not what was written last.
    pub(super) async fn write_status(&self, uid: &str) -> Result<(), NodeError> {
        let Some(writing) = self.pods.with(uid, |entry| entry.writing.clone()) else {
            return Ok(());
        };
        let _turn = writing.lock().await;
        let Some(entry) = self.pods.get(uid) else {
            return Ok(());
        };
        let Some(wanted) = entry.wanted.filter(|wanted| entry.written.as_ref() != Some(wanted)) else {
            return Ok(());
        };
        let patch = patch(uid, &wanted).map_err(|e| NodeError::Later(e.to_string()))?;
        let name = super::spec::name(&entry.pod);
        let api = self.pods_api(&entry.pod);
        let version = match api.patch_status(name, &PatchParams::default(), &Patch::Strategic(&patch)).await {
            Ok(pod) => entry::version(&pod),
            Err(error) => {
                let error = client::Error::api(format!("patch status of pod {name}"), error);
                // Gone, or another pod has the name: nobody is left to tell.
                if !error.is_not_found() && !error.is_conflict() {
                    return Err(error.into());
                }
                entry.version
            }
        };
        self.pods.with(uid, |entry| {
            (entry.written, entry.version) = (Some(wanted), version);
            self.write_again_if_overwritten(uid, entry);
        });
        Ok(())
    }
}

/// Our own conditions as last worked out, those of others as the API has them.
fn conditions(wanted: Option<&PodStatus>, pod: &Pod) -> Vec<PodCondition> {
    let list = |status: Option<&PodStatus>| status.and_then(|s| s.conditions.clone()).unwrap_or_default();
    let mut all = list(pod.status.as_ref());
    for ours in list(wanted).into_iter().take(OWN_CONDITIONS) {
        match all.iter_mut().find(|c| c.type_ == ours.type_) {
            Some(old) => *old = ours,
            None => all.push(ours),
        }
    }
    all
}

/// A strategic merge patch with the conditions that are ours: those that others set meanwhile stay.
fn patch(uid: &str, status: &PodStatus) -> Result<Value, serde_json::Error> {
    let mut value = serde_json::to_value(status)?;
    each_null(&mut value, &VANISHING);
    for list in ["podIPs", "hostIPs"] {
        if let Some(addresses) = value[list].as_array_mut() {
            addresses.insert(0, json!({"$patch": "replace"}));
        }
    }
    let order: Vec<Value> = status.conditions.iter().flatten().map(|c| json!({"type": c.type_})).collect();
    value["$setElementOrder/conditions"] = order.into();
    if let Some(conditions) = value["conditions"].as_array_mut() {
        conditions.truncate(OWN_CONDITIONS);
        conditions.iter_mut().for_each(|condition| each_null(condition, &VANISHING_OF_CONDITION));
    }
    // The uid makes the API refuse the status of a pod that has the name but is another.
    Ok(json!({"metadata": {"uid": uid}, "status": value}))
}

/// Says of each that it is not there, unless it is.
fn each_null(object: &mut Value, names: &[&str]) {
    if let Some(fields) = object.as_object_mut() {
        for name in names {
            fields.entry(*name).or_insert(Value::Null);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_conditions_are_patched_and_what_is_gone_is_said() {
        let of = |kind: &str| PodCondition { type_: kind.into(), status: "True".into(), ..PodCondition::default() };
        let kinds = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "example.com/Theirs"];
        let ip = k8s_openapi::api::core::v1::PodIP { ip: "10.244.1.2".into() };
        let status =
            PodStatus { conditions: Some(kinds.map(of).into()), pod_ips: Some(vec![ip]), ..PodStatus::default() };
        let patch = patch("u", &status).unwrap();
        let conditions = patch["status"]["conditions"].as_array().unwrap();
        assert_eq!(conditions.len(), OWN_CONDITIONS);
        assert_eq!(conditions[2], json!({"type": "Ready", "status": "True", "reason": null, "message": null}));
        assert_eq!(patch["status"]["$setElementOrder/conditions"].as_array().unwrap().len(), kinds.len());
        assert_eq!(patch["status"]["podIPs"], json!([{"$patch": "replace"}, {"ip": "10.244.1.2"}]));
        assert!(patch["status"]["message"].is_null() && patch["status"].get("message").is_some());
    }
}

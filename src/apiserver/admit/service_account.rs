//! Every pod runs as a service account and finds its token in a well-known place.
use std::time::Duration;

use serde_json::{Value, json};

use crate::api::{ApiError, find, meta};
use crate::apiserver::ApiServer;
use crate::apiserver::registry;
use crate::store::Entry;

/// Where every container finds the token, the authority's certificate and the namespace.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Lifetime of the token in the volume; the node renews it well before.
const TOKEN_SECONDS: u64 = 3607;
/// A new namespace has its default account a moment after it is made; a pod that comes with it waits this long.
const ACCOUNT_WAIT: Duration = Duration::from_secs(5);

impl ApiServer {
    /// Names the account, and mounts its token unless pod or account declines.
    pub(super) async fn admit_service_account(&self, namespace: &str, pod: &mut Value) -> Result<(), ApiError> {
        let spec = meta::map_mut(pod, &["spec"]);
        let asked = spec.get("serviceAccountName").and_then(Value::as_str);
        let account = match asked {
            None | Some("") => "default".to_owned(),
            Some(name) => name.to_owned(),
        };
        spec.insert("serviceAccountName".into(), account.clone().into());
        spec.insert("serviceAccount".into(), account.clone().into());
        let Some(found) = self.account(namespace, &account).await? else {
            let why =
                format!("error looking up service account {namespace}/{account}: serviceaccount {account:?} not found");
            return Err(ApiError::forbidden("", "pods", meta::name(pod), &why));
        };
        let declines = |object: &Value| object["automountServiceAccountToken"].as_bool();
        if declines(&pod["spec"]).or(declines(&found)).unwrap_or(true) {
            mount_token(pod);
        }
        Ok(())
    }

    /// The account, waited for if it is not there yet.
    async fn account(&self, namespace: &str, name: &str) -> Result<Option<Value>, ApiError> {
        let kind = find("", "v1", "serviceaccounts").ok_or_else(ApiError::unknown_path)?;
        let key = registry::key(kind, namespace, name);
        if let Some(entry) = self.store.get(&key) {
            return registry::decode(kind, &entry).map(Some);
        }
        let (range, mut watch) = self.store.range_and_watch(&key).map_err(ApiError::internal)?;
        let appeared = async {
            loop {
                let event = watch.next().await.ok()?;
                if event.entry.key() == key && !event.deleted {
                    return Some(event.entry);
                }
            }
        };
        let there = range.entries.into_iter().find(|e: &Entry| e.key() == key);
        let entry = match there {
            Some(entry) => Some(entry),
            None => tokio::time::timeout(ACCOUNT_WAIT, appeared).await.unwrap_or(None),
        };
        entry.map(|e| registry::decode(kind, &e)).transpose()
    }
}

fn mount_token(pod: &mut Value) {
    let is_mounted = |c: &Value| meta::list(c, &["volumeMounts"]).iter().any(|m| m["mountPath"] == MOUNT_PATH);
    let lists = ["initContainers", "containers"];
    let all = lists.iter().flat_map(|l| meta::list(pod, &["spec", l]));
    if all.clone().next().is_none() || all.clone().all(is_mounted) {
        return;
    }
    let name = meta::generated_name("kube-api-access-", rand::random());
    for list in lists {
        let pointer = format!("/spec/{list}");
        let containers = pod.pointer_mut(&pointer).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            if is_mounted(container) {
                continue;
            }
            let map = meta::map_mut(container, &[]);
            let mounts = map.entry("volumeMounts").or_insert_with(|| json!([]));
            if let Some(mounts) = mounts.as_array_mut() {
                mounts.push(json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH}));
            }
        }
    }
    let spec = meta::map_mut(pod, &["spec"]);
    let volumes = spec.entry("volumes").or_insert_with(|| json!([]));
    if let Some(volumes) = volumes.as_array_mut() {
        volumes.push(token_volume(&name));
    }
}

fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{
            "path": "namespace",
            "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
        }]}},
    ]}})
}

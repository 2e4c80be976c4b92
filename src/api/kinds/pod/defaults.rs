//! What Kubernetes fills into a pod (and into a pod template).
use crate::api::kinds::common::{each_mut, fill};
use crate::api::meta;
use serde_json::{Value, json};

/// Defaults of a Pod: those of its spec, and two that templates do not get.
pub fn pod(pod: &mut Value) {
    fill(pod, "spec", json!({"enableServiceLinks": true}));
    for containers in ["spec.initContainers.*", "spec.containers.*"] {
        each_mut(pod, containers, &mut requests_from_limits);
    }
    each_mut(pod, "spec", &mut spec);
}

/// Defaults of the template at `path`.
pub fn template(owner: &mut Value, path: &str) {
    fill(owner, path, json!({"metadata": {}}));
    each_mut(owner, &format!("{path}.spec"), &mut spec);
}

fn spec(spec: &mut Value) {
    fill(
        spec,
        "",
        json!({
            "dnsPolicy": "ClusterFirst",
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 30,
            "schedulerName": "default-scheduler",
            "securityContext": {},
        }),
    );
    account(spec);
    let host_network = meta::at(spec, &["hostNetwork"]) == Some(&Value::Bool(true));
    for containers in ["initContainers.*", "containers.*", "ephemeralContainers.*"] {
        each_mut(spec, containers, &mut |container| self::container(container, host_network));
    }
    each_mut(spec, "volumes.*", &mut volume);
}

/// `serviceAccount` is the old name of `serviceAccountName`; both are kept equal.
pub fn account(spec: &mut Value) {
    let names = ["serviceAccountName", "serviceAccount"];
    let Some(name) = names.iter().map(|field| meta::text(spec, &[field])).find(|name| !name.is_empty()) else {
        return;
    };
    let name = name.to_string();
    names.iter().for_each(|field| spec[field] = name.as_str().into());
}

fn container(container: &mut Value, host_network: bool) {
    let policy = pull_policy(meta::text(container, &["image"]));
    fill(
        container,
        "",
        json!({
            "imagePullPolicy": policy,
            "terminationMessagePath": "/dev/termination-log",
            "terminationMessagePolicy": "File",
            "resources": {},
        }),
    );
    fill(container, "ports.*", json!({"protocol": "TCP"}));
    each_mut(container, "ports.*", &mut |port| {
        if let (true, Some(number)) = (host_network, port.get("containerPort").cloned()) {
            fill(port, "", json!({"hostPort": number}));
        }
    });
    fill(container, "env.*.valueFrom.fieldRef", json!({"apiVersion": "v1"}));
    let probe = json!({"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3});
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        // Their 0 is Go's for “not said”. (That of the other numbers, which may be nil, is an amount.)
        each_mut(container, field, &mut |found| {
            if let Some(map) = found.as_object_mut() {
                map.retain(|field, value| *value != 0 || probe.get(field).is_none());
            }
        });
        fill(container, field, probe.clone());
        handler(container, field);
    }
    handler(container, "lifecycle.postStart");
    handler(container, "lifecycle.preStop");
}

fn handler(container: &mut Value, path: &str) {
    fill(container, &format!("{path}.httpGet"), json!({"path": "/", "scheme": "HTTP"}));
    fill(container, &format!("{path}.grpc"), json!({"service": ""}));
}

/// `Always` for `latest` (said or implied), else `IfNotPresent`.
fn pull_policy(image: &str) -> &'static str {
    if image.contains('@') {
        return "IfNotPresent";
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    match last.split_once(':') {
        None | Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
    }
}

fn requests_from_limits(container: &mut Value) {
    if let Some(limits @ Value::Object(_)) = meta::at(container, &["resources", "limits"]).cloned() {
        fill(container, "resources", json!({"requests": {}}));
        fill(container, "resources.requests", limits);
    }
}

fn volume(volume: &mut Value) {
    if volume.as_object().is_some_and(|map| map.keys().all(|key| key == "name")) {
        volume["emptyDir"] = json!({});
    }
    for source in ["configMap", "secret", "downwardAPI", "projected"] {
        fill(volume, source, json!({"defaultMode": 0o644}));
    }
    fill(volume, "hostPath", json!({"type": ""}));
    fill(volume, "projected.sources.*.serviceAccountToken", json!({"expirationSeconds": 3600}));
    for field in ["downwardAPI.items.*.fieldRef", "projected.sources.*.downwardAPI.items.*.fieldRef"] {
        fill(volume, field, json!({"apiVersion": "v1"}));
    }
}

//! What a pod can ask for that this version does not do: refused, or at least said. Doing it is deleting its row here.
use crate::api::kinds::check::At;
use serde_json::Value;

/// Sentence of a refusal.
const NOT_HERE: &str = "not supported by this version of coracle";

/// Fields of the spec without which the pod would not be what its author means: refused.
const REFUSED: &[&str] = &[
    "ephemeralContainers",
    "hostIPC",
    "hostPID",
    "hostnameOverride",
    "resourceClaims",
    "resources",
    "runtimeClassName",
    "schedulingGates",
    "shareProcessNamespace",
];

/// Fields of the spec that are kept but have no effect: warned about.
const IGNORED: &[&str] = &["priorityClassName", "overhead", "setHostnameAsFQDN"];

/// The same in security contexts.
const IGNORED_SECURITY: &[&str] = &["seLinuxOptions", "appArmorProfile", "windowsOptions"];
/// Volume sources that can be mounted.
pub const VOLUMES: &[&str] = &["emptyDir", "hostPath", "configMap", "secret", "downwardAPI", "projected"];

/// Sources of projected volumes that can be mounted.
const PROJECTED: &[&str] = &["configMap", "secret", "downwardAPI", "serviceAccountToken"];

fn set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        Value::String(text) => !text.is_empty(),
        _ => true,
    }
}

/// Refusals for a pod's spec.
pub fn refuse(spec: &At) {
    for field in REFUSED.iter().filter(|field| set(spec.child(field).value)) {
        spec.child(field).forbidden(NOT_HERE);
    }
    if spec.value["hostUsers"] == false {
        spec.child("hostUsers").forbidden(NOT_HERE);
    }
    if spec.text("os.name") == "windows" {
        spec.child("os.name").forbidden(NOT_HERE);
    }
    // Running without the filter that was asked for would be running unconfined.
    let local = |place: &At| {
        if place.text("securityContext.seccompProfile.type") == "Localhost" {
            place.child("securityContext.seccompProfile.type").forbidden(NOT_HERE);
        }
    };
    local(spec);
    for container in spec.each("initContainers").chain(spec.each("containers")) {
        local(&container);
        for field in ["restartPolicyRules", "volumeDevices"].into_iter().filter(|f| set(container.child(f).value)) {
            container.child(field).forbidden(NOT_HERE);
        }
        for mount in container.each("volumeMounts") {
            if mount.text("mountPropagation") == "Bidirectional" {
                mount.child("mountPropagation").forbidden(NOT_HERE);
            }
            if matches!(mount.text("recursiveReadOnly"), "Enabled" | "IfPossible") {
                mount.child("recursiveReadOnly").forbidden(NOT_HERE);
            }
        }
    }
    let ordinary = spec.each("initContainers").filter(|container| container.text("restartPolicy") != "Always");
    for container in ordinary.chain(spec.each("containers")).filter(|c| !c.text("restartPolicy").is_empty()) {
        container.child("restartPolicy").forbidden(NOT_HERE);
    }
    for volume in spec.each("volumes") {
        for (source, _) in volume.entries().filter(|(key, _)| *key != "name" && !VOLUMES.contains(key)) {
            volume.child(source).forbidden(NOT_HERE);
        }
        for source in volume.each("projected.sources") {
            for (name, _) in source.entries().filter(|(name, _)| !PROJECTED.contains(name)) {
                source.child(name).forbidden(NOT_HERE);
            }
        }
    }
}

/// Warnings for a pod's spec.
pub fn warn(spec: &At) {
    let say = |place: At| place.warn(format!("has no effect: {NOT_HERE}"));
    let say_fields = |place: &At, fields: &[&str]| {
        fields.iter().filter(|field| set(place.child(field).value)).for_each(|field| say(place.child(field)));
    };
    say_fields(spec, IGNORED);
    say_fields(&spec.child("securityContext"), IGNORED_SECURITY);
    // On the host's network it only repeats the port, which is open there anyway.
    let own_network = spec.value["hostNetwork"] != true;
    for container in spec.each("initContainers").chain(spec.each("containers")) {
        for port in container.each("ports").filter(|port| own_network && port.int("hostPort") > Some(0)) {
            say(port.child("hostPort"));
        }
        say_fields(&container.child("securityContext"), IGNORED_SECURITY);
        say_fields(&container.child("resources.limits"), &["ephemeral-storage"]);
    }
    let on_disk = spec.each("volumes").filter(|volume| volume.text("emptyDir.medium") != "Memory");
    on_disk.filter(|v| v.get("emptyDir.sizeLimit").is_some()).for_each(|v| say(v.child("emptyDir.sizeLimit")));
}

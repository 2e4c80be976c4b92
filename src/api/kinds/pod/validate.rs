//! Validation of a pod's spec, its volumes, and what an update may change.
use super::container;
use crate::api::kinds::check::At;
use crate::api::kinds::common::each_mut;
use crate::api::kinds::names;
use crate::api::meta;
use serde_json::Value;
use std::collections::BTreeMap;

/// A pod's (or template's) spec.
pub fn spec(spec: &At) {
    let volumes = volumes(spec);
    containers(spec, &volumes);
    spec.one_of("restartPolicy", &["Always", "OnFailure", "Never"]);
    spec.one_of("dnsPolicy", &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"]);
    spec.not_negative("terminationGracePeriodSeconds");
    spec.between("activeDeadlineSeconds", 1, i64::from(i32::MAX));
    spec.form("serviceAccountName", names::dns_subdomain);
    spec.form("nodeName", names::dns_subdomain);
    spec.form("hostname", names::dns_label);
    spec.form("subdomain", names::dns_label);
    spec.one_of("preemptionPolicy", &["PreemptLowerPriority", "Never"]);
    spec.labels("nodeSelector");
    if let Some(context) = spec.given("securityContext") {
        security(&context);
    }
    dns(spec);
    spec.each("tolerations").for_each(|toleration| self::toleration(&toleration));
    spec.each("hostAliases").for_each(|alias| alias.form("ip", names::ip));
    super::unsupported::refuse(spec);
}

fn containers(spec: &At, volumes: &[&str]) {
    if spec.list("containers").is_empty() {
        spec.child("containers").required("");
    }
    let (mut seen, mut host_ports) = (Vec::new(), Vec::new());
    for container in spec.each("initContainers") {
        container::validate(&container, volumes, true);
        container.unique("name", &mut seen);
    }
    for container in spec.each("containers") {
        container::validate(&container, volumes, false);
        container.unique("name", &mut seen);
        super::ports::host_ports(&container, &mut host_ports);
    }
}

fn security(context: &At) {
    for field in ["runAsUser", "runAsGroup", "fsGroup"] {
        context.between(field, 0, i64::from(i32::MAX));
    }
    context.one_of("fsGroupChangePolicy", &["OnRootMismatch", "Always"]);
    container::seccomp(context);
}

fn dns(spec: &At) {
    let config = spec.child("dnsConfig");
    if spec.text("dnsPolicy") == "None" && config.list("nameservers").is_empty() {
        let why = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        config.child("nameservers").required(why);
    }
    for (server, text) in config.each_text("nameservers") {
        server.says(text, names::ip(text));
    }
}

fn toleration(toleration: &At) {
    toleration.form("key", names::qualified_name);
    let operator = toleration.text("operator");
    if toleration.text("key").is_empty() && operator != "Exists" {
        let why = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        toleration.child("operator").invalid_as(operator, why);
    }
    if operator == "Exists" && !toleration.text("value").is_empty() {
        let why = "value must be empty when `operator` is 'Exists'";
        toleration.child("operator").invalid_as(toleration.text("value"), why);
    }
    toleration.one_of("operator", &["Equal", "Exists"]);
    toleration.one_of("effect", &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
    let effect = toleration.text("effect");
    if toleration.get("tolerationSeconds").is_some() && effect != "NoExecute" {
        let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        toleration.child("effect").invalid_as(effect, why);
    }
}

/// Checks the volumes; their names are what mounts may name.
fn volumes<'a>(spec: &'a At) -> Vec<&'a str> {
    let mut seen = Vec::new();
    for volume in spec.each("volumes") {
        volume.needs_form("name", names::dns_label);
        volume.unique("name", &mut seen);
        let mut sources = volume.entries().map(|(key, _)| key).filter(|key| *key != "name");
        let source = sources.next();
        if source.is_none() {
            volume.required("must specify a volume type");
        }
        for extra in sources {
            volume.child(extra).forbidden("may not specify more than 1 volume type");
        }
        if let Some(source) = source {
            self::volume(source, &volume.child(source));
        }
    }
    seen
}

/// `hostPath.type`
const HOST_PATH_TYPES: &[&str] =
    &["", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice"];

fn volume(source: &str, volume: &At) {
    match source {
        "hostPath" => {
            volume.needs("path");
            volume.one_of("type", HOST_PATH_TYPES);
            stays_inside(&volume.child("path"));
        }
        "configMap" => volume.needs("name"),
        "secret" => volume.needs("secretName"),
        _ => {}
    }
    if volume.int("defaultMode").is_some_and(|mode| !(0..=0o777).contains(&mode)) {
        volume.child("defaultMode").invalid("must be a number between 0 and 0777 (octal), both inclusive");
    }
    for item in volume.each("items") {
        if source != "downwardAPI" {
            item.needs("key");
        }
        item.needs("path");
        relative(&item.child("path"));
    }
}

/// A path inside a volume: relative, and it stays inside.
pub fn relative(path: &At) {
    if path.text("").starts_with('/') {
        path.invalid("must be a relative path");
    }
    stays_inside(path);
}

fn stays_inside(path: &At) {
    if path.text("").split('/').any(|part| part == "..") {
        path.invalid("must not contain '..'");
    }
}

/// What may change in the spec of a pod that exists.
const UPDATABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Checks an update of a pod's spec.
pub fn update(new: &At, old: &Value) {
    let (Some(is), Some(was)) = (new.value.get("spec"), old.get("spec")) else {
        return;
    };
    if is == was {
        return;
    }
    let spec = new.child("spec");
    for list in ["containers", "initContainers"] {
        if spec.list(list).len() != meta::list(was, &[list]).len() {
            return spec.child(list).forbidden("pod updates may not add or remove containers");
        }
    }
    let kept = meta::list(was, &["tolerations"]).iter().all(|old| {
        let mut tolerations = spec.list("tolerations").iter();
        tolerations.any(|new| new == old || same_but(new, old, "tolerationSeconds"))
    });
    if !kept {
        spec.child("tolerations").forbidden("existing toleration can not be modified except its tolerationSeconds");
    }
    let (is, was) = (without_updatable(is), without_updatable(was));
    let changed = changes(&is, &was);
    if !changed.is_empty() {
        let lines: Vec<String> = changed.iter().map(|(path, (is, was))| format!("  {path}: {was} -> {is}")).collect();
        spec.forbidden(format!("{UPDATABLE}\n{}\n", lines.join("\n")));
    }
}

fn same_but(a: &Value, b: &Value, field: &str) -> bool {
    let strip = |v: &Value| {
        let mut map = v.as_object().cloned().unwrap_or_default();
        map.shift_remove(field);
        map
    };
    strip(a) == strip(b)
}

fn without_updatable(spec: &Value) -> Value {
    let mut spec = spec.clone();
    let mut remove = |place: &str, field: &str| {
        each_mut(&mut spec, place, &mut |found| drop(found.as_object_mut().map(|map| map.shift_remove(field))));
    };
    remove("", "activeDeadlineSeconds");
    remove("", "tolerations");
    remove("containers.*", "image");
    remove("initContainers.*", "image");
    spec
}

/// Top-level fields that differ, with their values now and before.
fn changes<'a>(is: &'a Value, was: &'a Value) -> BTreeMap<&'a str, (Value, Value)> {
    let keys = [is, was].into_iter().filter_map(Value::as_object).flat_map(|m| m.keys());
    let get = |v: &Value, k: &str| v.get(k).cloned().unwrap_or(Value::Null);
    keys.map(|k| (k.as_str(), (get(is, k), get(was, k)))).filter(|(_, (is, was))| is != was).collect()
}

//! Validation of one container: environment, mounts, probes, resources, security.
use super::validate::relative;
use crate::api::kinds::check::At;
use crate::api::kinds::names;
use crate::api::quantity;
use serde_json::Value;

/// One container of a pod that has these volumes.
pub fn validate(container: &At, volumes: &[&str], init: bool) {
    container.needs_form("name", names::dns_label);
    let image = container.text("image");
    container.needs("image");
    if image.trim() != image {
        container.child("image").invalid("must not have leading or trailing whitespace");
    }
    container.one_of("imagePullPolicy", &["Always", "IfNotPresent", "Never"]);
    container.one_of("terminationMessagePolicy", &["File", "FallbackToLogsOnError"]);
    super::ports::validate(container);
    env(container);
    mounts(container, volumes);
    resources(container);
    if let Some(context) = container.given("securityContext") {
        security(&context);
    }
    let ends = init && container.text("restartPolicy") != "Always";
    let admit = |place: &At| {
        if ends {
            place.forbidden("may not be set for init containers without restartPolicy=Always");
        }
    };
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.given(field) {
            admit(&probe);
            self::probe(&probe, field == "readinessProbe");
        }
    }
    if let Some(lifecycle) = container.given("lifecycle") {
        admit(&lifecycle);
        for hook in ["postStart", "preStop"].into_iter().filter_map(|hook| lifecycle.given(hook)) {
            handler(&hook, &["exec", "httpGet", "tcpSocket", "sleep"]);
        }
    }
}

/// Sources of `env[].valueFrom`.
const ENV_SOURCES: &[&str] = &["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef"];

/// Fields of a pod an environment variable can carry.
const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Exactly one of the sources is given.
fn one_source(place: &At, count: usize, missing: &str) {
    match count {
        0 => place.invalid_as("", missing),
        1 => {}
        _ => place.invalid_as("", "may not have more than one field specified at a time"),
    }
}

fn env(container: &At) {
    for variable in container.each("env") {
        variable.needs_form("name", names::env_name);
        let Some(from) = variable.given("valueFrom") else {
            continue;
        };
        let sources = || ENV_SOURCES.iter().filter_map(|source| from.given(source).map(|place| (*source, place)));
        let missing =
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
        one_source(&from, sources().count(), missing);
        if !variable.text("value").is_empty() {
            from.invalid_as("", "may not be specified when `value` is not empty");
        }
        sources().for_each(|(source, place)| env_source(source, &place));
    }
    for source in container.each("envFrom") {
        source.form("prefix", names::env_name);
        let given = || ["configMapRef", "secretRef"].into_iter().filter_map(|field| source.given(field));
        one_source(&source, given().count(), "must specify one of: `configMapRef` or `secretRef`");
        if given().count() == 1 {
            given().for_each(|reference| reference.needs("name"));
        }
    }
}

fn env_source(source: &str, place: &At) {
    match source {
        "configMapKeyRef" | "secretKeyRef" => {
            place.needs("name");
            place.needs_form("key", names::config_key);
        }
        "resourceFieldRef" => place.needs("resource"),
        _ => {
            let field = place.text("fieldPath");
            place.needs("fieldPath");
            let keyed = ["metadata.annotations['", "metadata.labels['"];
            if !(keyed.iter().any(|start| field.starts_with(start)) && field.ends_with("']")) {
                place.one_of("fieldPath", ENV_FIELDS);
            }
        }
    }
}

fn mounts(container: &At, volumes: &[&str]) {
    let mut seen = Vec::new();
    for mount in container.each("volumeMounts") {
        let name = mount.text("name");
        mount.needs("name");
        if !name.is_empty() && !volumes.contains(&name) {
            mount.child("name").not_found();
        }
        let path = mount.text("mountPath");
        mount.needs("mountPath");
        if !path.is_empty() && seen.contains(&path) {
            mount.child("mountPath").invalid("must be unique");
        }
        seen.push(path);
        relative(&mount.child("subPath"));
        relative(&mount.child("subPathExpr"));
        mount.one_of("mountPropagation", &["None", "HostToContainer", "Bidirectional"]);
    }
}

/// Resources a container may name without a domain.
const STANDARD: &[&str] = &["cpu", "memory", "ephemeral-storage"];

fn resources(container: &At) {
    let resources = container.child("resources");
    for side in ["limits", "requests"] {
        let amounts = resources.child(side);
        for (name, amount) in amounts.entries() {
            let place = amounts.key(name);
            place.says(name, names::qualified_name(name));
            if !(STANDARD.contains(&name) || name.starts_with("hugepages-") || name.contains('/')) {
                place.invalid_as(name, "must be a standard resource type or fully qualified");
            }
            let Some(have) = quantity::of(amount) else {
                place.invalid(quantity::QuantityError::Form.to_string());
                continue;
            };
            if have.nanos < 0 {
                place.invalid_as(have.to_string(), "must be greater than or equal to 0");
            }
            let limit = quantity::of(resources.child("limits").key(name).value);
            if let (true, Some(limit)) = (side == "requests", limit.filter(|limit| *limit < have)) {
                amounts.invalid_as(have.to_string(), format!("must be less than or equal to {name} limit of {limit}"));
            }
        }
    }
}

fn security(context: &At) {
    for field in ["runAsUser", "runAsGroup"] {
        context.between(field, 0, i64::from(i32::MAX));
    }
    context.one_of("procMount", &["Default", "Unmasked"]);
    let flag = |field: &str| context.get(field).and_then(Value::as_bool);
    if flag("allowPrivilegeEscalation") == Some(false) && flag("privileged") == Some(true) {
        context.invalid("cannot set `allowPrivilegeEscalation` to false and `privileged` to true");
    }
    seccomp(context);
}

/// The seccomp profile of a security context.
pub fn seccomp(context: &At) {
    let Some(profile) = context.given("seccompProfile") else {
        return;
    };
    profile.needs("type");
    profile.one_of("type", &["Localhost", "RuntimeDefault", "Unconfined"]);
    let file = profile.child("localhostProfile");
    match (profile.text("type") == "Localhost", file.text("").is_empty()) {
        (true, true) => file.required("must be set when seccomp type is Localhost"),
        (false, false) => file.invalid("can only be set when seccomp type is Localhost"),
        _ => {}
    }
}

fn probe(probe: &At, readiness: bool) {
    handler(probe, &["exec", "httpGet", "tcpSocket", "grpc"]);
    let fields = ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"];
    fields.iter().for_each(|field| probe.not_negative(field));
    probe.between("terminationGracePeriodSeconds", 1, i64::MAX);
    if !readiness && probe.int("successThreshold").is_some_and(|n| n != 1) {
        probe.child("successThreshold").invalid("must be 1");
    }
}

/// Exactly one of the handlers, and that one complete.
fn handler(place: &At, allowed: &[&str]) {
    let mut given = allowed.iter().filter_map(|name| place.given(name).map(|handler| (*name, handler)));
    match given.next() {
        None => place.required("must specify a handler type"),
        Some(("exec", exec)) if exec.list("command").is_empty() => exec.child("command").required(""),
        Some(("httpGet", get)) => {
            get.needs("path");
            get.port_or_name("port");
            get.one_of("scheme", &["HTTP", "HTTPS"]);
        }
        Some(("tcpSocket", socket)) => socket.port_or_name("port"),
        Some(("grpc", grpc)) => grpc.port("port"),
        Some(("sleep", sleep)) => sleep.not_negative("seconds"),
        Some(_) => {}
    }
    given.for_each(|(_, second)| second.forbidden("may not specify more than 1 handler type"));
}

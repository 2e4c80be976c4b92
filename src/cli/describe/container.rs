//! Containers on the pages of pods and templates.
use serde_json::Value;

use super::{capital, row, time};
use crate::api::{meta, quantity};
use crate::cli::jsonpath;

/// All containers of a pod (level 0) or of a template (level 1), with their states where there are some.
pub fn containers(out: &mut String, level: usize, pod: &Value) {
    for (title, list, states) in [
        ("Init Containers:", "initContainers", "initContainerStatuses"),
        ("Containers:", "containers", "containerStatuses"),
        ("Ephemeral Containers:", "ephemeralContainers", "ephemeralContainerStatuses"),
    ] {
        let all = meta::list(pod, &["spec", list]);
        if all.is_empty() {
            continue;
        }
        row(out, level, &[title]);
        for container in all {
            let name = meta::text(container, &["name"]);
            let status =
                meta::list(pod, &["status", states]).iter().find(|status| meta::text(status, &["name"]) == name);
            // kubectl indents the name by one blank more in a template, and the rest not at all.
            let indent = if level == 0 { "" } else { " " };
            row(out, 1, &[&format!("{indent}{name}:")]);
            one(out, container, status);
            resources(out, container);
            probes(out, container);
            environment(out, container, (level == 0).then_some(pod));
            mounts(out, container);
        }
    }
}

fn one(out: &mut String, container: &Value, status: Option<&Value>) {
    let mut put = |title: &str, value: &str| row(out, 2, &[title, value]);
    if let Some(status) = status {
        put("Container ID:", meta::text(status, &["containerID"]));
    }
    put("Image:", meta::text(container, &["image"]));
    if let Some(status) = status {
        put("Image ID:", meta::text(status, &["imageID"]));
    }
    ports(out, container);
    super::pod::seccomp(out, 2, container);
    for (title, field) in [("Command:", "command"), ("Args:", "args")] {
        let words = meta::list(container, &[field]);
        if !words.is_empty() {
            row(out, 2, &[title]);
            let lines = words.iter().filter_map(Value::as_str).flat_map(|word| word.split('\n'));
            lines.for_each(|line| row(out, 3, &[line]));
        }
    }
    if let Some(status) = status {
        standing(out, status);
    }
}

/// State, readiness and restarts.
fn standing(out: &mut String, status: &Value) {
    state(out, "State:", meta::at(status, &["state"]));
    if meta::at(status, &["lastState", "terminated"]).is_some() {
        state(out, "Last State:", meta::at(status, &["lastState"]));
    }
    let ready = meta::at(status, &["ready"]) == Some(&Value::Bool(true));
    row(out, 2, &["Ready:", if ready { "True" } else { "False" }]);
    row(out, 2, &["Restart Count:", &meta::int(status, &["restartCount"]).unwrap_or(0).to_string()]);
}

fn state(out: &mut String, title: &str, state: Option<&Value>) {
    let entry = state.and_then(Value::as_object).and_then(|map| map.iter().next());
    let Some((kind, detail)) = entry else { return row(out, 2, &[title, "Waiting"]) };
    row(out, 2, &[title, &capital(kind)]);
    let text = |field: &str| meta::text(detail, &[field]);
    if !text("reason").is_empty() {
        row(out, 3, &["Reason:", text("reason")]);
    }
    if kind != "waiting" && !text("message").is_empty() {
        row(out, 3, &["Message:", text("message")]);
    }
    for (title, field) in [("Exit Code:", "exitCode"), ("Signal:", "signal")] {
        if let Some(number) = meta::int(detail, &[field]).filter(|number| field == "exitCode" || *number > 0) {
            row(out, 3, &[title, &number.to_string()]);
        }
    }
    for (title, field) in [("Started:", "startedAt"), ("Finished:", "finishedAt")] {
        if !text(field).is_empty() {
            row(out, 3, &[title, &time(text(field))]);
        }
    }
}

/// kubectl says Port for one or none and Ports for more; the same for the host's.
fn ports(out: &mut String, container: &Value) {
    let all = meta::list(container, &["ports"]);
    let plural = if all.len() > 1 { "s" } else { "" };
    for (title, field) in [("Port", "containerPort"), ("Host Port", "hostPort")] {
        let ports: Vec<String> = all.iter().map(|one| port(one, field)).collect();
        let words = if ports.is_empty() { "<none>".to_owned() } else { ports.join(", ") };
        row(out, 2, &[&format!("{title}{plural}:"), &words]);
    }
}

fn port(port: &Value, field: &str) -> String {
    let number = meta::int(port, &[field]).unwrap_or(0);
    let suffix = match meta::text(port, &["name"]) {
        "" => String::new(),
        name => format!(" ({name})"),
    };
    format!("{number}/{}{suffix}", meta::text(port, &["protocol"]))
}

fn resources(out: &mut String, container: &Value) {
    for (title, field) in [("Limits:", "limits"), ("Requests:", "requests")] {
        let all = super::sorted(meta::map(container, &["resources", field]));
        if !all.is_empty() {
            row(out, 2, &[title]);
        }
        all.iter().for_each(|(name, amount)| row(out, 3, &[&format!("{name}:"), &jsonpath::text(amount)]));
    }
}

fn probes(out: &mut String, container: &Value) {
    for (title, field) in
        [("Liveness:", "livenessProbe"), ("Readiness:", "readinessProbe"), ("Startup:", "startupProbe")]
    {
        if let Some(probe) = meta::at(container, &[field]) {
            row(out, 2, &[title, &describe_probe(probe)]);
        }
    }
}

fn describe_probe(probe: &Value) -> String {
    let number = |field: &str| meta::int(probe, &[field]).unwrap_or(0);
    let place = |what: &str, field: &str| meta::at(probe, &[what, field]).map(jsonpath::text).unwrap_or_default();
    let what = if let Some(exec) = meta::at(probe, &["exec"]) {
        let words: Vec<&str> = meta::list(exec, &["command"]).iter().filter_map(Value::as_str).collect();
        format!("exec [{}]", words.join(" "))
    } else if meta::at(probe, &["httpGet"]).is_some() {
        let get = |field: &str| place("httpGet", field);
        let slash = if get("path").is_empty() || get("path").starts_with('/') { "" } else { "/" };
        format!("http-get {}://{}:{}{slash}{}", get("scheme").to_lowercase(), get("host"), get("port"), get("path"))
    } else if meta::at(probe, &["grpc"]).is_some() {
        format!("grpc <pod>:{} {}", place("grpc", "port"), place("grpc", "service"))
    } else {
        format!("tcp-socket {}:{}", place("tcpSocket", "host"), place("tcpSocket", "port"))
    };
    format!(
        "{what} delay={}s timeout={}s period={}s #success={} #failure={}",
        number("initialDelaySeconds"),
        number("timeoutSeconds"),
        number("periodSeconds"),
        number("successThreshold"),
        number("failureThreshold")
    )
}

/// Variables; `pod` is whose they are, if it is not a template's.
fn environment(out: &mut String, container: &Value, pod: Option<&Value>) {
    let from = meta::list(container, &["envFrom"]);
    if !from.is_empty() {
        row(out, 2, &["Environment Variables from:"]);
    }
    for source in from {
        let prefix = match meta::text(source, &["prefix"]) {
            "" => String::new(),
            prefix => format!(" with prefix '{prefix}'"),
        };
        for (kind, field) in [("ConfigMap", "configMapRef"), ("Secret", "secretRef")] {
            if let Some(reference) = source.get(field) {
                let name = meta::text(reference, &["name"]);
                row(out, 3, &[name, &format!("{kind}{prefix}"), &super::optional(reference)]);
            }
        }
    }
    let env = meta::list(container, &["env"]);
    if env.is_empty() {
        return row(out, 2, &["Environment:", "<none>"]);
    }
    row(out, 2, &["Environment:"]);
    for variable in env {
        let title = format!("{}:", meta::text(variable, &["name"]));
        match meta::at(variable, &["valueFrom"]) {
            Some(source) => row(out, 3, &[&title, &value_from(source, container, pod)]),
            None => {
                let lines = meta::text(variable, &["value"]).split('\n').enumerate();
                lines.for_each(|(index, line)| row(out, 3, &[if index == 0 { &title } else { "" }, line]));
            }
        }
    }
}

fn value_from(source: &Value, container: &Value, pod: Option<&Value>) -> String {
    let text = |path: &[&str]| meta::text(source, path);
    if let Some(reference) = source.get("configMapKeyRef") {
        let (key, name) = (meta::text(reference, &["key"]), meta::text(reference, &["name"]));
        format!("<set to the key '{key}' of config map '{name}'>\t{}", super::optional(reference))
    } else if let Some(reference) = source.get("secretKeyRef") {
        let (key, name) = (meta::text(reference, &["key"]), meta::text(reference, &["name"]));
        format!("<set to the key '{key}' in secret '{name}'>\t{}", super::optional(reference))
    } else if source.get("resourceFieldRef").is_some() {
        let resource = text(&["resourceFieldRef", "resource"]);
        let divisor = meta::at(source, &["resourceFieldRef", "divisor"]);
        let value = match amount(container, resource, divisor) {
            0 if ["limits.cpu", "limits.memory"].contains(&resource) => "node allocatable".to_owned(),
            value => value.to_string(),
        };
        format!("{value} ({resource})")
    } else {
        let path = text(&["fieldRef", "fieldPath"]);
        // kubectl looks no further than this.
        let value = match (pod, path) {
            (Some(pod), "metadata.name") => meta::name(pod),
            (Some(pod), "metadata.namespace") => meta::namespace(pod),
            _ => "",
        };
        format!("{value} ({}:{path})", text(&["fieldRef", "apiVersion"]))
    }
}

/// A resource of the container in units of the divisor, rounded up.
fn amount(container: &Value, resource: &str, divisor: Option<&Value>) -> i128 {
    let Some((field, name)) = resource.split_once('.') else { return 0 };
    let amount = meta::at(container, &["resources", field, name]).and_then(quantity::of).unwrap_or_default();
    let divisor = divisor.and_then(quantity::of).filter(|divisor| !divisor.is_zero());
    let divisor = divisor.unwrap_or(quantity::Quantity::from_int(1)).nanos;
    (amount.nanos + divisor - 1).div_euclid(divisor)
}

fn mounts(out: &mut String, container: &Value) {
    let mut mounts: Vec<&Value> = meta::list(container, &["volumeMounts"]).iter().collect();
    mounts.sort_by_key(|mount| meta::text(mount, &["mountPath"]));
    if mounts.is_empty() {
        return row(out, 2, &["Mounts:", "<none>"]);
    }
    row(out, 2, &["Mounts:"]);
    for mount in mounts {
        let mode = if meta::at(mount, &["readOnly"]) == Some(&Value::Bool(true)) { "ro" } else { "rw" };
        let path = match meta::text(mount, &["subPath"]) {
            "" => String::new(),
            path => format!(",path={path:?}"),
        };
        let (place, name) = (meta::text(mount, &["mountPath"]), meta::text(mount, &["name"]));
        row(out, 3, &[&format!("{place} from {name} ({mode}{path})")]);
    }
}

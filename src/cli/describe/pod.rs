//! The pages of pods and of pod templates.
use serde_json::Value;

use super::container::containers;
use super::volume::volumes;
use super::{annotations, head, labels, maybe, owner, put, row, tags, time};
use crate::api::{duration, meta};

/// A pod's page, without its events.
pub fn page(pod: &Value) -> String {
    let mut out = String::new();
    let text = |path: &[&str]| meta::text(pod, path);
    let node = match (text(&["spec", "nodeName"]), text(&["status", "hostIP"])) {
        ("", _) => "<none>".to_owned(),
        (name, ip) => format!("{name}/{ip}"),
    };
    head(&mut out, pod);
    if let Some(priority) = meta::int(pod, &["spec", "priority"]) {
        put(&mut out, "Priority:", &priority.to_string());
    }
    maybe(&mut out, 0, "Priority Class Name:", text(&["spec", "priorityClassName"]));
    maybe(&mut out, 0, "Runtime Class Name:", text(&["spec", "runtimeClassName"]));
    maybe(&mut out, 0, "Service Account:", text(&["spec", "serviceAccountName"]));
    put(&mut out, "Node:", &node);
    if !text(&["status", "startTime"]).is_empty() {
        put(&mut out, "Start Time:", &time(text(&["status", "startTime"])));
    }
    tags(&mut out, pod);
    state(&mut out, pod);
    containers(&mut out, 0, pod);
    conditions(&mut out, pod);
    volumes(&mut out, 0, meta::list(pod, &["spec", "volumes"]));
    put(&mut out, "QoS Class:", text(&["status", "qosClass"]));
    labels(&mut out, 0, "Node-Selectors:", meta::map(pod, &["spec", "nodeSelector"]));
    tolerations(&mut out, 0, pod);
    spread(&mut out, 0, pod);
    out
}

/// Phase, addresses and owner.
fn state(out: &mut String, pod: &Value) {
    let text = |path: &[&str]| meta::text(pod, path);
    let phase = text(&["status", "phase"]);
    if meta::deleting(pod) && !["Failed", "Succeeded"].contains(&phase) {
        let since = duration::since(text(&["metadata", "deletionTimestamp"]), jiff::Timestamp::now());
        put(out, "Status:", &format!("Terminating (lasts {since})"));
        let grace = meta::int(pod, &["metadata", "deletionGracePeriodSeconds"]).unwrap_or(0);
        put(out, "Termination Grace Period:", &format!("{grace}s"));
    } else {
        put(out, "Status:", phase);
    }
    maybe(out, 0, "Reason:", text(&["status", "reason"]));
    maybe(out, 0, "Message:", text(&["status", "message"]));
    seccomp(out, 0, meta::at(pod, &["spec"]).unwrap_or(&Value::Null));
    put(out, "IP:", text(&["status", "podIP"]));
    let ips = meta::list(pod, &["status", "podIPs"]);
    row(out, 0, if ips.is_empty() { &["IPs:", "<none>"] } else { &["IPs:"] });
    for ip in ips {
        row(out, 1, &["IP:", meta::text(ip, &["ip"])]);
    }
    owner(out, pod);
    maybe(out, 0, "NominatedNodeName:", text(&["status", "nominatedNodeName"]));
}

/// The system calls a pod's spec or a container may make, where it says so.
pub fn seccomp(out: &mut String, level: usize, object: &Value) {
    let text = |field: &str| meta::text(object, &["securityContext", "seccompProfile", field]);
    maybe(out, level, "SeccompProfile:", text("type"));
    maybe(out, level, "LocalhostProfile:", text("localhostProfile"));
}

/// The rows of a template, not yet aligned.
pub fn template_rows(template: &Value) -> String {
    let mut out = String::from("Pod Template:\n");
    labels(&mut out, 1, "Labels:", meta::labels(template));
    if meta::map(template, &["metadata", "annotations"]).is_some_and(|all| !all.is_empty()) {
        annotations(&mut out, 1, meta::map(template, &["metadata", "annotations"]));
    }
    maybe(&mut out, 1, "Service Account:", meta::text(template, &["spec", "serviceAccountName"]));
    containers(&mut out, 1, template);
    volumes(&mut out, 1, meta::list(template, &["spec", "volumes"]));
    spread(&mut out, 1, template);
    maybe(&mut out, 1, "Priority Class Name:", meta::text(template, &["spec", "priorityClassName"]));
    labels(&mut out, 1, "Node-Selectors:", meta::map(template, &["spec", "nodeSelector"]));
    tolerations(&mut out, 1, template);
    out
}

/// Type and status of each condition.
fn conditions(out: &mut String, pod: &Value) {
    let all = meta::list(pod, &["status", "conditions"]);
    if !all.is_empty() {
        row(out, 0, &["Conditions:"]);
        row(out, 1, &["Type", "Status"]);
    }
    for condition in all {
        let text = |field: &str| format!("{} ", meta::text(condition, &[field]));
        row(out, 1, &[&text("type"), &text("status")]);
    }
}

fn spread(out: &mut String, level: usize, pod: &Value) {
    let mut all: Vec<&Value> = meta::list(pod, &["spec", "topologySpreadConstraints"]).iter().collect();
    all.sort_by_key(|constraint| meta::text(constraint, &["topologyKey"]));
    for (index, constraint) in all.into_iter().enumerate() {
        let text = |field: &str| meta::text(constraint, &[field]);
        let skew = meta::int(constraint, &["maxSkew"]).unwrap_or(1);
        let selector = match constraint.get("labelSelector") {
            Some(selector) => format!(" for selector {}", super::selector(Some(selector))),
            None => String::new(),
        };
        let words =
            format!("{}:{} when max skew {skew} is exceeded{selector}", text("topologyKey"), text("whenUnsatisfiable"));
        row(out, level, &[if index == 0 { "Topology Spread Constraints:" } else { "" }, &words]);
    }
}

fn tolerations(out: &mut String, level: usize, pod: &Value) {
    let all = meta::list(pod, &["spec", "tolerations"]);
    if all.is_empty() {
        return row(out, level, &["Tolerations:", "<none>"]);
    }
    for (index, toleration) in all.iter().enumerate() {
        let text = |field: &str| meta::text(toleration, &[field]);
        let mut words = text("key").to_owned();
        if !text("value").is_empty() {
            words.push_str(&format!("={}", text("value")));
        }
        if !text("effect").is_empty() {
            words.push_str(&format!(":{}", text("effect")));
        }
        if text("operator") == "Exists" {
            words.push_str(" op=Exists");
        }
        if let Some(seconds) = meta::int(toleration, &["tolerationSeconds"]) {
            words.push_str(&format!(" for {seconds}s"));
        }
        row(out, level, &[if index == 0 { "Tolerations:" } else { "" }, &words]);
    }
}

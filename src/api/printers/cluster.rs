//! Nodes, namespaces, configuration, events, leases and access rules.

use super::{AGE, NAME, NONE, integer, joined, since, text, wide};
use crate::api::kinds::Column;
use crate::api::meta::{int, labels, list, map, text as field};
use serde_json::Value;

/// Columns of Nodes.
pub const NODE: &[Column] = &[
    NAME,
    text("Status", "The status of the node", |node, _| node_status(node).into()),
    text("Roles", "The roles of the node", |node, _| joined(roles(node))),
    AGE,
    text("Version", "Kubelet Version reported by the node.", |node, _| {
        field(node, &["status", "nodeInfo", "kubeletVersion"]).into()
    }),
    wide("Internal-IP", "Address of the node inside the cluster.", |node, _| address(node, "InternalIP")),
    wide("External-IP", "Address of the node outside the cluster.", |node, _| address(node, "ExternalIP")),
    wide("OS-Image", "OS Image reported by the node from /etc/os-release.", |node, _| info(node, "osImage")),
    wide("Kernel-Version", "Kernel Version reported by the node from 'uname -r'.", |node, _| {
        info(node, "kernelVersion")
    }),
    wide(
        "Container-Runtime",
        "ContainerRuntime Version reported by the node through runtime remote API.",
        |node, _| info(node, "containerRuntimeVersion"),
    ),
];

fn info(node: &Value, what: &str) -> Value {
    match field(node, &["status", "nodeInfo", what]) {
        "" => "<unknown>".into(),
        text => text.into(),
    }
}

fn node_status(node: &Value) -> String {
    let conditions = list(node, &["status", "conditions"]);
    let ready = conditions.iter().find(|c| field(c, &["type"]) == "Ready");
    let mut status = match ready.map(|c| field(c, &["status"])) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_string();
    if node["spec"]["unschedulable"] == true {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn roles(node: &Value) -> Vec<String> {
    let mut roles: Vec<String> = labels(node)
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) if !role.is_empty() => Some(role.to_string()),
            _ if key == "kubernetes.io/role" => value.as_str().filter(|v| !v.is_empty()).map(str::to_string),
            _ => None,
        })
        .collect();
    roles.sort();
    roles.dedup();
    roles
}

fn address(node: &Value, kind: &str) -> Value {
    let addresses = list(node, &["status", "addresses"]);
    addresses
        .iter()
        .find(|a| field(a, &["type"]) == kind)
        .map_or_else(|| NONE.into(), |a| field(a, &["address"]).into())
}

/// Columns of Namespaces.
pub const NAMESPACE: &[Column] =
    &[NAME, text("Status", "The status of the namespace", |ns, _| field(ns, &["status", "phase"]).into()), AGE];

fn entries(object: &Value, of: &str) -> usize {
    map(object, &[of]).map_or(0, |map| map.len())
}

/// Columns of ConfigMaps.
pub const CONFIG_MAP: &[Column] = &[
    NAME,
    integer("Data", "Number of entries.", |map, _| (entries(map, "data") + entries(map, "binaryData")).into()),
    AGE,
];

/// Columns of Secrets.
pub const SECRET: &[Column] = &[
    NAME,
    text("Type", "Used to facilitate programmatic handling of secret data.", |s, _| field(s, &["type"]).into()),
    integer("Data", "Number of entries.", |secret, _| entries(secret, "data").into()),
    AGE,
];

/// Columns of ServiceAccounts.
pub const SERVICE_ACCOUNT: &[Column] = &[
    NAME,
    integer("Secrets", "Number of secrets its pods may use.", |account, _| list(account, &["secrets"]).len().into()),
    AGE,
];

/// Columns of Leases.
pub const LEASE: &[Column] = &[
    NAME,
    text("Holder", "The identity of the holder of the lease.", |lease, _| {
        field(lease, &["spec", "holderIdentity"]).into()
    }),
    AGE,
];

/// Columns of Events, in the form of core/v1.
pub const EVENT: &[Column] = &[
    text("Last Seen", "When the event was last seen.", |event, now| {
        let newest: &[&[&str]] =
            &[&["series", "lastObservedTime"], &["lastTimestamp"], &["eventTime"], &["firstTimestamp"]];
        since(first_of(event, newest), now).into()
    }),
    text("Type", "Normal or Warning.", |event, _| field(event, &["type"]).into()),
    text("Reason", "Why it happened, in one word.", |event, _| field(event, &["reason"]).into()),
    text("Object", "What it is about.", |event, _| {
        let about = |what| field(event, &["involvedObject", what]);
        format!("{}/{}", about("kind").to_lowercase(), about("name")).into()
    }),
    wide("Subobject", "The part it is about.", |event, _| field(event, &["involvedObject", "fieldPath"]).into()),
    wide("Source", "Who reports it.", |event, _| source(event).into()),
    text("Message", "What happened.", |event, _| field(event, &["message"]).trim().into()),
    wide("First Seen", "When the event was first seen.", |event, now| {
        since(first_of(event, &[&["firstTimestamp"], &["eventTime"]]), now).into()
    }),
    wide("Count", "How often it happened.", |event, _| {
        int(event, &["series", "count"]).or_else(|| int(event, &["count"])).unwrap_or(1).max(1).into()
    }),
    Column { priority: 1, ..NAME },
];

/// The first of the texts that is there.
fn first_of<'a>(event: &'a Value, paths: &[&[&str]]) -> &'a str {
    paths.iter().map(|path| field(event, path)).find(|text| !text.is_empty()).unwrap_or_default()
}

fn source(event: &Value) -> String {
    let component = first_of(event, &[&["source", "component"], &["reportingComponent"]]);
    let host = first_of(event, &[&["source", "host"], &["reportingInstance"]]);
    if host.is_empty() || host == component { component.to_string() } else { format!("{component}, {host}") }
}

/// Columns of RoleBindings and ClusterRoleBindings.
pub const BINDING: &[Column] = &[
    NAME,
    text("Role", "The role that is granted.", |binding, _| {
        let role = |what| field(binding, &["roleRef", what]);
        format!("{}/{}", role("kind"), role("name")).into()
    }),
    AGE,
    wide("Users", "Users it is granted to.", |binding, _| subjects(binding, "User")),
    wide("Groups", "Groups it is granted to.", |binding, _| subjects(binding, "Group")),
    wide("ServiceAccounts", "Service accounts it is granted to.", |binding, _| subjects(binding, "ServiceAccount")),
];

fn subjects(binding: &Value, kind: &str) -> Value {
    let all = list(binding, &["subjects"]).iter().filter(|s| field(s, &["kind"]) == kind);
    let names = all.map(|s| match field(s, &["namespace"]) {
        "" => field(s, &["name"]).to_string(),
        namespace => format!("{namespace}/{}", field(s, &["name"])),
    });
    names.collect::<Vec<_>>().join(", ").into()
}

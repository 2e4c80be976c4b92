//! Services, Endpoints and EndpointSlices.

use super::{AGE, NAME, NONE, joined, labels, or_none, text, wide};
use crate::api::kinds::Column;
use crate::api::meta::{int, list, text as field};
use serde_json::Value;

/// Addresses printed before `+ N more...`.
const MOST: usize = 3;

/// Columns of Services.
pub const SERVICE: &[Column] = &[
    NAME,
    text("Type", "How the Service is exposed.", |service, _| field(service, &["spec", "type"]).into()),
    text("Cluster-IP", "The service's address inside the cluster.", |service, _| {
        or_none(service, &["spec", "clusterIP"])
    }),
    text("External-IP", "Addresses from outside the cluster.", |service, _| external_ip(service)),
    text("Port(s)", "The ports that are exposed by this service.", |service, _| {
        joined(list(service, &["spec", "ports"]).iter().map(service_port))
    }),
    AGE,
    wide("Selector", "Which pods the service sends traffic to.", |service, _| labels(service, &["spec", "selector"])),
];

fn external_ip(service: &Value) -> Value {
    let mut addresses: Vec<&str> = list(service, &["spec", "externalIPs"]).iter().filter_map(Value::as_str).collect();
    match field(service, &["spec", "type"]) {
        "ExternalName" => or_none(service, &["spec", "externalName"]),
        "LoadBalancer" => {
            let ingress = list(service, &["status", "loadBalancer", "ingress"]);
            addresses.extend(ingress.iter().map(|i| match field(i, &["ip"]) {
                "" => field(i, &["hostname"]),
                ip => ip,
            }));
            if addresses.is_empty() { "<pending>".into() } else { joined(addresses) }
        }
        _ => joined(addresses),
    }
}

fn service_port(port: &Value) -> String {
    let protocol = field(port, &["protocol"]);
    let number = int(port, &["port"]).unwrap_or(0);
    match int(port, &["nodePort"]).unwrap_or(0) {
        0 => format!("{number}/{protocol}"),
        node_port => format!("{number}:{node_port}/{protocol}"),
    }
}

/// Columns of Endpoints.
pub const ENDPOINTS: &[Column] =
    &[NAME, text("Endpoints", "The addresses behind the service.", |object, _| endpoints(object)), AGE];

fn endpoints(object: &Value) -> Value {
    let mut all = Vec::new();
    for subset in list(object, &["subsets"]) {
        let addresses = || list(subset, &["addresses"]).iter().map(|a| field(a, &["ip"]));
        let ports = list(subset, &["ports"]);
        if ports.is_empty() {
            all.extend(addresses().map(str::to_string));
        }
        for port in ports {
            let port = int(port, &["port"]).unwrap_or(0);
            all.extend(addresses().map(|a| format!("{a}:{port}")));
        }
    }
    some_of(&all, NONE)
}

/// Columns of EndpointSlices.
pub const ENDPOINT_SLICE: &[Column] = &[
    NAME,
    text("AddressType", "The type of the addresses in the slice.", |slice, _| field(slice, &["addressType"]).into()),
    text("Ports", "The ports of every endpoint.", |slice, _| {
        let number = |p: &Value| int(p, &["port"]).map_or_else(|| "*".to_string(), |n| n.to_string());
        some_of(&list(slice, &["ports"]).iter().map(number).collect::<Vec<_>>(), "<unset>")
    }),
    text("Endpoints", "The addresses of the endpoints.", |slice, _| {
        let addresses = list(slice, &["endpoints"]).iter().flat_map(|e| list(e, &["addresses"]));
        some_of(&addresses.filter_map(|a| a.as_str().map(str::to_string)).collect::<Vec<_>>(), "<unset>")
    }),
    AGE,
];

/// The first few, and how many more there are.
fn some_of(all: &[String], empty: &str) -> Value {
    if all.is_empty() {
        return empty.into();
    }
    let shown = all[..all.len().min(MOST)].join(",");
    match all.len().saturating_sub(MOST) {
        0 => shown.into(),
        more => format!("{shown} + {more} more...").into(),
    }
}

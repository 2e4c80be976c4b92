//! The pages of Services and of where they lead.
use anyhow::Result;
use serde_json::Value;

use super::{Context, begin, maybe, put, row};
use crate::api::meta;
use crate::cli::{jsonpath, print};

/// A Service's page.
pub async fn page(context: &Context<'_>, object: &Value) -> Result<String> {
    let mut out = begin(object);
    let text = |field: &str| meta::text(object, &["spec", field]);
    let list =
        |field: &str| meta::list(object, &["spec", field]).iter().map(jsonpath::text).collect::<Vec<_>>().join(",");
    let or_none = |text: String| if text.is_empty() { "<none>".to_owned() } else { text };
    put(&mut out, "Selector:", &print::labels(meta::map(object, &["spec", "selector"]), ","));
    put(&mut out, "Type:", text("type"));
    maybe(&mut out, 0, "IP Family Policy:", text("ipFamilyPolicy"));
    put(&mut out, "IP Families:", &or_none(list("ipFamilies")));
    put(&mut out, "IP:", text("clusterIP"));
    put(&mut out, "IPs:", &or_none(list("clusterIPs")));
    maybe(&mut out, 0, "External IPs:", &list("externalIPs"));
    maybe(&mut out, 0, "External Name:", text("externalName"));
    let name = format!("kubernetes.io/service-name={}", meta::name(object));
    let slices = context.list("endpointslices", Some(meta::namespace(object)), &[("labelSelector", &name)]).await?;
    ports(&mut out, object, &slices);
    put(&mut out, "Session Affinity:", text("sessionAffinity"));
    maybe(&mut out, 0, "External Traffic Policy:", text("externalTrafficPolicy"));
    maybe(&mut out, 0, "Internal Traffic Policy:", text("internalTrafficPolicy"));
    maybe(&mut out, 0, "Traffic Distribution:", text("trafficDistribution"));
    Ok(out)
}

fn or_unset(text: &str) -> &str {
    if text.is_empty() { "<unset>" } else { text }
}

fn ports(out: &mut String, object: &Value, slices: &[Value]) {
    for port in meta::list(object, &["spec", "ports"]) {
        let label = or_unset(meta::text(port, &["name"]));
        let protocol = meta::text(port, &["protocol"]);
        let number = |field: &str| port.get(field).map(jsonpath::text).unwrap_or_default();
        row(out, 0, &["Port:", label, &format!("{}/{protocol}", number("port"))]);
        put(out, "TargetPort:", &format!("{}/{protocol}", number("targetPort")));
        if meta::int(port, &["nodePort"]).is_some_and(|port| port > 0) {
            row(out, 0, &["NodePort:", label, &format!("{}/{protocol}", number("nodePort"))]);
        }
        put(out, "Endpoints:", &endpoints(slices, meta::text(port, &["name"])));
    }
}

/// The page of an Endpoints.
pub fn endpoints_page(object: &Value) -> String {
    let mut out = begin(object);
    row(&mut out, 0, &["Subsets:"]);
    for subset in meta::list(object, &["subsets"]) {
        for (title, field) in [("Addresses:", "addresses"), ("NotReadyAddresses:", "notReadyAddresses")] {
            let all: Vec<&str> = meta::list(subset, &[field]).iter().map(|one| meta::text(one, &["ip"])).collect();
            row(&mut out, 1, &[title, &if all.is_empty() { "<none>".to_owned() } else { all.join(",") }]);
        }
        port_table(&mut out, 1, meta::list(subset, &["ports"]));
        out.push('\n');
    }
    out
}

fn port_table(out: &mut String, level: usize, ports: &[Value]) {
    if ports.is_empty() {
        return;
    }
    row(out, level, &["Ports:"]);
    row(out, level + 1, &["Name", "Port", "Protocol"]);
    row(out, level + 1, &["----", "----", "--------"]);
    for port in ports {
        let number = port.get("port").map(jsonpath::text).unwrap_or_default();
        let name = or_unset(meta::text(port, &["name"]));
        row(out, level + 1, &[name, or_unset(&number), meta::text(port, &["protocol"])]);
    }
}

/// The page of an EndpointSlice.
pub fn slice_page(object: &Value) -> String {
    let mut out = begin(object);
    put(&mut out, "AddressType:", meta::text(object, &["addressType"]));
    let ports = meta::list(object, &["ports"]);
    if ports.is_empty() {
        row(&mut out, 0, &["Ports: <unset>"]);
    }
    port_table(&mut out, 0, ports);
    let endpoints = meta::list(object, &["endpoints"]);
    row(&mut out, 0, &[if endpoints.is_empty() { "Endpoints: <none>" } else { "Endpoints:" }]);
    for endpoint in endpoints {
        let addresses: Vec<String> = meta::list(endpoint, &["addresses"]).iter().map(jsonpath::text).collect();
        row(&mut out, 1, &["- Addresses:", &addresses.join(", ")]);
        row(&mut out, 2, &["Conditions:"]);
        let ready = meta::at(endpoint, &["conditions", "ready"]).map(jsonpath::text).unwrap_or_default();
        row(&mut out, 3, &["Ready:", or_unset(&ready)]);
        row(&mut out, 2, &["Hostname:", or_unset(meta::text(endpoint, &["hostname"]))]);
        if let Some(target) = meta::at(endpoint, &["targetRef"]) {
            let (kind, name) = (meta::text(target, &["kind"]), meta::text(target, &["name"]));
            row(&mut out, 2, &["TargetRef:", &format!("{kind}/{name}")]);
        }
        row(&mut out, 2, &["NodeName:", or_unset(meta::text(endpoint, &["nodeName"]))]);
        row(&mut out, 2, &["Zone:", or_unset(meta::text(endpoint, &["zone"]))]);
    }
    out
}

/// Ready addresses of one port; kubectl shows three and counts the rest.
fn endpoints(slices: &[Value], port_name: &str) -> String {
    const SHOWN: usize = 3;
    if slices.is_empty() {
        return "<none>".into();
    }
    let mut all = Vec::new();
    for slice in slices {
        let port = meta::list(slice, &["ports"]).iter().find(|port| meta::text(port, &["name"]) == port_name);
        let Some(port) = port.and_then(|port| meta::int(port, &["port"])) else { continue };
        let ready = |endpoint: &&Value| meta::at(endpoint, &["conditions", "ready"]) != Some(&Value::Bool(false));
        for endpoint in meta::list(slice, &["endpoints"]).iter().filter(ready) {
            let addresses = meta::list(endpoint, &["addresses"]).iter();
            all.extend(addresses.map(|address| format!("{}:{port}", jsonpath::text(address))));
        }
    }
    let more = all.len().saturating_sub(SHOWN);
    all.truncate(SHOWN);
    match more {
        0 => all.join(","),
        more => format!("{} + {more} more...", all.join(",")),
    }
}

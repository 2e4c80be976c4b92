//! The page of a Node.
use anyhow::Result;
use serde_json::Value;

use super::{Context, allocated, maybe, put, row, sorted, tags, time};
use crate::api::meta;
use crate::cli::jsonpath;

/// A Node's page.
pub async fn page(context: &Context<'_>, node: &Value) -> Result<String> {
    let mut out = String::new();
    let name = meta::name(node);
    put(&mut out, "Name:", name);
    put(&mut out, "Roles:", &roles(node));
    tags(&mut out, node);
    put(&mut out, "CreationTimestamp:", &time(meta::text(node, &["metadata", "creationTimestamp"])));
    taints(&mut out, node);
    put(
        &mut out,
        "Unschedulable:",
        &(meta::at(node, &["spec", "unschedulable"]) == Some(&Value::Bool(true))).to_string(),
    );
    lease(context, &mut out, name).await?;
    conditions(&mut out, node);
    row(&mut out, 0, &["Addresses:"]);
    for address in meta::list(node, &["status", "addresses"]) {
        row(&mut out, 1, &[&format!("{}:", meta::text(address, &["type"])), meta::text(address, &["address"])]);
    }
    for (title, field) in [("Capacity:", "capacity"), ("Allocatable:", "allocatable")] {
        let all = sorted(meta::map(node, &["status", field]));
        row(&mut out, 0, &[title]);
        all.into_iter().for_each(|(key, value)| row(&mut out, 1, &[&format!("{key}:"), &jsonpath::text(value)]));
    }
    system(&mut out, node);
    maybe(&mut out, 0, "PodCIDR:", meta::text(node, &["spec", "podCIDR"]));
    let cidrs: Vec<&str> = meta::list(node, &["spec", "podCIDRs"]).iter().filter_map(Value::as_str).collect();
    maybe(&mut out, 0, "PodCIDRs:", &cidrs.join(","));
    maybe(&mut out, 0, "ProviderID:", meta::text(node, &["spec", "providerID"]));
    let selector = format!("spec.nodeName={name},status.phase!=Succeeded,status.phase!=Failed");
    let pods = context.list("pods", None, &[("fieldSelector", &selector)]).await?;
    allocated::rows(&mut out, node, &pods);
    Ok(out)
}

fn conditions(out: &mut String, node: &Value) {
    row(out, 0, &["Conditions:"]);
    row(out, 1, &["Type", "Status", "LastHeartbeatTime", "LastTransitionTime", "Reason", "Message"]);
    row(out, 1, &["----", "------", "-----------------", "------------------", "------", "-------"]);
    for condition in meta::list(node, &["status", "conditions"]) {
        let text = |field: &str| format!("{} ", meta::text(condition, &[field]));
        let time = |field: &str| format!("{} ", time(meta::text(condition, &[field])));
        let times = [time("lastHeartbeatTime"), time("lastTransitionTime")];
        let message = meta::text(condition, &["message"]);
        row(out, 1, &[&text("type"), &text("status"), &times[0], &times[1], &text("reason"), message]);
    }
}

fn system(out: &mut String, node: &Value) {
    let text = |field: &str| meta::text(node, &["status", "nodeInfo", field]);
    row(out, 0, &["System Info:"]);
    for (title, field) in [
        ("Machine ID:", "machineID"),
        ("System UUID:", "systemUUID"),
        ("Boot ID:", "bootID"),
        ("Kernel Version:", "kernelVersion"),
        ("OS Image:", "osImage"),
        ("Operating System:", "operatingSystem"),
        ("Architecture:", "architecture"),
        ("Container Runtime Version:", "containerRuntimeVersion"),
        ("Kubelet Version:", "kubeletVersion"),
    ] {
        row(out, 1, &[title, text(field)]);
    }
    row(out, 1, &["Kube-Proxy Version:", text("kubeProxyVersion")]);
}

fn roles(node: &Value) -> String {
    const PREFIX: &str = "node-role.kubernetes.io/";
    let mut roles: Vec<&str> =
        meta::labels(node).into_iter().flatten().filter_map(|(key, _)| key.strip_prefix(PREFIX)).collect();
    roles.sort_unstable();
    if roles.is_empty() { "<none>".into() } else { roles.join(",") }
}

fn taints(out: &mut String, node: &Value) {
    let taint = |taint: &Value| {
        let text = |field: &str| meta::text(taint, &[field]);
        let value = if text("value").is_empty() { String::new() } else { format!("={}", text("value")) };
        format!("{}{value}:{}", text("key"), text("effect"))
    };
    let mut all: Vec<String> = meta::list(node, &["spec", "taints"]).iter().map(taint).collect();
    if all.is_empty() {
        all.push("<none>".into());
    }
    for (index, words) in all.iter().enumerate() {
        row(out, 0, &[if index == 0 { "Taints:" } else { "" }, words]);
    }
}

async fn lease(context: &Context<'_>, out: &mut String, name: &str) -> Result<()> {
    let leases =
        context.list("leases", Some("kube-node-lease"), &[("fieldSelector", &format!("metadata.name={name}"))]).await?;
    row(out, 0, &["Lease:"]);
    for lease in &leases {
        row(out, 1, &["HolderIdentity:", meta::text(lease, &["spec", "holderIdentity"])]);
        row(out, 1, &["AcquireTime:", &time(meta::text(lease, &["spec", "acquireTime"]))]);
        row(out, 1, &["RenewTime:", &time(meta::text(lease, &["spec", "renewTime"]))]);
    }
    Ok(())
}

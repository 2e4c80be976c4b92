//! Validation of services.
use super::{ALLOCATE, balances, uses};
use crate::api::kinds::check::At;
use crate::api::kinds::{Sub, names};
use crate::api::meta;
use serde_json::{Value, json};

/// A service, or the change of one.
pub fn validate(new: &At, old: Option<&Value>, sub: Sub) {
    if sub != Sub::Main {
        return;
    }
    let spec = new.child("spec");
    let kind = spec.text("type");
    spec.one_of("type", &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]);
    spec.one_of("sessionAffinity", &["ClientIP", "None"]);
    spec.one_of("internalTrafficPolicy", &["Cluster", "Local"]);
    spec.one_of("externalTrafficPolicy", &["Cluster", "Local"]);
    spec.one_of("ipFamilyPolicy", &["SingleStack", "PreferDualStack", "RequireDualStack"]);
    families(&spec);
    if spec.list("ports").is_empty() && spec.text("clusterIP") != "None" && kind != "ExternalName" {
        spec.child("ports").required("");
    }
    ports(&spec, kind);
    if !balances(spec.value) && spec.value.get(ALLOCATE).is_some_and(|set| !set.is_null()) {
        spec.child(ALLOCATE).forbidden("may only be used when `type` is 'LoadBalancer'");
    }
    let selector = spec.child("selector");
    for (key, value) in selector.entries() {
        selector.says(key, names::qualified_name(key));
        let value = value.as_str().unwrap_or("");
        selector.says(value, names::label_value(value));
    }
    addresses(&spec, kind);
    if let Some(old) = old {
        address_change(&spec, &old["spec"]);
    }
}

fn families(spec: &At) {
    for (family, text) in spec.each_text("ipFamilies") {
        match text {
            "IPv4" => {}
            "IPv6" => family.invalid("not configured on this cluster"),
            _ => family.not_supported(&["IPv4", "IPv6"]),
        }
    }
    if spec.text("ipFamilyPolicy") == "RequireDualStack" {
        spec.child("ipFamilyPolicy").invalid("this cluster is not configured for dual-stack services");
    }
}

fn ports(spec: &At, kind: &str) {
    let (mut seen_names, mut seen) = (Vec::new(), Vec::new());
    for port in spec.each("ports") {
        if spec.list("ports").len() > 1 {
            port.needs("name");
        }
        port.form("name", names::dns_label);
        port.unique("name", &mut seen_names);
        port.port("port");
        port.one_of("protocol", &["SCTP", "TCP", "UDP"]);
        if kind != "ExternalName" {
            port.port_or_name("targetPort");
        }
        let (protocol, number) = (port.text("protocol"), port.int("port"));
        if seen.contains(&(protocol, number)) {
            port.duplicate_as(json!({"protocol": protocol, "port": number}));
        }
        seen.push((protocol, number));
        if port.int("nodePort").unwrap_or(0) != 0 && !uses(spec.value).1 {
            port.child("nodePort").forbidden(format!("may not be used when `type` is '{kind}'"));
        }
    }
}

fn addresses(spec: &At, kind: &str) {
    let (ip, first) = (spec.text("clusterIP"), spec.item("clusterIPs", 0));
    if kind == "ExternalName" {
        let name = spec.text("externalName");
        spec.needs("externalName");
        if !name.is_empty() {
            let problems = names::dns_subdomain(name.trim_end_matches('.'));
            spec.child("externalName").says(name, problems);
        }
        if !ip.is_empty() {
            first.forbidden("may not be set when `type` is 'ExternalName'");
        }
        return;
    }
    if !ip.is_empty() && ip != "None" {
        first.says(ip, names::ip(ip));
    }
    if first.value.as_str().is_some_and(|first| first != ip) {
        spec.child("clusterIP").invalid_as(ip, "must match the first entry of `clusterIPs`");
    }
    if ip == "None" && uses(spec.value).1 {
        first.invalid_as("None", format!("may not be set to 'None' for {kind} services"));
    }
}

fn address_change(spec: &At, old: &Value) {
    let (was, is) = (meta::text(old, &["clusterIP"]), spec.text("clusterIP"));
    if uses(old).0 && uses(spec.value).0 && !was.is_empty() && was != is {
        let list = spec.value.get("clusterIPs").cloned().unwrap_or_else(|| json!([is]));
        spec.item("clusterIPs", 0).invalid_as(list, "may not change once set");
    }
}

//! Services: what they default to and what an update may leave out.
mod rules;

use super::check::At;
use super::common::{each_mut, fill, texts};
use super::{Kind, Strategy, Sub};
use crate::api::{meta, printers};
use k8s_openapi::api::core::v1 as core;
use serde_json::{Value, json};

/// The rows.
pub fn rows() -> Vec<Kind> {
    let service = Kind {
        short_names: &["svc"],
        categories: &["all"],
        subresources: &["status"],
        strategy: Strategy { default: defaults, prepare, validate: rules::validate, warnings },
        columns: printers::SERVICE,
        fields: |s| texts(s, &["spec.clusterIP", "spec.type"]),
        ..Kind::row::<core::Service>()
    };
    vec![service]
}

/// Whether a load balancer gets node ports to reach the service by.
pub(crate) const ALLOCATE: &str = "allocateLoadBalancerNodePorts";

/// Whether services of this type are behind a load balancer.
pub(crate) fn balances(spec: &Value) -> bool {
    meta::text(spec, &["type"]) == "LoadBalancer"
}

/// Whether services of this type have a virtual IP, and node ports.
pub(crate) fn uses(spec: &Value) -> (bool, bool) {
    let kind = meta::text(spec, &["type"]);
    (kind != "ExternalName", kind == "NodePort" || balances(spec))
}

fn defaults(service: &mut Value) {
    if !service["spec"].is_object() {
        return;
    }
    fill(service, "spec", json!({"sessionAffinity": "None", "type": "ClusterIP"}));
    if meta::text(service, &["spec", "sessionAffinity"]) == "ClientIP" {
        fill(service, "spec", json!({"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10_800}}}));
    }
    fill(service, "spec.ports.*", json!({"protocol": "TCP"}));
    each_mut(service, "spec.ports.*", &mut |port| {
        let unset = port["targetPort"].is_null() || port["targetPort"] == 0;
        if let (true, Some(number)) = (unset, port.get("port").cloned()) {
            port["targetPort"] = number;
        }
    });
    let kind = meta::text(service, &["spec", "type"]).to_string();
    if balances(&service["spec"]) {
        fill(service, "spec", json!({ALLOCATE: true}));
    }
    if kind == "NodePort" || kind == "LoadBalancer" {
        fill(service, "spec", json!({"externalTrafficPolicy": "Cluster"}));
    }
    if kind != "ExternalName" {
        let one_family = json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"]});
        fill(service, "spec", json!({"internalTrafficPolicy": "Cluster"}));
        fill(service, "spec", one_family);
        each_mut(service, "spec", &mut same_address);
    }
    fill(service, "", json!({"status": {"loadBalancer": {}}}));
}

/// `clusterIP` and `clusterIPs[0]` are one value written twice.
fn same_address(spec: &mut Value) {
    let one = meta::text(spec, &["clusterIP"]).to_string();
    let first = meta::list(spec, &["clusterIPs"]).first().and_then(Value::as_str).unwrap_or("").to_string();
    match (one.is_empty(), first.is_empty()) {
        (false, true) => spec["clusterIPs"] = json!([one]),
        (true, false) => spec["clusterIP"] = first.into(),
        _ => {}
    }
}

fn prepare(service: &mut Value, old: Option<&Value>, sub: Sub) {
    let Some(old) = old else {
        service["status"] = json!({"loadBalancer": {}});
        return;
    };
    if let Some(spec) = service.get_mut("spec").filter(|spec| sub == Sub::Main && spec.is_object()) {
        keep_allocated(spec, &old["spec"]);
        drop_unused(spec, &old["spec"]);
    }
}

/// An update that leaves out what the server allocated does not give it back.
pub(crate) fn keep_allocated(spec: &mut Value, old: &Value) {
    let ((ip, ports), (had_ip, had_ports)) = (uses(spec), uses(old));
    if ip && had_ip && meta::text(spec, &["clusterIP"]).is_empty() {
        for field in ["clusterIP", "clusterIPs"] {
            if let Some(value) = old.get(field) {
                spec[field] = value.clone();
            }
        }
    }
    if !(ports && had_ports) {
        return;
    }
    each_mut(spec, "ports.*", &mut |port| {
        let same = |o: &&Value| o.get("port") == port.get("port") && o.get("protocol") == port.get("protocol");
        let kept = meta::list(old, &["ports"]).iter().find(same).and_then(|twin| twin.get("nodePort")).cloned();
        if let (0, Some(kept)) = (meta::int(port, &["nodePort"]).unwrap_or(0), kept) {
            port["nodePort"] = kept;
        }
    });
}

/// What the new type does not have goes, unless the user changed it in this very request (then validation speaks).
fn drop_unused(spec: &mut Value, old: &Value) {
    let ((ip, ports), (had_ip, had_ports)) = (uses(spec), uses(old));
    let Some(map) = spec.as_object_mut() else {
        return;
    };
    if had_ip && !ip && map.get("clusterIP") == old.get("clusterIP") {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"] {
            map.shift_remove(field);
        }
    }
    if balances(old) && map.get(ALLOCATE) == old.get(ALLOCATE) && map.get("type") != old.get("type") {
        map.shift_remove(ALLOCATE);
    }
    if had_ports && !ports {
        map.shift_remove("externalTrafficPolicy");
        let before: Vec<Option<&Value>> = meta::list(old, &["ports"]).iter().map(|p| p.get("nodePort")).collect();
        each_mut(spec, "ports.*", &mut |port| {
            if let Some(port) = port.as_object_mut().filter(|p| before.contains(&p.get("nodePort"))) {
                port.shift_remove("nodePort");
            }
        });
    }
}

fn warnings(service: &At) {
    let spec = service.child("spec");
    if spec.text("type") == "LoadBalancer" {
        spec.child("type").warn(
            "there is no load balancer here; the service is reachable at its address and its node ports, if it has any",
        );
    }
    for field in ["externalIPs", "loadBalancerSourceRanges"].into_iter().filter(|f| !spec.list(f).is_empty()) {
        spec.child(field).warn("has no effect: not supported by this version of coracle");
    }
}

//! Objects that every cluster has and no controller makes: the Services behind which the API and DNS are.
//!
//! Neither runs in a pod, so their EndpointSlices are written here and not computed from pods. Everything is applied, so
//! doing it again after a restart (maybe with another address) changes only what is different.
use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

/// Who these objects' fields belong to.
const MANAGER: &str = "coracle-bootstrap";

/// Where the daemon answers, as seen by pods.
pub struct Addresses {
    /// ClusterIP of `kubernetes`.
    pub api_service: Ipv4Addr,
    /// ClusterIP of `kube-dns`.
    pub dns_service: Ipv4Addr,
    /// The host on the underlay.
    pub gateway: Ipv4Addr,
    /// Where the API listens there.
    pub api_port: u16,
    /// Where DNS listens there.
    pub dns_port: u16,
}

struct Port {
    name: &'static str,
    protocol: &'static str,
    port: u16,
    target: u16,
}

/// Applies them all.
pub async fn ensure(client: &kube::Client, at: &Addresses) -> Result<()> {
    let api = [Port { name: "https", protocol: "TCP", port: 443, target: at.api_port }];
    let dns = [
        Port { name: "dns", protocol: "UDP", port: 53, target: at.dns_port },
        Port { name: "dns-tcp", protocol: "TCP", port: 53, target: at.dns_port },
    ];
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let dns_labels =
        json!({"k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS", "kubernetes.io/cluster-service": "true"});
    service(client, "default", "kubernetes", at.api_service, labels, &api, at.gateway).await?;
    service(client, "kube-system", "kube-dns", at.dns_service, dns_labels, &dns, at.gateway).await
}

async fn service(
    client: &kube::Client,
    namespace: &str,
    name: &str,
    ip: Ipv4Addr,
    labels: Value,
    ports: &[Port],
    target: Ipv4Addr,
) -> Result<()> {
    let outside = |p: &Port| json!({"name": p.name, "protocol": p.protocol, "port": p.port, "targetPort": p.target});
    let outside: Vec<Value> = ports.iter().map(outside).collect();
    let inside = |p: &Port| json!({"name": p.name, "protocol": p.protocol, "port": p.target});
    let inside: Vec<Value> = ports.iter().map(inside).collect();
    let object = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "labels": labels},
        "spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "ports": outside},
    });
    apply(&Api::<Service>::namespaced(client.clone(), namespace), name, &object).await?;
    // The mirroring controller would make a second slice of these Endpoints.
    let mirror = json!({"endpointslice.kubernetes.io/skip-mirror": "true"});
    let object = json!({
        "apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": name, "labels": mirror},
        "subsets": [{"addresses": [{"ip": target}], "ports": inside}],
    });
    apply(&Api::<Endpoints>::namespaced(client.clone(), namespace), name, &object).await?;
    let object = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}}, "addressType": "IPv4",
        "endpoints": [{"addresses": [target], "conditions": {"ready": true}}], "ports": inside,
    });
    apply(&Api::<EndpointSlice>::namespaced(client.clone(), namespace), name, &object).await
}

async fn apply<K>(api: &Api<K>, name: &str, object: &Value) -> Result<()>
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let params = PatchParams::apply(MANAGER).force();
    let applied = api.patch(name, &params, &Patch::Apply(object)).await;
    applied.map(drop).with_context(|| format!("applying {} {name}", object["kind"]))
}

//! The downward API: a pod's own fields and resources as text. Pure.
use super::{env::Facts, resources, spec};
use crate::api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use std::collections::BTreeMap;

/// The value of a `fieldRef`.
pub fn field(pod: &Pod, path: &str, facts: &Facts) -> Result<String, String> {
    let meta = &pod.metadata;
    if let Some(key) = subscript(path, "metadata.labels") {
        return Ok(meta.labels.as_ref().and_then(|l| l.get(key)).cloned().unwrap_or_default());
    }
    if let Some(key) = subscript(path, "metadata.annotations") {
        return Ok(meta.annotations.as_ref().and_then(|a| a.get(key)).cloned().unwrap_or_default());
    }
    let spec = spec::spec(pod);
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    Ok(match path {
        "metadata.name" => text(&meta.name),
        "metadata.namespace" => text(&meta.namespace),
        "metadata.uid" => text(&meta.uid),
        "metadata.labels" => lines(meta.labels.as_ref()),
        "metadata.annotations" => lines(meta.annotations.as_ref()),
        "spec.nodeName" => facts.node_name.clone(),
        "spec.serviceAccountName" => text(&spec.service_account_name),
        "status.podIP" | "status.podIPs" => facts.pod_ip.clone(),
        "status.hostIP" | "status.hostIPs" => facts.host_ip.clone(),
        other => return Err(format!("unsupported fieldPath: {other}")),
    })
}

/// `metadata.labels['key']` -> `key`.
fn subscript<'a>(path: &'a str, of: &str) -> Option<&'a str> {
    path.strip_prefix(of)?.strip_prefix("['")?.strip_suffix("']")
}

fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines = map.into_iter().flatten().map(|(k, v)| format!("{k}={v:?}"));
    lines.collect::<Vec<_>>().join("\n")
}

/// The value of a `resourceFieldRef`, divided and rounded up; without a limit, what the node has.
pub fn resource(
    pod: &Pod,
    own: Option<&Container>,
    field: &ResourceFieldSelector,
    facts: &Facts,
) -> Result<String, String> {
    let named = field.container_name.as_deref().filter(|name| !name.is_empty());
    let container = match named {
        Some(name) => spec::container(pod, name).map(|(_, c)| c),
        None => own,
    };
    let container = container.ok_or_else(|| format!("container {named:?} not found"))?;
    let (list, name) = field.resource.split_once('.').unwrap_or(("", ""));
    let of_node = match name {
        "cpu" => Quantity::from_milli(facts.cpu_milli as i64),
        "memory" => Quantity::from_bytes(facts.memory as i64),
        _ => Quantity::default(),
    };
    let amount = match list {
        "limits" => resources::limit(container, name).unwrap_or(of_node),
        "requests" => resources::request(container, name).unwrap_or_default(),
        _ => {
            return Err(format!("unsupported container resource: {}", field.resource));
        }
    };
    let divisor = field.divisor.as_ref().and_then(|d| d.0.parse::<Quantity>().ok());
    let divisor = divisor.filter(|d| !d.is_zero()).unwrap_or(Quantity::from_int(1)).nanos;
    Ok((amount.nanos.div_euclid(divisor) + i128::from(amount.nanos.rem_euclid(divisor) != 0)).to_string())
}

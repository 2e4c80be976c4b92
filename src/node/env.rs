//! A container's environment: services, envFrom, env, `$(VAR)`. Pure.
use super::{
    downward,
    sources::{Data, Sources},
    spec,
};
use k8s_openapi::api::core::v1::{Container, EnvVarSource, Pod, Service};
use std::collections::BTreeMap;

/// What the environment depends on besides manifest and objects.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    pub pod_ip: String,
    pub host_ip: String,
    pub node_name: String,
    /// For `resourceFieldRef` without a limit: what the node has.
    pub cpu_milli: u64,
    pub memory: u64,
}

/// The variables in the order they are set, later ones winning. Errors are worded as the kubelet words them.
pub fn environment(
    pod: &Pod,
    container: &Container,
    sources: &Sources,
    facts: &Facts,
) -> Result<Vec<(String, String)>, String> {
    let services = services(pod, &sources.services);
    let mut known: BTreeMap<String, String> = services.clone();
    let mut set: Vec<(String, String)> = Vec::new();
    for (name, value) in env_from(pod, container, sources)? {
        known.insert(name.clone(), value.clone());
        set.push((name, value));
    }
    for env in container.env.iter().flatten() {
        let value = match (&env.value, &env.value_from) {
            (_, Some(source)) => match value_from(pod, container, source, sources, facts)? {
                Some(value) => value,
                None => continue,
            },
            (Some(value), None) => expand(value, &known),
            (None, None) => String::new(),
        };
        known.insert(env.name.clone(), value.clone());
        set.push((env.name.clone(), value));
    }
    let mut all: Vec<_> = services.into_iter().filter(|(k, _)| set.iter().all(|(s, _)| s != k)).collect();
    all.extend(set);
    Ok(all)
}

fn no_key(kind: &str, pod: &Pod, name: &str, key: &str) -> String {
    format!("couldn't find key {key} in {kind} {}/{name}", spec::namespace(pod))
}

fn env_from(pod: &Pod, container: &Container, sources: &Sources) -> Result<Vec<(String, String)>, String> {
    let mut set = Vec::new();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.clone().unwrap_or_default();
        let (data, optional) = match (&source.config_map_ref, &source.secret_ref) {
            (Some(from), _) => (sources.config_map(&from.name), from.optional),
            (_, Some(from)) => (sources.secret(&from.name), from.optional),
            _ => return Err(format!("envFrom of pod {} names no source", spec::full_name(pod))),
        };
        let data = if optional == Some(true) { data.unwrap_or_default() } else { data? };
        for (key, value) in data {
            set.push((format!("{prefix}{key}"), String::from_utf8_lossy(&value).into_owned()));
        }
    }
    Ok(set)
}

fn value_from(
    pod: &Pod,
    container: &Container,
    source: &EnvVarSource,
    sources: &Sources,
    facts: &Facts,
) -> Result<Option<String>, String> {
    let value = |kind: &str, data: Result<Data, String>, name: &str, key: &str, optional: Option<bool>| {
        let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
        let found = data.and_then(|data| data.get(key).map(text).ok_or_else(|| no_key(kind, pod, name, key)));
        if optional == Some(true) { Ok(found.ok()) } else { found.map(Some) }
    };
    if let Some(from) = &source.config_map_key_ref {
        return value("ConfigMap", sources.config_map(&from.name), &from.name, &from.key, from.optional);
    }
    if let Some(from) = &source.secret_key_ref {
        return value("Secret", sources.secret(&from.name), &from.name, &from.key, from.optional);
    }
    if let Some(field) = &source.field_ref {
        return downward::field(pod, &field.field_path, facts).map(Some);
    }
    if let Some(field) = &source.resource_field_ref {
        return downward::resource(pod, Some(container), field, facts).map(Some);
    }
    Err("valueFrom names no source that is supported".into())
}

/// `{NAME}_SERVICE_HOST` and friends of the Services in the pod's namespace, and the API's own.
fn services(pod: &Pod, all: &[Service]) -> BTreeMap<String, String> {
    let links = spec::spec(pod).enable_service_links != Some(false);
    let mut set = BTreeMap::new();
    for service in all {
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
        let api = name == "kubernetes" && namespace == "default";
        if !api && (!links || namespace != spec::namespace(pod)) {
            continue;
        }
        service_variables(name, service, &mut set);
    }
    set
}

fn service_variables(name: &str, service: &Service, set: &mut BTreeMap<String, String>) {
    let Some(spec) = &service.spec else { return };
    let ip = spec.cluster_ip.as_deref().unwrap_or_default();
    let ports = spec.ports.as_deref().unwrap_or_default();
    let (Some(first), false) = (ports.first(), ip.is_empty() || ip == "None") else {
        return;
    };
    let upper = |text: &str| text.to_uppercase().replace('-', "_");
    let prefix = upper(name);
    set.insert(format!("{prefix}_SERVICE_HOST"), ip.to_string());
    set.insert(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
    for (n, port) in ports.iter().enumerate() {
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            set.insert(format!("{prefix}_SERVICE_PORT_{}", upper(name)), port.port.to_string());
        }
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let url = format!("{}://{ip}:{}", protocol.to_lowercase(), port.port);
        if n == 0 {
            set.insert(format!("{prefix}_PORT"), url.clone());
        }
        let long = format!("{prefix}_PORT_{}_{protocol}", port.port);
        set.insert(long.clone(), url);
        set.insert(format!("{long}_PROTO"), protocol.to_lowercase());
        set.insert(format!("{long}_PORT"), port.port.to_string());
        set.insert(format!("{long}_ADDR"), ip.to_string());
    }
}

/// Replaces `$(NAME)` by its value; `$$` is a dollar; unknown names stay as they are.
pub fn expand(text: &str, known: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let tail = &rest[at + 1..];
        let (replaced, next) = match tail.as_bytes().first() {
            Some(b'$') => ("$".to_string(), &tail[1..]),
            Some(b'(') => match tail.find(')') {
                Some(end) => {
                    let name = &tail[1..end];
                    let value = known.get(name).cloned();
                    (value.unwrap_or_else(|| format!("$({name})")), &tail[end + 1..])
                }
                None => ("$(".to_string(), &tail[1..]),
            },
            _ => ("$".to_string(), tail),
        };
        out.push_str(&replaced);
        rest = next;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn variables_are_expanded_as_in_kubernetes() {
        let known = BTreeMap::from([("A".to_string(), "1".to_string())]);
        for (text, want) in [
            ("$(A)", "1"),
            ("x$(A)y$(B)", "x1y$(B)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$A $", "$A $"),
            ("$(A", "$(A"),
        ] {
            assert_eq!(expand(text, &known), want, "{text}");
        }
    }

    #[test]
    fn sources_come_in_order_and_missing_ones_are_named() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "labels": {"app": "x"}},
            "spec": {"containers": [{"name": "c",
                "envFrom": [{"configMapRef": {"name": "m"}, "prefix": "P_"}],
                "env": [
                    {"name": "API", "value": "$(KUBERNETES_SERVICE_HOST)"},
                    {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                    {"name": "NO", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": true}}},
                ]}]}
        }))
        .unwrap();
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let mut sources = Sources {
            services: vec![
                serde_json::from_value(json!({
                "metadata": {"name": "kubernetes", "namespace": "default"},
                "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443}]}}))
                .unwrap(),
            ],
            ..Default::default()
        };
        let facts = Facts::default();
        let found = environment(&pod, container, &sources, &facts);
        assert_eq!(found, Err("configmap \"m\" not found".into()));
        let map = serde_json::from_value(json!({"data": {"k": "v"}})).unwrap();
        sources.config_maps.insert("m".into(), Some(map));
        let found = environment(&pod, container, &sources, &facts).unwrap();
        let tail: Vec<_> = found.iter().rev().take(3).rev().cloned().collect();
        let pair = |k: &str, v: &str| (k.to_string(), v.to_string());
        assert_eq!(tail, [pair("P_k", "v"), pair("API", "10.96.0.1"), pair("APP", "x")]);
        assert!(found.contains(&pair("KUBERNETES_SERVICE_PORT_HTTPS", "443")));
    }
}

//! Discovery documents: `/api`, `/apis`, resource lists, aggregated discovery v2, `/version`.
//!
//! All of them are read off the table of kinds, in its order; the first version of a group is its preferred one.
use super::kinds::{Kind, kinds};
use indexmap::IndexSet;
use serde_json::{Value, json};

/// `/api`; `address` is `host:port` of the server.
pub fn core_versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

/// `/apis`
pub fn groups() -> Value {
    let groups: Vec<Value> = group_names().into_iter().filter(|g| !g.is_empty()).map(group_document).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/<group>`
pub fn group(group: &str) -> Option<Value> {
    if group.is_empty() || versions(group).is_empty() {
        return None;
    }
    let mut document = group_document(group);
    document["kind"] = "APIGroup".into();
    document["apiVersion"] = "v1".into();
    Some(document)
}

/// `/api/v1`, `/apis/<group>/<version>`
pub fn resources(group: &str, version: &str) -> Option<Value> {
    let mut resources = Vec::new();
    for kind in of_version(group, version) {
        resources.push(resource(kind));
        resources.extend(subresources(kind).map(|sub| legacy_subresource(kind, &sub)));
    }
    (!resources.is_empty()).then(|| {
        json!({
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": group_version(group, version),
            "resources": resources,
        })
    })
}

/// `/api` (core = true) or `/apis` as `APIGroupDiscoveryList` of apidiscovery.k8s.io/v2.
pub fn aggregated(core: bool) -> Value {
    let groups = group_names().into_iter().filter(|g| g.is_empty() == core);
    let items: Vec<Value> = groups
        .map(|group| {
            let metadata = if core { json!({}) } else { json!({"name": group}) };
            let versions: Vec<Value> = versions(group)
                .into_iter()
                .map(|version| {
                    let resources: Vec<Value> = of_version(group, version).map(aggregated_resource).collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

/// `/version`
pub fn version() -> Value {
    json!({
        "major": "1",
        "minor": "35",
        "emulationMajor": "1",
        "emulationMinor": "35",
        "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "34",
        "gitVersion": super::GIT_VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("linux/{}", architecture()),
    })
}

/// The machine's architecture in Go's words, as nodes and versions carry it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Every group with its versions, in discovery order: what OpenAPI has a document for.
pub fn group_versions() -> IndexSet<(&'static str, &'static str)> {
    kinds().iter().map(|kind| (kind.group, kind.version)).collect()
}

/// `v1` or `apps/v1`.
pub fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_string() } else { format!("{group}/{version}") }
}

/// The kinds of one version of a group.
pub fn of_version<'a>(group: &'a str, version: &'a str) -> impl Iterator<Item = &'static Kind> + 'a {
    kinds().iter().filter(move |k| k.group == group && k.version == version)
}

fn group_names() -> IndexSet<&'static str> {
    kinds().iter().map(|kind| kind.group).collect()
}

fn versions(group: &str) -> Vec<&'static str> {
    group_versions().into_iter().filter(|(g, _)| *g == group).map(|(_, version)| version).collect()
}

fn group_document(group: &str) -> Value {
    let versions: Vec<Value> = versions(group)
        .into_iter()
        .map(|version| json!({"groupVersion": group_version(group, version), "version": version}))
        .collect();
    json!({"name": group, "preferredVersion": versions.first(), "versions": versions})
}

fn resource(kind: &Kind) -> Value {
    let resource = json!({
        "name": kind.plural,
        "singularName": kind.singular(),
        "namespaced": kind.namespaced,
        "kind": kind.kind,
        "verbs": sorted(kind.verbs),
    });
    with_lists(resource, [("shortNames", json!(kind.short_names)), ("categories", json!(kind.categories))])
}

/// The resource with those of the lists that have items.
fn with_lists<const N: usize>(mut resource: Value, lists: [(&str, Value); N]) -> Value {
    for (field, list) in lists.into_iter().filter(|(_, list)| *list != json!([])) {
        resource[field] = list;
    }
    resource
}

/// What a subresource takes and gives: (name, group, version, kind, verbs).
struct Subresource {
    name: &'static str,
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    verbs: &'static [&'static str],
}

fn subresources(kind: &'static Kind) -> impl Iterator<Item = Subresource> {
    const CHANGE: &[&str] = &["get", "patch", "update"];
    const STREAM: &[&str] = &["create", "get"];
    kind.subresources.iter().map(|&name| {
        let (group, version, answer, verbs): (_, _, _, &[&str]) = match name {
            "scale" => ("autoscaling", "v1", "Scale", CHANGE),
            "log" => (kind.group, kind.version, kind.kind, &["get"]),
            "exec" => ("", "v1", "PodExecOptions", STREAM),
            "attach" => ("", "v1", "PodAttachOptions", STREAM),
            "portforward" => ("", "v1", "PodPortForwardOptions", STREAM),
            "binding" => ("", "v1", "Binding", &["create"]),
            "eviction" => ("policy", "v1", "Eviction", &["create"]),
            "token" => ("authentication.k8s.io", "v1", "TokenRequest", &["create"]),
            "finalize" => (kind.group, kind.version, kind.kind, &["update"]),
            _ => (kind.group, kind.version, kind.kind, CHANGE),
        };
        Subresource { name, group, version, kind: answer, verbs }
    })
}

fn legacy_subresource(kind: &Kind, sub: &Subresource) -> Value {
    let mut resource = json!({
        "name": format!("{}/{}", kind.plural, sub.name),
        "singularName": "",
        "namespaced": kind.namespaced,
        "kind": sub.kind,
        "verbs": sub.verbs,
    });
    if (sub.group, sub.version) != (kind.group, kind.version) {
        resource["group"] = sub.group.into();
        resource["version"] = sub.version.into();
    }
    resource
}

fn aggregated_resource(kind: &'static Kind) -> Value {
    let resource = json!({
        "resource": kind.plural,
        "responseKind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular(),
        "verbs": sorted(kind.verbs),
    });
    let subresource = |sub: Subresource| {
        json!({
            "subresource": sub.name,
            "responseKind": {"group": sub.group, "version": sub.version, "kind": sub.kind},
            "verbs": sub.verbs,
        })
    };
    let subresources: Vec<Value> = subresources(kind).map(subresource).collect();
    let lists = [("shortNames", json!(kind.short_names)), ("categories", json!(kind.categories))];
    with_lists(with_lists(resource, lists), [("subresources", subresources.into())])
}

fn sorted(verbs: &[&'static str]) -> Vec<&'static str> {
    let mut verbs = verbs.to_vec();
    verbs.sort_unstable();
    verbs
}

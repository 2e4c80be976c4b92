//! Volumes on the pages of pods and templates.
use serde_json::Value;

use super::row;
use crate::api::meta;
use crate::cli::jsonpath;

/// What a kind of volume is, and the fields kubectl shows of it: title, field and what stands for a missing one.
type Layout = (&'static str, &'static str, &'static [(&'static str, &'static str, &'static str)]);

const LAYOUTS: [Layout; 6] = [
    (
        "hostPath",
        "HostPath (bare host directory volume)",
        &[("Path:", "path", ""), ("HostPathType:", "type", "<none>")],
    ),
    (
        "emptyDir",
        "EmptyDir (a temporary directory that shares a pod's lifetime)",
        &[("Medium:", "medium", ""), ("SizeLimit:", "sizeLimit", "<unset>")],
    ),
    (
        "secret",
        "Secret (a volume populated by a Secret)",
        &[("SecretName:", "secretName", ""), ("Optional:", "optional", "false")],
    ),
    (
        "configMap",
        "ConfigMap (a volume populated by a ConfigMap)",
        &[("Name:", "name", ""), ("Optional:", "optional", "false")],
    ),
    ("downwardAPI", "DownwardAPI (a volume populated by information about the pod)", &[]),
    ("projected", "Projected (a volume that contains injected data from multiple sources)", &[]),
];

/// All volumes of a pod (level 0) or template (level 1).
pub fn volumes(out: &mut String, level: usize, all: &[Value]) {
    row(out, level, if all.is_empty() { &["Volumes:", "<none>"] } else { &["Volumes:"] });
    for volume in all {
        let indent = if level == 0 { "" } else { " " };
        row(out, 1, &[&format!("{indent}{}:", meta::text(volume, &["name"]))]);
        let found = LAYOUTS.iter().find_map(|layout| Some((layout, volume.get(layout.0)?)));
        let Some(((_, words, fields), source)) = found else {
            row(out, 1, &["<unknown>"]);
            continue;
        };
        row(out, 2, &["Type:", words]);
        shown(out, fields, source);
        if let Some(items) = volume.get("downwardAPI") {
            row(out, 2, &["Items:"]);
            meta::list(items, &["items"]).iter().for_each(|item| row(out, 3, &[&mapping(item)]));
        }
        meta::list(source, &["sources"]).iter().for_each(|source| projection(out, source));
    }
}

fn shown(out: &mut String, fields: &[(&str, &str, &str)], source: &Value) {
    for (title, field, default) in fields {
        row(out, 2, &[title, &source.get(field).map_or_else(|| (*default).to_owned(), jsonpath::text)]);
    }
}

fn mapping(item: &Value) -> String {
    let field = match meta::text(item, &["fieldRef", "fieldPath"]) {
        "" => meta::text(item, &["resourceFieldRef", "resource"]),
        field => field,
    };
    format!("{field} -> {}", meta::text(item, &["path"]))
}

fn projection(out: &mut String, source: &Value) {
    const OPTIONAL: (&str, &str, &str) = ("Optional:", "optional", "false");
    if let Some(secret) = source.get("secret") {
        shown(out, &[("SecretName:", "name", ""), OPTIONAL], secret);
    } else if source.get("downwardAPI").is_some() {
        row(out, 2, &["DownwardAPI:", "true"]);
    } else if let Some(config_map) = source.get("configMap") {
        shown(out, &[("ConfigMapName:", "name", ""), OPTIONAL], config_map);
    } else if let Some(token) = source.get("serviceAccountToken") {
        shown(out, &[("TokenExpirationSeconds:", "expirationSeconds", "3600")], token);
    }
}

//! The pages of ConfigMaps, Secrets, Namespaces, ServiceAccounts and role bindings.
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::{begin, put, row, sorted, tags};
use crate::api::meta;

/// Bytes behind a value of base64.
fn decoded(value: &Value) -> Vec<u8> {
    STANDARD.decode(value.as_str().unwrap_or("")).unwrap_or_default()
}

/// A ConfigMap's page: its whole content.
pub fn config_map(object: &Value) -> String {
    let mut out = begin(object);
    out.push_str("\nData\n====\n");
    for (key, value) in sorted(meta::map(object, &["data"])) {
        out.push_str(&format!("{key}:\n----\n{}\n\n", value.as_str().unwrap_or("")));
    }
    out.push_str("\nBinaryData\n====\n");
    for (key, value) in sorted(meta::map(object, &["binaryData"])) {
        out.push_str(&format!("{key}: {} bytes\n", decoded(value).len()));
    }
    out + "\n"
}

/// A Secret's page, which may be read over a shoulder: how much there is of each key. A token is shown, as kubectl does.
pub fn secret(object: &Value) -> String {
    let mut out = begin(object);
    let kind = meta::text(object, &["type"]);
    out.push_str(&format!("\nType:\t{kind}\n\nData\n====\n"));
    for (key, value) in sorted(meta::map(object, &["data"])) {
        let bytes = decoded(value);
        let words = match (kind, key.as_str()) {
            ("kubernetes.io/service-account-token", "token") => String::from_utf8_lossy(&bytes).into_owned(),
            _ => format!("{} bytes", bytes.len()),
        };
        put(&mut out, &format!("{key}:"), &words);
    }
    out
}

/// A Namespace's page.
pub fn namespace(object: &Value) -> String {
    let mut out = String::new();
    put(&mut out, "Name:", meta::name(object));
    tags(&mut out, object);
    put(&mut out, "Status:", meta::text(object, &["status", "phase"]));
    out
}

/// A ServiceAccount's page.
pub fn service_account(object: &Value) -> String {
    let mut out = begin(object);
    let title = "Image pull secrets:";
    let secrets = meta::list(object, &["imagePullSecrets"]);
    if secrets.is_empty() {
        put(&mut out, title, "<none>");
    }
    for (index, secret) in secrets.iter().enumerate() {
        let blank = " ".repeat(title.len());
        put(&mut out, if index == 0 { title } else { &blank }, meta::text(secret, &["name"]));
    }
    out
}

/// The page of a RoleBinding or ClusterRoleBinding.
pub fn binding(object: &Value) -> String {
    let mut out = String::new();
    put(&mut out, "Name:", meta::name(object));
    tags(&mut out, object);
    row(&mut out, 0, &["Role:"]);
    row(&mut out, 1, &["Kind:", meta::text(object, &["roleRef", "kind"])]);
    row(&mut out, 1, &["Name:", meta::text(object, &["roleRef", "name"])]);
    row(&mut out, 0, &["Subjects:"]);
    row(&mut out, 1, &["Kind", "Name", "Namespace"]);
    row(&mut out, 1, &["----", "----", "---------"]);
    for subject in meta::list(object, &["subjects"]) {
        let text = |field: &str| meta::text(subject, &[field]);
        row(&mut out, 1, &[text("kind"), text("name"), text("namespace")]);
    }
    out
}

//! ConfigMaps, Secrets, ServiceAccounts.
use super::check::At;
use super::{Kind, Strategy, Sub, names};
use crate::api::{meta, printers};
use base64::Engine;
use k8s_openapi::api::core::v1 as core;
use serde_json::{Map, Value};

/// Most bytes a ConfigMap or Secret may carry.
const MAX_BYTES: usize = 1024 * 1024;

/// The rows.
pub fn rows() -> Vec<Kind> {
    let config_map = Kind {
        short_names: &["cm"],
        strategy: Strategy { validate: config_map_rules, ..Strategy::PLAIN },
        columns: printers::CONFIG_MAP,
        ..Kind::row::<core::ConfigMap>()
    };
    let secret = Kind {
        strategy: Strategy { default: secret_defaults, validate: secret_rules, ..Strategy::PLAIN },
        columns: printers::SECRET,
        fields: |s: &Value| vec![("type", meta::text(s, &["type"]).to_string())],
        ..Kind::row::<core::Secret>()
    };
    let account = Kind {
        short_names: &["sa"],
        subresources: &["token"],
        columns: printers::SERVICE_ACCOUNT,
        ..Kind::row::<core::ServiceAccount>()
    };
    vec![config_map, secret, account]
}

fn keys(map: &At) {
    for (key, _) in map.entries() {
        map.key(key).says(key, names::config_key(key));
    }
}

/// Decoded size of the base64 texts of a map.
fn decoded(map: &At) -> usize {
    let size = |value: &Value| value.as_str().map_or(0, |text| text.trim_end_matches('=').len() * 3 / 4);
    map.entries().map(|(_, value)| size(value)).sum()
}

/// What an immutable object may not change.
fn frozen(new: &At, old: Option<&Value>, fields: &[&str]) {
    const WHY: &str = "field is immutable when `immutable` is set";
    let Some(old) = old.filter(|old| old["immutable"] == true) else {
        return;
    };
    if new.value["immutable"] != true {
        new.child("immutable").forbidden(WHY);
    }
    for field in fields.iter().filter(|field| new.value.get(**field) != old.get(**field)) {
        new.child(field).forbidden(WHY);
    }
}

fn config_map_rules(new: &At, old: Option<&Value>, _: Sub) {
    let (data, binary) = (new.child("data"), new.child("binaryData"));
    keys(&data);
    keys(&binary);
    for (key, _) in data.entries().filter(|(key, _)| !binary.key(key).value.is_null()) {
        data.key(key).invalid_as(key, "duplicate of key present in binaryData");
    }
    let text: usize = data.entries().map(|(_, value)| value.as_str().map_or(0, str::len)).sum();
    new.at_most_bytes(text + decoded(&binary), MAX_BYTES);
    frozen(new, old, &["data", "binaryData"]);
}

fn secret_defaults(secret: &mut Value) {
    let Some(map) = secret.as_object_mut() else {
        return;
    };
    if map.get("type").and_then(Value::as_str).unwrap_or("").is_empty() {
        map.insert("type".into(), "Opaque".into());
    }
    // `stringData` is a way to write `data`; it is never stored.
    let Some(Value::Object(plain)) = map.shift_remove("stringData") else {
        return;
    };
    let data = map.entry("data").or_insert_with(|| Value::Object(Map::new()));
    if !data.is_object() {
        *data = Value::Object(Map::new());
    }
    for (key, value) in plain {
        let text = value.as_str().unwrap_or("");
        data[key] = base64::engine::general_purpose::STANDARD.encode(text).into();
    }
}

/// Keys that secrets of a type must have.
const TYPED: &[(&str, &[&str])] = &[
    ("kubernetes.io/tls", &["tls.crt", "tls.key"]),
    ("kubernetes.io/dockercfg", &[".dockercfg"]),
    ("kubernetes.io/dockerconfigjson", &[".dockerconfigjson"]),
    ("kubernetes.io/ssh-auth", &["ssh-privatekey"]),
];

fn secret_rules(new: &At, old: Option<&Value>, _: Sub) {
    const ACCOUNT: &str = "kubernetes.io/service-account.name";
    let data = new.child("data");
    keys(&data);
    data.at_most_bytes(decoded(&data), MAX_BYTES);
    let kind = new.text("type");
    let has = |key: &str| !data.key(key).value.is_null();
    let needed = TYPED.iter().find(|(t, _)| *t == kind).map_or(&[][..], |(_, keys)| keys);
    for key in needed.iter().filter(|key| !has(key)) {
        data.key(key).required("");
    }
    if kind == "kubernetes.io/basic-auth" && !has("username") && !has("password") {
        data.key("username").required("");
        data.key("password").required("");
    }
    let is_token = kind == "kubernetes.io/service-account-token";
    if is_token && meta::annotation(new.value, ACCOUNT).is_none_or(str::is_empty) {
        new.child("metadata.annotations").key(ACCOUNT).required("");
    }
    new.immutable(old, "type");
    frozen(new, old, &["data"]);
}

//! OpenAPI documents, built on request from Kubernetes' own schemas.
//!
//! The schemas are k8s-openapi's, in the form kube-apiserver gives them: references inside `allOf`, merge keys as
//! `x-kubernetes-*` extensions, every kind marked with its group, version and kind. Paths are there as far as clients
//! read them: kubectl looks up which kind a path serves and whether its PATCH takes `dryRun` and `fieldValidation`.
use super::GIT_VERSION;
use super::discovery::{group_version, group_versions, of_version};
use super::kinds::{Kind, kinds};
use super::patch::rules::{self, ListType, Patch};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

const V2_REF: &str = "#/definitions/";
const V3_REF: &str = "#/components/schemas/";

/// `/openapi/v2` as JSON bytes.
pub fn v2() -> Vec<u8> {
    let mut paths = Map::new();
    for kind in kinds() {
        paths.extend(paths_of(kind, parameter_v2));
    }
    let document = json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": GIT_VERSION},
        "paths": paths,
        "definitions": schemas(kinds().iter(), V2_REF),
    });
    document.to_string().into_bytes()
}

/// `/openapi/v2` in gnostic's protobuf form, with no definitions: every kind served is in version 3, and kubectl comes
/// here only for kinds it did not find there; an empty document lets it say that there is no such kind.
pub fn v2_protobuf() -> Vec<u8> {
    // Field numbers of `openapi.v2.Document`: swagger = 1, info = 2 (title = 1, version = 2), paths = 8.
    let text = |number: u8, text: &str| [&[number << 3 | 2, text.len() as u8][..], text.as_bytes()].concat();
    let info = [text(1, "Kubernetes"), text(2, GIT_VERSION)].concat();
    [text(1, "2.0"), vec![2 << 3 | 2, info.len() as u8], info, vec![8 << 3 | 2, 0]].concat()
}

/// `/openapi/v3`: paths of the documents with their hashes.
pub fn v3_index() -> Value {
    let mut paths = Map::new();
    for (group, version) in group_versions() {
        let path = if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
        // The documents change with the program only, so its version is as good as a hash of their bytes.
        let hash =
            Sha256::digest(format!("{} {path} {}", env!("CARGO_PKG_VERSION"), of_version(group, version).count()));
        let url = format!("/openapi/v3/{path}?hash={}", hex::encode_upper(hash));
        paths.insert(path, json!({"serverRelativeURL": url}));
    }
    json!({"paths": paths})
}

/// `/openapi/v3/api/v1`, `/openapi/v3/apis/<group>/<version>` as JSON bytes.
pub fn v3(group: &str, version: &str) -> Option<Vec<u8>> {
    let mut paths = Map::new();
    for kind in of_version(group, version) {
        paths.extend(paths_of(kind, parameter_v3));
    }
    let document = json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": GIT_VERSION},
        "paths": paths,
        "components": {"schemas": schemas(of_version(group, version), V3_REF)},
    });
    of_version(group, version).next()?;
    Some(document.to_string().into_bytes())
}

/// Every schema that the kinds name, directly or not.
fn schemas(kinds: impl Iterator<Item = &'static Kind>, reference: &str) -> Map<String, Value> {
    let mut generator = schemars::SchemaGenerator::default();
    let mut roots: Vec<(String, &Kind)> = Vec::new();
    for kind in kinds {
        let root = (kind.schema)(&mut generator);
        if let Some(name) = target(root.as_value()) {
            roots.push((name.to_string(), kind));
        }
    }
    let definitions = generator.take_definitions(false);
    let mut out: Map<String, Value> =
        definitions.into_iter().map(|(name, schema)| (name.clone(), definition(&name, schema, reference))).collect();
    for (name, kind) in roots {
        if let Some(schema) = out.get_mut(&name) {
            // Two groups may serve one type (none does today); the extension is a list for that reason.
            schema["x-kubernetes-group-version-kind"] = json!([gvk(kind)]);
        }
    }
    out
}

fn gvk(kind: &Kind) -> Value {
    json!({"group": kind.group, "version": kind.version, "kind": kind.kind})
}

/// The name of the definition a schema refers to.
fn target(schema: &Value) -> Option<&str> {
    schema.get("$ref")?.as_str()?.rsplit('/').next()
}

fn definition(name: &str, schema: Value, reference: &str) -> Value {
    // The few that are no structs, as kube-apiserver writes them.
    match name.rsplit('.').next().unwrap_or_default() {
        "IntOrString" => return json!({"type": "string", "format": "int-or-string"}),
        "Quantity" => return json!({"type": "string", "description": schema["description"]}),
        _ => {}
    }
    let mut schema = rewritten(schema, reference);
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        for (field, property) in properties {
            if let Some(rule) = rules::find(name, field) {
                extend(property, rule);
            }
        }
    }
    if rules::ATOMIC_STRUCTS.contains(&name) {
        schema["x-kubernetes-map-type"] = "atomic".into();
    }
    schema
}

/// Merge keys and list types as extensions of a property.
fn extend(property: &mut Value, rule: &rules::Rule) {
    if rule.atomic_map {
        property["x-kubernetes-map-type"] = "atomic".into();
        return;
    }
    match rule.list {
        ListType::Atomic => property["x-kubernetes-list-type"] = "atomic".into(),
        ListType::Set => property["x-kubernetes-list-type"] = "set".into(),
        ListType::Map(keys) => {
            property["x-kubernetes-list-type"] = "map".into();
            property["x-kubernetes-list-map-keys"] = json!(keys);
        }
    }
    let (strategy, key) = match rule.patch {
        Patch::Replace => return,
        Patch::Merge(key) => ("merge", Some(key)),
        Patch::MergeRetain(key) => ("merge,retainKeys", Some(key)),
        Patch::MergeSet => ("merge", None),
    };
    property["x-kubernetes-patch-strategy"] = strategy.into();
    if let Some(key) = key {
        property["x-kubernetes-patch-merge-key"] = key.into();
    }
}

/// References under the document's own root, wrapped in `allOf` so that the description beside them counts.
fn rewritten(schema: Value, reference: &str) -> Value {
    let field = |(key, value): (String, Value)| match (key.as_str(), value.as_str()) {
        ("$ref", Some(to)) => {
            let to = format!("{reference}{}", to.rsplit('/').next().unwrap_or_default());
            if reference == V3_REF { ("allOf".into(), json!([{"$ref": to}])) } else { (key, to.into()) }
        }
        _ => (key, rewritten(value, reference)),
    };
    match schema {
        Value::Object(map) => map.into_iter().map(field).collect::<Map<_, _>>().into(),
        Value::Array(items) => items.into_iter().map(|item| rewritten(item, reference)).collect(),
        scalar => scalar,
    }
}

/// The paths of a kind with the operations that its verbs allow.
fn paths_of(kind: &Kind, parameter: fn(&str, &str) -> Value) -> Vec<(String, Value)> {
    let root = if kind.group.is_empty() { "/api/" } else { "/apis/" };
    let root = format!("{root}{}", group_version(kind.group, kind.version));
    let all = format!("{root}/{}", kind.plural);
    let collection =
        if kind.namespaced { format!("{root}/namespaces/{{namespace}}/{}", kind.plural) } else { all.clone() };
    let item = format!("{collection}/{{name}}");
    let operations = |verbs: &[(&str, &str, &str)]| -> Value {
        let allowed = verbs.iter().filter(|(verb, ..)| kind.verbs.contains(verb));
        let operations =
            allowed.map(|(verb, method, action)| (method.to_string(), operation(kind, verb, action, parameter)));
        operations.collect::<Map<_, _>>().into()
    };
    const COLLECTION: &[(&str, &str, &str)] =
        &[("list", "get", "list"), ("create", "post", "post"), ("deletecollection", "delete", "deletecollection")];
    const ITEM: &[(&str, &str, &str)] =
        &[("get", "get", "get"), ("update", "put", "put"), ("patch", "patch", "patch"), ("delete", "delete", "delete")];
    let mut paths = vec![(collection, operations(COLLECTION)), (item, operations(ITEM))];
    if kind.namespaced {
        paths.push((all, operations(&[("list", "get", "list")])));
    }
    paths
}

fn operation(kind: &Kind, verb: &str, action: &str, parameter: fn(&str, &str) -> Value) -> Value {
    let mut parameters = Vec::new();
    if matches!(verb, "create" | "update" | "patch") {
        parameters.extend(["dryRun", "fieldManager", "fieldValidation"].map(|name| parameter(name, "string")));
    }
    if verb == "patch" {
        parameters.push(parameter("force", "boolean"));
    }
    if matches!(verb, "delete" | "deletecollection") {
        parameters.push(parameter("dryRun", "string"));
    }
    json!({
        "operationId": format!("{verb}{}", kind.kind),
        "parameters": parameters,
        "responses": {"200": {"description": "OK"}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": gvk(kind),
    })
}

fn parameter_v2(name: &str, ty: &str) -> Value {
    json!({"name": name, "in": "query", "type": ty, "uniqueItems": true})
}

fn parameter_v3(name: &str, ty: &str) -> Value {
    json!({"name": name, "in": "query", "schema": {"type": ty, "uniqueItems": true}})
}

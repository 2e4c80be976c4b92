//! From method, path and query to an operation. Below this file nobody sees a URL.
use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::{HeaderMap, Method, header};

use crate::api::decode::{FieldValidation, Format};
use crate::api::patch::PatchType;
use crate::api::selector::{FieldSelector, LabelSelector};
use crate::api::table::Include;
use crate::api::{ApiError, Kind, Sub, find};

use super::path::{Query, ResourcePath};
use super::protobuf;

/// How `resourceVersion` of a list is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    /// The newest there is, whatever was asked for.
    Newest,
    /// The newest there is, but not before this revision.
    NotOlderThan(u64),
    /// Exactly this revision.
    Exactly(u64),
}

/// Which objects of a collection.
#[derive(Debug, Clone, Default)]
pub(super) struct Selection {
    pub(super) labels: LabelSelector,
    pub(super) fields: FieldSelector,
}

/// Options of a list.
#[derive(Debug, Clone)]
pub(super) struct ListOptions {
    pub(super) selection: Selection,
    pub(super) at: At,
    /// 0: all.
    pub(super) limit: usize,
    pub(super) continue_token: String,
}

/// Options of a watch.
#[derive(Debug, Clone)]
pub(super) struct WatchOptions {
    pub(super) selection: Selection,
    /// Where to go on; `None`: from now.
    pub(super) from: Option<u64>,
    /// Whether what is there comes first.
    pub(super) initial: bool,
    /// Whether a bookmark says that what was there is over.
    pub(super) initial_end: bool,
    pub(super) bookmarks: bool,
    pub(super) timeout: Option<Duration>,
}

/// Options of a write.
#[derive(Debug, Clone)]
pub(super) struct WriteOptions {
    pub(super) dry_run: bool,
    pub(super) manager: String,
    pub(super) validation: FieldValidation,
    pub(super) force: bool,
    /// Of the body.
    pub(super) format: Format,
}

/// What is to be done with a resource; the verbs of the API.
#[derive(Debug, Clone)]
pub(super) enum Verb {
    Get,
    List(ListOptions),
    Watch(WatchOptions),
    Create(WriteOptions),
    Update(WriteOptions),
    Patch(PatchType, WriteOptions),
    Delete(WriteOptions, DeleteQuery),
    DeleteCollection(Selection, WriteOptions, DeleteQuery),
    /// log, exec, attach, port-forward.
    Connect,
}

/// Delete options in the URL; those in the body win.
#[derive(Debug, Clone, Default)]
pub(super) struct DeleteQuery {
    pub(super) grace: Option<i64>,
    pub(super) propagation: String,
}

/// How the client wants an object or a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Whole,
    Table(Include),
    Partial,
}

/// One request to a resource.
#[derive(Clone)]
pub(super) struct Operation {
    pub(super) kind: &'static Kind,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) sub: Sub,
    pub(super) verb: Verb,
    pub(super) shape: Shape,
    pub(super) yaml: bool,
}

/// The verb RBAC knows a request by.
pub(super) fn rbac_verb(method: &Method, path: &ResourcePath, query: &Query) -> &'static str {
    let watch = query.is("watch");
    match (method.as_str(), path.name.is_empty()) {
        ("POST", _) => "create",
        // A WebSocket begins with a GET; what it does in the pod is no reading (`AuthorizePodWebsocketUpgradeCreatePermission`, 1.35).
        (_, false) if path.plural == "pods" && matches!(&*path.subresource, "exec" | "attach" | "portforward") => {
            "create"
        }
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", false) => "delete",
        ("DELETE", true) => "deletecollection",
        (_, true) if watch => "watch",
        (_, true) => "list",
        (_, false) if watch && path.subresource.is_empty() => "watch",
        (_, false) => "get",
    }
}

/// The name RBAC knows a request by: of a list or watch the one its field selector pins, so that `resourceNames` can
/// allow it. Not of a deletecollection, which Kubernetes allows for all names or none.
pub(super) fn rbac_name(verb: &str, path: &ResourcePath, query: &Query) -> String {
    let pinned = || {
        let kind = find(&path.group, &path.version, &path.plural)?;
        FieldSelector::parse(kind, query.get("fieldSelector")).ok()?.name().map(str::to_owned)
    };
    let selects = path.name.is_empty() && matches!(verb, "list" | "watch");
    selects.then(pinned).flatten().unwrap_or_else(|| path.name.clone())
}

/// The operation a request asks for.
pub(super) fn operation(
    method: &Method,
    path: &ResourcePath,
    query: &Query,
    headers: &HeaderMap,
) -> Result<Operation, ApiError> {
    let kind = find(&path.group, &path.version, &path.plural).ok_or_else(ApiError::unknown_path)?;
    let sub = Sub::parse(&path.subresource)
        .filter(|sub| kind.has(*sub) && path.rest.is_empty())
        .ok_or_else(ApiError::unknown_path)?;
    if !kind.namespaced && !path.namespace.is_empty() {
        return Err(ApiError::unknown_path());
    }
    let (shape, yaml) = accepted(headers, query)?;
    let verb = verb(method, path, query, headers, kind, sub)?;
    let creates = matches!(verb, Verb::Create(_)) && path.name.is_empty();
    let names_one = !path.name.is_empty() || creates;
    if kind.namespaced && path.namespace.is_empty() && names_one && !reviews(kind) {
        return Err(ApiError::method_not_allowed(kind.group, kind.plural, "the request without a namespace"));
    }
    Ok(Operation { kind, namespace: path.namespace.clone(), name: path.name.clone(), sub, verb, shape, yaml })
}

/// Kinds that are questions, not objects.
pub(super) fn reviews(kind: &Kind) -> bool {
    kind.verbs == ["create"] && kind.kind != "Binding"
}

fn verb(
    method: &Method,
    path: &ResourcePath,
    query: &Query,
    headers: &HeaderMap,
    kind: &'static Kind,
    sub: Sub,
) -> Result<Verb, ApiError> {
    if matches!(sub, Sub::Log | Sub::Exec | Sub::Attach | Sub::PortForward) {
        return match method.as_str() {
            "GET" | "POST" => Ok(Verb::Connect),
            other => Err(ApiError::method_not_allowed(kind.group, kind.plural, other)),
        };
    }
    let known = rbac_verb(method, path, query);
    let named = !path.name.is_empty();
    let allowed = match sub {
        Sub::Main if known == "create" => !named && kind.verbs.contains(&known),
        Sub::Main if matches!(known, "update" | "patch") => named && kind.verbs.contains(&known),
        Sub::Main => kind.verbs.contains(&known),
        Sub::Status | Sub::Scale => matches!(known, "get" | "update" | "patch"),
        Sub::Finalize => known == "update",
        _ => known == "create",
    };
    if !allowed {
        return Err(ApiError::method_not_allowed(kind.group, kind.plural, known));
    }
    Ok(match known {
        "get" => Verb::Get,
        "list" => Verb::List(list_options(kind, query)?),
        "watch" => Verb::Watch(watch_options(kind, &path.name, query)?),
        "create" => Verb::Create(write_options(query, headers)?),
        "update" => Verb::Update(write_options(query, headers)?),
        "patch" => {
            let (patch, format) = patch_type(headers)?;
            let mut options = write_options_as(query, headers, format)?;
            if patch == PatchType::Apply && query.get("fieldManager").is_empty() {
                return Err(ApiError::bad_request(
                    "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
                ));
            }
            options.force = query.is("force");
            Verb::Patch(patch, options)
        }
        "delete" => Verb::Delete(write_options(query, headers)?, delete_query(query)?),
        _ => Verb::DeleteCollection(selection(kind, "", query)?, write_options(query, headers)?, delete_query(query)?),
    })
}

fn delete_query(query: &Query) -> Result<DeleteQuery, ApiError> {
    Ok(DeleteQuery {
        grace: query.number("gracePeriodSeconds")?,
        propagation: query.get("propagationPolicy").to_owned(),
    })
}

fn selection(kind: &'static Kind, name: &str, query: &Query) -> Result<Selection, ApiError> {
    let mut fields = query.get("fieldSelector").to_owned();
    if !name.is_empty() {
        let separator = if fields.is_empty() { "" } else { "," };
        fields = format!("{fields}{separator}metadata.name={name}");
    }
    Ok(Selection {
        labels: LabelSelector::parse(query.get("labelSelector"))?,
        fields: FieldSelector::parse(kind, &fields)?,
    })
}

fn list_options(kind: &'static Kind, query: &Query) -> Result<ListOptions, ApiError> {
    let limit = query.number("limit")?.unwrap_or(0);
    let version: u64 = query.number("resourceVersion")?.unwrap_or(0);
    let at = match (query.get("resourceVersionMatch"), version) {
        ("", 0) | ("NotOlderThan", 0) => At::Newest,
        ("", version) if limit > 0 => At::Exactly(version),
        ("", version) | ("NotOlderThan", version) => At::NotOlderThan(version),
        ("Exact", version) if version > 0 => At::Exactly(version),
        ("Exact", _) => {
            return Err(ApiError::bad_request(
                "resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            ));
        }
        (other, _) => return Err(ApiError::unsupported("resourceVersionMatch", other, &["Exact", "NotOlderThan"])),
    };
    Ok(ListOptions {
        selection: selection(kind, "", query)?,
        at,
        limit,
        continue_token: query.get("continue").to_owned(),
    })
}

fn watch_options(kind: &'static Kind, name: &str, query: &Query) -> Result<WatchOptions, ApiError> {
    let version: u64 = query.number("resourceVersion")?.unwrap_or(0);
    let bookmarks = query.is("allowWatchBookmarks");
    let asked = query.get("sendInitialEvents");
    if asked == "true" && query.get("resourceVersionMatch") != "NotOlderThan" {
        return Err(ApiError::bad_request(
            "resourceVersionMatch: Required value: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ));
    }
    // Without the parameter, what is there comes first exactly if no place to go on from is named.
    let initial = match asked {
        "true" => true,
        "false" => false,
        _ => version == 0,
    };
    let timeout = query.number::<u64>("timeoutSeconds")?.filter(|t| *t > 0);
    Ok(WatchOptions {
        selection: selection(kind, name, query)?,
        from: (version > 0).then_some(version),
        initial,
        initial_end: asked == "true" && bookmarks,
        bookmarks,
        timeout: timeout.map(Duration::from_secs),
    })
}

pub(super) fn content_type(headers: &HeaderMap) -> &str {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .map_or("", |value| value.split(';').next().unwrap_or("").trim())
}

fn write_options(query: &Query, headers: &HeaderMap) -> Result<WriteOptions, ApiError> {
    let format = match content_type(headers) {
        // Protobuf has become JSON before anybody reads it.
        "" | "application/json" | "*/*" | protobuf::MEDIA_TYPE => Format::Json,
        "application/yaml" => Format::Yaml,
        _ => {
            return Err(ApiError::unsupported_media_type(
                "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf",
            ));
        }
    };
    write_options_as(query, headers, format)
}

fn write_options_as(query: &Query, headers: &HeaderMap, format: Format) -> Result<WriteOptions, ApiError> {
    let dry_run = match query.get("dryRun") {
        "" => false,
        "All" => true,
        other => return Err(ApiError::unsupported("dryRun", other, &["All"])),
    };
    let agent = headers
        .get(header::USER_AGENT)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split('/').next())
        .unwrap_or("unknown");
    let manager = match query.get("fieldManager") {
        "" => agent,
        manager => manager,
    };
    Ok(WriteOptions {
        dry_run,
        manager: manager.chars().take(128).collect(),
        validation: FieldValidation::parse(query.get("fieldValidation"))?,
        force: false,
        format,
    })
}

fn patch_type(headers: &HeaderMap) -> Result<(PatchType, Format), ApiError> {
    let given = content_type(headers);
    let patch = PatchType::parse(given).ok_or_else(|| {
        ApiError::unsupported_media_type(
            "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml, application/strategic-merge-patch+json",
        )
    })?;
    let yaml = given.ends_with("yaml");
    Ok((patch, if yaml { Format::Yaml } else { Format::Json }))
}

/// The first media type of `Accept` that can be made: its shape, and whether it is YAML.
fn accepted(headers: &HeaderMap, query: &Query) -> Result<(Shape, bool), ApiError> {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    if accept.trim().is_empty() {
        return Ok((Shape::Whole, false));
    }
    for choice in accept.split(',') {
        let mut parts = choice.split(';').map(str::trim);
        let yaml = match parts.next().unwrap_or("") {
            "application/json" | "application/*" | "*/*" => false,
            "application/yaml" => true,
            _ => continue,
        };
        let mut parameters: BTreeMap<&str, &str> = BTreeMap::new();
        parameters.extend(parts.filter_map(|p| p.split_once('=')));
        let meta_v1 = parameters.get("g") == Some(&"meta.k8s.io") && parameters.get("v") == Some(&"v1");
        return Ok(match parameters.get("as").copied() {
            None => (Shape::Whole, yaml),
            Some("Table") if meta_v1 => (Shape::Table(Include::parse(query.get("includeObject"))?), yaml),
            Some("PartialObjectMetadata" | "PartialObjectMetadataList") if meta_v1 => (Shape::Partial, yaml),
            Some(_) => continue,
        });
    }
    Err(ApiError::not_acceptable("only the following media types are accepted: application/json, application/yaml"))
}

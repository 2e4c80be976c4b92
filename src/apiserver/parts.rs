//! Subresources that are requests of their own: scale, binding, eviction, token.
use axum::http::StatusCode;
use jiff::SignedDuration;
use serde_json::{Value, json};

use super::ApiServer;
use super::delete::DeleteOptions;
use super::registry;
use super::respond::Reply;
use super::route::DeleteQuery;
use super::tokens::Bound;
use super::write::{Ownership, Request, Warnings};
use crate::api::kinds::{SCALE, scale_of};
use crate::api::patch::{self, PatchType};
use crate::api::{ApiError, FieldError, decode, find, meta};

/// Lifetime of a token that does not ask for one, and the shortest there is, in seconds.
const TOKEN_SECONDS: (i64, i64) = (3600, 600);
/// The longest lifetime of a token: a year, like Kubernetes' volumes without renewal.
const TOKEN_MAX_SECONDS: i64 = 365 * 24 * 3600;

impl ApiServer {
    /// Update or (with a type) patch of a Scale: it changes the number of replicas and nothing else.
    pub(super) async fn scale(&self, request: &Request<'_>, patch: Option<PatchType>) -> Result<Reply, ApiError> {
        let given = request.value()?;
        let change = |live: &Value| {
            let before = scale_of(live);
            let mut scale = match patch {
                None => given.clone(),
                Some(PatchType::Json) => patch::json(&before, &given)?,
                // A Scale has no lists, so the other patches merge alike.
                Some(_) => patch::merge(&before, &given),
            };
            request.warn(decode::check(&SCALE, &mut scale, request.options.validation)?);
            let replicas = meta::int(&scale, &["spec", "replicas"]).unwrap_or(0);
            if replicas < 0 {
                let why = "must be greater than or equal to 0";
                let error = FieldError::invalid("spec.replicas", replicas, why);
                return Err(ApiError::invalid("autoscaling", "Scale", request.name, &[error]));
            }
            let mut new = live.clone();
            meta::map_mut(&mut new, &["spec"]).insert("replicas".into(), replicas.into());
            let version = meta::resource_version(&scale);
            meta::set(&mut new, "resourceVersion", version);
            Ok(new)
        };
        let bytes = self.modify(request, Ownership::Track, change).await?;
        Ok(Reply::Other(StatusCode::OK, scale_of(&registry::parse(&bytes)?)))
    }

    /// Binds a pod to a node, once.
    pub(super) async fn bind(&self, request: &Request<'_>) -> Result<Reply, ApiError> {
        let binding = request.value()?;
        let name = match request.name {
            "" => meta::name(&binding),
            name => name,
        };
        let node = meta::text(&binding, &["target", "name"]);
        if node.is_empty() {
            let error = FieldError::required("target.name", "");
            return Err(ApiError::invalid("", "Binding", name, &[error]));
        }
        let now = meta::time(request.cx.now);
        let change = |pod: &Value| {
            let conflict = |why: String| ApiError::conflict("", "pods/binding", name, &why);
            if meta::deleting(pod) {
                return Err(conflict(format!("pod {name} is being deleted, cannot be assigned to a host")));
            }
            let bound = meta::text(pod, &["spec", "nodeName"]);
            if !bound.is_empty() {
                return Err(conflict(format!("pod {name} is already assigned to node {bound:?}")));
            }
            let (uid, wanted) = (meta::uid(pod), meta::uid(&binding));
            if !wanted.is_empty() && wanted != uid {
                return Err(conflict(format!(
                    "Precondition failed: UID in precondition: {wanted}, UID in object meta: {uid}"
                )));
            }
            Ok(bound_pod(pod, &binding, node, &now))
        };
        // Whoever binds a pod did not write it: warnings about it are not for him.
        let request = Request { name, warnings: &Warnings::default(), ..*request };
        self.modify(&request, Ownership::Track, change).await?;
        Ok(Reply::done())
    }

    /// Deletes a pod on behalf of somebody who would rather be refused than break a budget (there are no budgets yet).
    pub(super) async fn evict(&self, request: &Request<'_>) -> Result<Reply, ApiError> {
        let eviction = request.value()?;
        let query = DeleteQuery::default();
        let wish = &eviction["deleteOptions"];
        let options = DeleteOptions::from_value(wish, &query, request.options.dry_run)?;
        self.delete_object(request.cx, request.kind, request.namespace, request.name, &options).await?;
        Ok(Reply::done())
    }

    /// Signs a token for a service account.
    pub(super) fn token(&self, request: &Request<'_>) -> Result<Reply, ApiError> {
        let (namespace, name) = (request.namespace, request.name);
        let account = self.object(request.kind, namespace, name)?;
        let mut token = request.value()?;
        let spec = &token["spec"];
        let seconds = meta::int(spec, &["expirationSeconds"]).unwrap_or(TOKEN_SECONDS.0);
        if seconds < TOKEN_SECONDS.1 {
            let why = "may not specify a duration less than 10 minutes";
            let error = FieldError::invalid("spec.expirationSeconds", seconds, why);
            let group = "authentication.k8s.io";
            return Err(ApiError::invalid(group, "TokenRequest", "", &[error]));
        }
        let seconds = seconds.min(TOKEN_MAX_SECONDS);
        let asked = meta::list(spec, &["audiences"]).iter();
        let mut audiences: Vec<String> = asked.filter_map(|a| a.as_str().map(str::to_owned)).collect();
        if audiences.is_empty() {
            audiences.push(self.tokens.issuer().to_owned());
        }
        let bound = self.bound_object(namespace, &spec["boundObjectRef"])?;
        let now = request.cx.now;
        let text = self.tokens.issue(&account, bound, &audiences, seconds, now)?;
        let expires = now.checked_add(SignedDuration::from_secs(seconds)).map_err(ApiError::internal)?;
        token["kind"] = "TokenRequest".into();
        token["apiVersion"] = "authentication.k8s.io/v1".into();
        token["metadata"] = json!({"name": name, "namespace": namespace, "creationTimestamp": meta::time(now)});
        let spec = meta::map_mut(&mut token, &["spec"]);
        spec.insert("expirationSeconds".into(), seconds.into());
        spec.insert("audiences".into(), json!(audiences));
        token["status"] = json!({"token": text, "expirationTimestamp": meta::time(expires)});
        Ok(Reply::Other(StatusCode::CREATED, token))
    }

    /// The live object a token is to live and die with.
    fn bound_object(&self, namespace: &str, reference: &Value) -> Result<Option<Bound>, ApiError> {
        let plural = match meta::text(reference, &["kind"]) {
            "" => return Ok(None),
            "Pod" => "pods",
            "Secret" => "secrets",
            other => {
                return Err(ApiError::bad_request(format!("cannot bind token for a {other}")));
            }
        };
        let kind = find("", "v1", plural).ok_or_else(ApiError::unknown_path)?;
        let name = meta::text(reference, &["name"]);
        let object = self.object(kind, namespace, name)?;
        let (wanted, uid) = (meta::text(reference, &["uid"]), meta::uid(&object));
        if !wanted.is_empty() && wanted != uid {
            let why = format!(
                "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might have been deleted and then recreated"
            );
            return Err(ApiError::conflict("", plural, name, &why));
        }
        Ok(Some(Bound {
            plural: plural.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            node: meta::text(&object, &["spec", "nodeName"]).to_owned(),
        }))
    }
}

fn bound_pod(pod: &Value, binding: &Value, node: &str, now: &str) -> Value {
    let mut new = pod.clone();
    meta::map_mut(&mut new, &["spec"]).insert("nodeName".into(), node.into());
    if let Some(annotations) = meta::map(binding, &["metadata", "annotations"]) {
        let own = meta::map_mut(&mut new, &["metadata", "annotations"]);
        own.extend(annotations.clone());
    }
    let status = meta::map_mut(&mut new, &["status"]);
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    if let Some(conditions) = conditions.as_array_mut() {
        conditions.retain(|c| c["type"] != "PodScheduled");
        conditions.push(json!({
            "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now,
        }));
    }
    new
}

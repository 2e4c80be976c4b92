//! Admission: what the cluster adds to a request, and what it does not let in.
mod pod;
mod service_account;
pub(super) mod services;

use serde_json::Value;

use super::ApiServer;
use super::write::{Context, Request};
use crate::api::{ApiError, Cause, Kind, Sub, find, meta};

/// Namespaces the cluster cannot be without.
const KEPT_NAMESPACES: &[&str] = &["default", "kube-system", "kube-public"];

impl ApiServer {
    /// Completes `new` (of which `old` is there now), or refuses it.
    pub(super) async fn admit(
        &self,
        request: &Request<'_>,
        new: &mut Value,
        old: Option<&Value>,
    ) -> Result<(), ApiError> {
        let kind = request.kind;
        self.admit_node(request.cx, kind, old.unwrap_or(new))?;
        if old.is_some() || request.sub != Sub::Main {
            return Ok(());
        }
        if kind.namespaced {
            self.admit_namespace(kind, request.namespace, meta::name(new))?;
        }
        match kind.kind {
            "Pod" => {
                pod::prioritise(new)?;
                self.admit_service_account(request.namespace, new).await?;
                pod::tolerate(new, self.config.eviction_seconds);
            }
            "Namespace" => name_label(new),
            _ => {}
        }
        Ok(())
    }

    /// The same for a delete.
    pub(super) fn admit_delete(&self, cx: &Context, kind: &Kind, namespace: &str, name: &str) -> Result<(), ApiError> {
        if kind.kind == "Namespace" && KEPT_NAMESPACES.contains(&name) {
            let why = "this namespace may not be deleted";
            return Err(ApiError::forbidden(kind.group, kind.plural, name, why));
        }
        if cx.identity.node_name().is_some() {
            let object = self.object(kind, namespace, name)?;
            self.admit_node(cx, kind, &object)?;
        }
        Ok(())
    }

    /// Nothing is made in a namespace that is not there or is going.
    fn admit_namespace(&self, kind: &Kind, namespace: &str, name: &str) -> Result<(), ApiError> {
        let found = find("", "v1", "namespaces").ok_or_else(ApiError::unknown_path)?;
        let holder = self.object(found, "", namespace)?;
        if !meta::deleting(&holder) {
            return Ok(());
        }
        let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
        let mut error = ApiError::forbidden(kind.group, kind.plural, name, &why);
        if let Some(details) = &mut error.details {
            details.causes.push(Cause {
                reason: "NamespaceTerminating".into(),
                message: format!("namespace {namespace} is being terminated"),
                field: "metadata.namespace".into(),
            });
        }
        Err(error)
    }

    /// A node changes only itself and the pods that are bound to it.
    fn admit_node(&self, cx: &Context, kind: &Kind, object: &Value) -> Result<(), ApiError> {
        let Some(node) = cx.identity.node_name() else {
            return Ok(());
        };
        let name = meta::name(object);
        let why = match kind.kind {
            "Node" if name != node => {
                format!("node {node:?} is not allowed to modify node {name:?}")
            }
            "Pod" if meta::text(object, &["spec", "nodeName"]) != node => {
                format!("node {node:?} can only change pods with spec.nodeName set to itself")
            }
            _ => return Ok(()),
        };
        Err(ApiError::forbidden(kind.group, kind.plural, name, &why))
    }
}

/// Namespaces can be selected by their name.
fn name_label(namespace: &mut Value) {
    let name = meta::name(namespace).to_owned();
    let labels = meta::map_mut(namespace, &["metadata", "labels"]);
    labels.insert("kubernetes.io/metadata.name".into(), name.into());
}

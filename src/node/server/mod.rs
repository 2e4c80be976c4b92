//! The kubelet API of a node: logs, exec, attach, port-forward. The API server has authenticated and authorised already, and
//! is the only one who can call it.
mod attach;
mod channels;
mod exec;
mod follow;
mod forward;
mod logs;
mod remote;
mod spdy;

use super::{Node, spec};
use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{any, get},
};
use k8s_openapi::{
    List,
    api::core::v1::{Container, Pod},
};
use std::sync::Arc;

impl Node {
    /// The kubelet API of this node: `/containerLogs/…`, `/exec/…`, `/attach/…`, `/portForward/…`, `/pods`, `/healthz`.
    pub fn router(self: &Arc<Self>) -> Router {
        Router::new()
            .route("/healthz", get(|| async { "ok" }))
            .route("/pods", get(pods))
            .route("/containerLogs/{namespace}/{pod}/{container}", get(logs::logs))
            .route("/exec/{namespace}/{pod}/{container}", any(exec::exec))
            .route("/attach/{namespace}/{pod}/{container}", any(attach::attach))
            .route("/portForward/{namespace}/{pod}", any(forward::forward))
            .with_state(self.clone())
    }

    /// The pod of that name that is not on its way out, else the one that is.
    fn find_pod(&self, namespace: &str, name: &str) -> Option<(String, super::entry::Entry)> {
        let pods = self.pods.lock();
        let mut found =
            pods.iter().filter(|(_, entry)| spec::name(&entry.pod) == name && spec::namespace(&entry.pod) == namespace);
        let first = found.next();
        let living = first.into_iter().chain(found).max_by_key(|(_, entry)| !entry.seen.gone);
        living.map(|(uid, entry)| (uid.clone(), entry.clone()))
    }

    /// A container as its manifest has it, and the uid of its pod.
    fn find_container(&self, namespace: &str, pod: &str, container: &str) -> Result<(String, Container), Refused> {
        let found = self.find_pod(namespace, pod);
        let (uid, entry) = found.ok_or_else(|| Refused::not_found(format!("pods \"{pod}\" not found")))?;
        match spec::container(&entry.pod, container) {
            Some((_, manifest)) => Ok((uid, manifest.clone())),
            None => Err(Refused::bad_request(format!("container {container} is not valid for pod {pod}"))),
        }
    }
}

async fn pods(State(node): State<Arc<Node>>) -> Json<List<Pod>> {
    let entries: Vec<_> = node.pods.lock().values().cloned().collect();
    let items = entries
        .into_iter()
        .map(|entry| Pod { status: entry.wanted.or(entry.pod.status.clone()), ..(*entry.pod).clone() });
    Json(List { items: items.collect(), ..List::default() })
}

/// An error as the API's clients expect it.
struct Refused(StatusCode, &'static str, String);

impl Refused {
    fn bad_request(message: impl Into<String>) -> Refused {
        Refused(StatusCode::BAD_REQUEST, "BadRequest", message.into())
    }

    fn not_found(message: impl Into<String>) -> Refused {
        Refused(StatusCode::NOT_FOUND, "NotFound", message.into())
    }

    fn no_container(container: &str) -> Refused {
        Refused::not_found(format!("unable to upgrade connection: container not found (\"{container}\")"))
    }

    fn internal(message: impl std::fmt::Display) -> Refused {
        Refused(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message.to_string())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let Refused(code, reason, message) = self;
        let status = serde_json::json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message, "reason": reason, "code": code.as_u16(),
        });
        (code, Json(status)).into_response()
    }
}

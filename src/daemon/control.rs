//! What the command line asks the daemon besides Kubernetes' API: `/coracle/v1/…`, on the unix socket only.
//!
//! | request | does |
//! |---|---|
//! | `GET /coracle/v1/status` | [`Status`] |
//! | `POST /coracle/v1/nodes` `{"name","cpuMilli","memory"}` | a new node |
//! | `DELETE /coracle/v1/nodes/<name>` | a node less |
//! | `POST /coracle/v1/nodes/<name>/stop` (`start`, `cut`, `join`) | power and link of a node |
//! | `GET /coracle/v1/nodes/<name>/nft` | the node's nft table as the kernel has it |
//! | `POST /coracle/v1/shutdown` | ends the daemon; pods run on |
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::fleet::{self, Fleet, NodeStatus};
use super::settings::Size;
use crate::net::Nodes;

/// What `coracle status` shows; the constant part.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct About {
    /// Name of the cluster.
    pub name: String,
    /// Version of the daemon.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// When it was started.
    pub started: jiff::Timestamp,
    /// `https://127.0.0.1:6443`.
    pub api: String,
    /// Where the underlay reaches the API.
    pub underlay: String,
    /// Addresses of pods.
    pub pod_cidr: String,
    /// Addresses of Services.
    pub service_cidr: String,
    /// Durable state.
    pub data_dir: String,
    /// For kubectl.
    pub kubeconfig: String,
}

/// What `coracle status` shows.
#[derive(Serialize, Deserialize)]
pub struct Status {
    /// The constant part.
    #[serde(flatten)]
    pub about: About,
    /// The nodes.
    pub nodes: Vec<NodeStatus>,
}

/// What the endpoints act on.
pub struct Control {
    /// The constant part of the status.
    pub about: About,
    /// The nodes.
    pub fleet: Arc<Fleet>,
    /// Their network.
    pub handles: Nodes,
    /// A client that may delete nodes.
    pub admin: kube::Client,
    /// Ends the daemon.
    pub shutdown: CancellationToken,
}

/// A new node; what is left out is as `up` has it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewNode {
    /// Name; the next free `node-<n>` if none.
    pub name: Option<String>,
    /// How large it is.
    pub size: Size,
}

/// The endpoints.
pub fn router(control: Control) -> Router {
    Router::new()
        .route("/coracle/v1/status", get(status))
        .route("/coracle/v1/shutdown", post(shutdown))
        .route("/coracle/v1/nodes", post(add))
        .route("/coracle/v1/nodes/{name}", delete(remove))
        .route("/coracle/v1/nodes/{name}/nft", get(nft))
        .route("/coracle/v1/nodes/{name}/{action}", post(act))
        .with_state(Arc::new(control))
}

type Shared = State<Arc<Control>>;

async fn status(State(control): Shared) -> Json<Status> {
    Json(Status { about: control.about.clone(), nodes: control.fleet.status().await })
}

async fn shutdown(State(control): Shared) -> Json<serde_json::Value> {
    control.shutdown.cancel();
    Json(json!({}))
}

async fn add(State(control): Shared, Json(new): Json<NewNode>) -> Response {
    let added = async {
        let name = control.fleet.add(new.name, new.size).await?;
        fleet::ready(&control.admin, std::slice::from_ref(&name)).await?;
        Ok(json!({"name": name}))
    };
    answer(added.await)
}

async fn remove(State(control): Shared, Path(name): Path<String>) -> Response {
    answer(control.fleet.remove(&name, &control.admin).await.map(|()| json!({})))
}

async fn act(State(control): Shared, Path((name, action)): Path<(String, String)>) -> Response {
    let done = match action.as_str() {
        "stop" => control.fleet.stop(&name).await,
        "start" => control.fleet.start(&name).await,
        "cut" => control.fleet.set_link(&name, false).await,
        "join" => control.fleet.set_link(&name, true).await,
        other => Err(anyhow::anyhow!("nodes can stop, start, cut and join, not {other:?}")),
    };
    answer(done.map(|()| json!({})))
}

async fn nft(State(control): Shared, Path(name): Path<String>) -> Response {
    let Some(handle) = control.handles.get(&name) else {
        return answer(Err(anyhow::anyhow!("node {name:?} is not running")));
    };
    match handle.ruleset().await {
        Ok(text) => text.into_response(),
        Err(error) => answer(Err(error.into())),
    }
}

/// A value, or a Status as the API would answer, so that the client has one way to read errors.
fn answer(result: anyhow::Result<serde_json::Value>) -> Response {
    match result {
        Ok(value) => Json(value).into_response(),
        Err(error) => {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 400, "reason": "BadRequest", "message": format!("{error:#}")});
            (StatusCode::BAD_REQUEST, Json(status)).into_response()
        }
    }
}

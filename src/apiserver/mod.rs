//! The Kubernetes API.
//!
//! ```text
//! listener (serve) ─▶ authenticate ─▶ authorise (rbac) ─▶ route: URL to Operation
//!                                                             │
//!          get, list ◀── read                                 ├── site: discovery, OpenAPI, health, metrics
//!             watch  ◀── watch                                ├── reviews: kinds that are questions
//!  create, update, patch ◀── write ◀─ admit (pods, accounts,  ├── connect: log, exec, attach, port-forward
//!            delete  ◀── delete       services, namespaces)   └── parts: scale, binding, eviction, token
//! ```
//!
//! **Verbs are written once.** They are generic over the table of kinds ([`mod@crate::api::kinds`]); what a kind does
//! differently is in its row. Below `route` nobody sees a URL, a header or a query.
//!
//! **The bytes in the store are the bytes on the wire.** An object is encoded once, when it is written, with its
//! `resourceVersion` inside. get, list and watch copy those bytes; only tables, partial objects, YAML and the second
//! form of Events decode them. What selectors look at is derived once an entry and kept beside it.
//!
//! **Derived state follows the store.** The authoriser and the allocator of addresses keep what they need in memory
//! and catch up, through a watch they empty, whenever they are asked. They have no task of their own, are never older
//! than the store, and cannot disagree with it.
//!
//! **A conflict is the client's business only if the client named a revision.** Otherwise the change is made again on
//! top of what won.
//!
//! Left out: protobuf answers (every client that asks for them takes JSON as well), compression, aggregation layers and webhooks, audit,
//! and the rule that nobody may grant rights they do not have.
mod admit;
mod bootstrap;
mod connect;
mod delete;
mod handle;
pub mod identity;
mod metrics;
mod parts;
mod path;
pub mod pki;
mod protobuf;
mod rbac;
mod read;
mod registry;
mod respond;
mod reviews;
mod route;
pub mod serve;
mod site;
pub mod tokens;
mod watch;
mod write;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::Router;
use ipnetwork::Ipv4Network;
use tokio_util::sync::CancellationToken;

pub use identity::Identity;
pub use serve::{serve_tls, serve_unix};

use crate::api::ApiError;
use crate::store::Store;

/// The way to a node's own API (`/containerLogs`, `/exec`, `/attach`, `/portForward`).
pub trait NodeConnector: Send + Sync {
    /// The router of node `node`, if it is up. Requests to it carry an upgrade where the client's did.
    fn connect(&self, node: &str) -> Option<Router>;
}

/// What differs between clusters.
#[derive(Clone)]
pub struct Config {
    /// Where ClusterIPs come from.
    pub service_cidr: Ipv4Network,
    /// Where node ports come from, both ends included.
    pub node_ports: (u16, u16),
    /// The key that signs service account tokens: EC P-256, PKCS#8 PEM ([`pki::Pki::token_key`]).
    pub token_key: String,
    /// Seconds a pod stays on a node that is not ready or not reachable, unless it says otherwise.
    pub eviction_seconds: u64,
    /// `host:port` under which clients reach the server; shown in discovery.
    pub address: String,
    /// The way to the nodes.
    pub nodes: Arc<dyn NodeConnector>,
}

/// The API server. One a cluster.
pub struct ApiServer {
    store: Store,
    config: Config,
    tokens: tokens::Tokens,
    rbac: rbac::Rbac,
    services: admit::services::Services,
    metrics: metrics::Metrics,
    turns: handle::Turns,
    /// Ends watches, so that connections can drain.
    shutdown: CancellationToken,
}

impl ApiServer {
    /// Makes the server over `store`, with the objects every cluster has (made if they are missing).
    pub async fn start(store: Store, config: Config) -> Result<Arc<Self>, ApiError> {
        let server = Arc::new(Self {
            tokens: tokens::Tokens::new(&config.token_key)?,
            rbac: rbac::Rbac::new(store.clone()),
            services: admit::services::Services::new(store.clone()),
            metrics: metrics::Metrics::default(),
            turns: handle::Turns::default(),
            shutdown: CancellationToken::new(),
            store,
            config,
        });
        server.bootstrap().await?;
        Ok(server)
    }

    /// The API as a service. A request whose extensions hold an [`Identity`] is that identity's; others
    /// authenticate with a bearer token or are anonymous.
    pub fn router(self: &Arc<Self>) -> Router {
        let server = self.clone();
        Router::new().fallback(move |request| server.clone().handle(request))
    }

    /// Ends every watch. Call it before (or when) the listeners are shut down.
    pub fn shut_down(&self) {
        self.shutdown.cancel();
    }
}

//! The virtual nodes of this host: made, switched off and on, cut off, removed.
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::Api;
use kube::api::DeleteParams;
use kube::runtime::wait::await_condition;
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::cable::Cable;
use super::down::remove_tree;
use super::paths::Paths;
use super::settings::{NodeSetting, Settings, Size};
use crate::apiserver::{Identity, NodeConnector};
use crate::image::Images;
use crate::net::{self, Cluster, Nodes};
use crate::node::{Node, NodeConfig};
use crate::runtime::Runtime;

/// A node that is not Ready by then will not be.
const NODES_READY: Duration = Duration::from_secs(60);

/// The way from the API server to the nodes' own endpoints. Made before both, since each needs the other.
#[derive(Clone, Default)]
pub struct Connector(Arc<RwLock<BTreeMap<String, axum::Router>>>);

impl NodeConnector for Connector {
    fn connect(&self, node: &str) -> Option<axum::Router> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(node).cloned()
    }
}

impl Connector {
    fn set(&self, node: &str, router: Option<axum::Router>) {
        let mut routers = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match router {
            Some(router) => routers.insert(node.to_owned(), router),
            None => routers.remove(node),
        };
    }
}

/// What all nodes of a cluster share.
pub struct Common {
    /// Names and addresses.
    pub cluster: Cluster,
    /// Directories.
    pub paths: Paths,
    /// The image store.
    pub images: Images,
    /// Makes sandboxes, and talks to those that were made before.
    pub runtime: Runtime,
    /// The API as a service; each node speaks through it as itself.
    pub router: axum::Router,
    /// ClusterIP of DNS.
    pub dns: Ipv4Addr,
    /// Where pods of the host network find the API.
    pub api: SocketAddr,
    /// How often a node says that it lives.
    pub heartbeat: Duration,
    /// How long that counts.
    pub grace: Duration,
    /// The feature gate MemoryQoS.
    pub memory_qos: bool,
}

/// A node that runs.
struct Running {
    node: Arc<Node>,
    /// To the API.
    cable: Cable,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// All nodes.
pub struct Fleet {
    common: Common,
    connector: Connector,
    /// The kernel's side of the running nodes, for the proxy.
    handles: Nodes,
    /// One change at a time; `settings` is what is on disk.
    state: Mutex<State>,
}

struct State {
    settings: Settings,
    running: BTreeMap<String, Running>,
    /// Nodes whose uplink is cut.
    cut: Vec<String>,
}

/// One row of `coracle status`.
#[derive(Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// What was set.
    #[serde(flatten)]
    pub setting: NodeSetting,
    /// `running`, `stopped` or `cut`.
    pub state: String,
    /// On the underlay.
    pub address: String,
    /// Of its pods.
    pub pod_cidr: String,
    /// Path of its network namespace.
    pub netns: String,
}

impl Fleet {
    /// A fleet with no node running yet.
    pub fn new(common: Common, connector: Connector, handles: Nodes, settings: Settings) -> Fleet {
        let state = State { settings, running: BTreeMap::new(), cut: Vec::new() };
        Fleet { common, connector, handles, state: Mutex::new(state) }
    }

    /// Starts every node that is not switched off, all at once; their names.
    pub async fn start_all(&self) -> Result<Vec<String>> {
        let mut state = self.state.lock().await;
        let wanted: Vec<NodeSetting> = state.settings.nodes.iter().filter(|node| !node.stopped).cloned().collect();
        let started = futures::future::try_join_all(wanted.iter().map(|node| self.run(node))).await?;
        let names: Vec<String> = wanted.into_iter().map(|node| node.name).collect();
        state.running.extend(names.iter().cloned().zip(started));
        Ok(names)
    }

    async fn run(&self, setting: &NodeSetting) -> Result<Running> {
        let common = &self.common;
        let name = setting.name.as_str();
        let place = common.cluster.node(name, setting.index)?;
        let handle =
            net::node(&common.cluster, &place).await.with_context(|| format!("making the network of {name}"))?;
        let (dir, memory) = (common.paths.data.join("nodes").join(name), common.paths.memory().join(name));
        let mut config = NodeConfig::new(&common.cluster.name, name, setting.index, dir, memory);
        config.capacity = setting.capacity();
        config.parts = setting.parts(&common.paths.data)?;
        config.memory_qos = common.memory_qos;
        config.cluster_dns = common.dns;
        config.api = common.api;
        config.lease_renew = common.heartbeat;
        config.lease_duration = common.grace;
        self.handles.insert(handle.clone());
        let cable = Cable::new();
        let client = crate::client::in_process(cable.to(common.router.clone()), Identity::node(name));
        let node = Node::new(config, common.runtime.clone(), handle, common.images.clone(), client);
        self.connector.set(name, Some(node.router()));
        let stop = CancellationToken::new();
        let task = tokio::spawn({
            let (node, stop, name) = (node.clone(), stop.clone(), name.to_owned());
            async move {
                if let Err(error) = node.run(stop).await {
                    tracing::error!(node = name, "ended: {error:#}");
                }
            }
        });
        Ok(Running { node, cable, stop, task })
    }

    /// Ends the loops of all nodes; pods run on.
    pub async fn rest(&self) {
        let mut state = self.state.lock().await;
        let running = std::mem::take(&mut state.running);
        running.values().for_each(|running| running.stop.cancel());
        for (name, running) in running {
            if let Err(error) = running.task.await {
                tracing::error!(node = name, "ended badly: {error}");
            }
        }
    }

    /// A new node, running.
    pub async fn add(&self, name: Option<String>, size: Size) -> Result<String> {
        let mut state = self.state.lock().await;
        let name = name.unwrap_or_else(|| state.settings.free_name());
        super::paths::check_name(&name).map_err(anyhow::Error::msg)?;
        let mut settings = state.settings.clone();
        let setting = settings.add(&name, size)?;
        settings.check()?;
        setting.parts(&self.common.paths.data)?;
        settings.save(&self.common.paths.data)?;
        state.settings = settings;
        let running = self.run(&setting).await?;
        state.running.insert(name.clone(), running);
        Ok(name)
    }

    /// Ends a node as a power cut would: all its processes and its link. The API is not told.
    pub async fn stop(&self, name: &str) -> Result<()> {
        let mut state = self.state.lock().await;
        self.known(&state, name)?;
        self.power_off(&mut state, name).await?;
        self.remember(&mut state, name, true)
    }

    /// Switches a stopped node on again.
    pub async fn start(&self, name: &str) -> Result<()> {
        let mut state = self.state.lock().await;
        let setting = self.known(&state, name)?;
        ensure!(!state.running.contains_key(name), "node {name:?} is running");
        let running = self.run(&setting).await?;
        state.running.insert(name.to_owned(), running);
        self.remember(&mut state, name, false)
    }

    /// Cuts a node's link (its pods run on, unheard) or joins it again.
    pub async fn set_link(&self, name: &str, up: bool) -> Result<()> {
        let mut state = self.state.lock().await;
        let running = state.running.get(name).zip(self.handles.get(name));
        let Some((running, handle)) = running else { bail!("node {name:?} is not running") };
        handle.set_uplink(up).await?;
        running.cable.set(up);
        self.connector.set(name, up.then(|| running.node.router()));
        state.cut.retain(|cut| cut != name);
        if !up {
            state.cut.push(name.to_owned());
        }
        Ok(())
    }

    /// Removes a node, its pods, its directory and its objects.
    pub async fn remove(&self, name: &str, admin: &kube::Client) -> Result<()> {
        let mut state = self.state.lock().await;
        self.known(&state, name)?;
        self.power_off(&mut state, name).await?;
        let mut settings = state.settings.clone();
        settings.nodes.retain(|node| node.name != name);
        settings.save(&self.common.paths.data)?;
        state.settings = settings;
        let options = DeleteParams::default();
        gone(Api::<NodeObject>::all(admin.clone()).delete(name, &options).await)?;
        gone(Api::<Lease>::namespaced(admin.clone(), "kube-node-lease").delete(name, &options).await)?;
        let dir = self.common.paths.data.join("nodes").join(name);
        for pod in std::fs::read_dir(dir.join("pods")).into_iter().flatten().flatten() {
            self.common.images.release(&pod.file_name().to_string_lossy())?;
        }
        for dir in [dir, self.common.paths.memory().join(name)] {
            remove_tree(&dir).context("removing the node's files")?;
        }
        Ok(())
    }

    /// All nodes, running or not.
    pub async fn status(&self) -> Vec<NodeStatus> {
        let state = self.state.lock().await;
        let row = |setting: &NodeSetting| {
            let place = self.common.cluster.node(&setting.name, setting.index).ok();
            let running = match (state.running.contains_key(&setting.name), state.cut.contains(&setting.name)) {
                (false, _) => "stopped",
                (true, true) => "cut",
                (true, false) => "running",
            };
            NodeStatus {
                setting: setting.clone(),
                state: running.to_owned(),
                address: place.as_ref().map(|place| place.underlay_ip.to_string()).unwrap_or_default(),
                pod_cidr: place.map(|place| place.pod_cidr.to_string()).unwrap_or_default(),
                netns: self.common.cluster.netns(&setting.name).display().to_string(),
            }
        };
        state.settings.nodes.iter().map(row).collect()
    }

    fn known(&self, state: &State, name: &str) -> Result<NodeSetting> {
        let found = state.settings.nodes.iter().find(|node| node.name == name);
        found.cloned().with_context(|| format!("there is no node {name:?}"))
    }

    fn remember(&self, state: &mut State, name: &str, stopped: bool) -> Result<()> {
        state.settings.nodes.iter_mut().filter(|node| node.name == name).for_each(|node| node.stopped = stopped);
        state.settings.save(&self.common.paths.data)
    }

    async fn power_off(&self, state: &mut State, name: &str) -> Result<()> {
        let Some(running) = state.running.remove(name) else { return Ok(()) };
        self.connector.set(name, None);
        running.stop.cancel();
        if let Err(error) = running.task.await {
            tracing::error!(node = name, "ended badly: {error}");
        }
        running.node.power_cut().await.with_context(|| format!("ending the pods of {name}"))?;
        if let Some(handle) = self.handles.remove(name) {
            handle.remove().await.with_context(|| format!("removing the network of {name}"))?;
        }
        state.cut.retain(|cut| cut != name);
        Ok(())
    }
}

/// Waits until all of these nodes are Ready.
pub async fn ready(admin: &kube::Client, names: &[String]) -> Result<()> {
    let ready = |node: Option<&NodeObject>| {
        let conditions = node.and_then(|node| node.status.as_ref()?.conditions.as_ref());
        conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    let waits = names.iter().map(|name| await_condition(Api::<NodeObject>::all(admin.clone()), name, ready));
    let all = tokio::time::timeout(NODES_READY, futures::future::try_join_all(waits)).await;
    all.context("the nodes are not Ready yet")?.context("waiting for the nodes").map(drop)
}

/// A deletion of what is not there has been done.
fn gone<T>(result: kube::Result<T>) -> Result<()> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map(drop).context("deleting the node's objects"),
    }
}

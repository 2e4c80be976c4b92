//! The handle of a virtual node, and the registry of those that run here.
use super::{
    Cluster, Error, NodeNet, Result, Services, conntrack,
    converge::converge,
    host, kernel, layout, netns, nft, services,
    socket::Netlink,
    view::{Step, View, plan},
};
use netlink_sys::protocols::NETLINK_ROUTE;
use std::{
    collections::BTreeMap,
    fs::File,
    io,
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{net::TcpSocket, net::TcpStream, sync::watch, task};

/// Makes the underlay and the host's side of it: the switch, a link to it, its address, the masquerade table. Idempotent.
pub async fn ensure_host(cluster: &Cluster) -> Result<()> {
    let cluster = cluster.clone();
    blocking(move || host::ensure(&cluster)).await
}

/// Removes everything of the cluster by name, even if half built; goes on after failures and reports them all.
pub async fn teardown(cluster: &Cluster) -> Result<()> {
    let cluster = cluster.clone();
    blocking(move || host::teardown(&cluster)).await
}

/// Makes or adopts a virtual node. The host's side must exist ([`ensure_host`]). An adopted node keeps its peers,
/// services and pods as they are until the next sync.
pub async fn node(cluster: &Cluster, node: &NodeNet) -> Result<NodeHandle> {
    let inner = Inner { cluster: cluster.clone(), net: node.clone(), open: Mutex::new(None) };
    let handle = NodeHandle { inner: Arc::new(inner) };
    handle.run(|inner| inner.make()).await?;
    Ok(handle)
}

/// A pod's link as found in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodLink {
    pub pod_uid: String,
    pub link: String,
}

/// A virtual node. Cheap to clone; all clones are the same node.
#[derive(Clone)]
pub struct NodeHandle {
    inner: Arc<Inner>,
}

struct Inner {
    cluster: Cluster,
    net: NodeNet,
    /// Sockets inside the node's namespace; `None` before it is made and after it is removed, because they would
    /// keep the namespace alive. One user at a time: plans must not overlap.
    open: Mutex<Option<Open>>,
}

struct Open {
    route: Netlink,
    nft: nft::Nft,
    /// Number of the node's own links.
    index: BTreeMap<String, u32>,
}

impl NodeHandle {
    pub fn net(&self) -> &NodeNet {
        &self.inner.net
    }

    pub fn cluster(&self) -> &Cluster {
        &self.inner.cluster
    }

    /// Whether both are the same node's same life (a node that was removed and made again is another).
    pub fn same(&self, other: &NodeHandle) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Where the node's network namespace is mounted.
    pub fn netns_path(&self) -> PathBuf {
        self.inner.netns()
    }

    /// Makes routes, neighbours and FDB entries match the list of nodes (itself included or not). Returns the
    /// number of changes.
    pub async fn sync_peers(&self, peers: &[NodeNet]) -> Result<usize> {
        let peers = peers.to_vec();
        self.run(move |inner| inner.sync_peers(&peers)).await
    }

    /// Connects a pod: `netns` is its namespace (`/proc/<pid>/ns/net`). Idempotent; adopts what is there.
    pub async fn attach(&self, pod_uid: &str, netns: &Path, ip: Ipv4Addr) -> Result<()> {
        let (pod_uid, netns) = (pod_uid.to_string(), netns.to_path_buf());
        self.run(move |inner| inner.attach(&pod_uid, &netns, ip)).await
    }

    /// Removes a pod's link; fine if there is none.
    pub async fn detach(&self, pod_uid: &str) -> Result<()> {
        let step = Step::DelLink(layout::pod_link(pod_uid));
        self.run(move |inner| inner.with(|open| kernel::perform(&mut open.route, &mut open.index, &[step], None))).await
    }

    /// Pod links as found in the kernel.
    pub async fn attached(&self) -> Result<Vec<PodLink>> {
        let links = self.run(|inner| inner.with(|open| kernel::aliases(&mut open.route))).await?;
        let pods = links.into_iter().filter(|(name, alias, _)| *name == layout::pod_link(alias));
        Ok(pods.map(|(link, pod_uid, _)| PodLink { pod_uid, link }).collect())
    }

    /// Makes the node's nft table match, and forgets UDP flows to endpoints that are gone. Returns the number of
    /// changes.
    pub async fn sync_services(&self, services: &Services) -> Result<usize> {
        let services = services.clone();
        self.run(move |inner| inner.sync_services(&services)).await
    }

    /// The node's nft table as the kernel has it, in nft's syntax.
    pub async fn ruleset(&self) -> Result<String> {
        self.run(|inner| {
            inner.with(|open| Ok(open.nft.read(&inner.cluster.table())?.map(|t| t.to_string()).unwrap_or_default()))
        })
        .await
    }

    /// Opens a TCP connection from inside the node, as probes and port-forward do.
    pub async fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let path = self.netns_path();
        let make = move || match to {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        };
        let socket = task::spawn_blocking(move || netns::inside(&path, make)).await?.map_err(io::Error::other)??;
        socket.connect(to).await
    }

    /// Cuts (`false`) or joins (`true`) the node's uplink.
    pub async fn set_uplink(&self, up: bool) -> Result<()> {
        self.run(move |inner| host::set_uplink(&inner.cluster, &inner.net, up)).await
    }

    /// Removes the node: uplink and namespace. The handle is of no use afterwards.
    pub async fn remove(&self) -> Result<()> {
        self.run(|inner| {
            inner.lock().take();
            host::remove_node(&inner.cluster, &inner.net)
        })
        .await
    }

    async fn run<T: Send + 'static>(&self, f: impl FnOnce(&Inner) -> Result<T> + Send + 'static) -> Result<T> {
        let inner = self.inner.clone();
        blocking(move || f(&inner)).await
    }
}

impl Inner {
    fn netns(&self) -> PathBuf {
        self.cluster.netns(&self.net.name)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Open>> {
        // A panic while the lock was held leaves sockets that can still be used: every plan starts by reading.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, f: impl FnOnce(&mut Open) -> Result<T>) -> Result<T> {
        match self.lock().as_mut() {
            Some(open) => f(open),
            None => Err(Error::Invalid(format!("node {} is gone", self.net.name))),
        }
    }

    fn make(&self) -> Result<()> {
        host::namespace(&self.cluster, &self.netns())?;
        let (mut route, nft) =
            netns::inside(&self.netns(), || Ok((Netlink::open(NETLINK_ROUTE)?, nft::Nft::open()?)))??;
        host::uplink(&self.cluster, &self.net, &mut route)?;
        let mut open = Open { route, nft, index: BTreeMap::new() };
        // Peers are not known here: keep those that are there.
        self.converge(&mut open, |desired, seen| {
            let over = |link: &str| link == layout::VXLAN;
            desired.routes.extend(seen.routes.iter().filter(|r| over(&r.link)).cloned());
            desired.neighbours.extend(seen.neighbours.iter().filter(|n| over(&n.link)).cloned());
            desired.fdb.extend(seen.fdb.iter().filter(|e| over(&e.link)).cloned());
        })?;
        *self.lock() = Some(open);
        Ok(())
    }

    fn sync_peers(&self, peers: &[NodeNet]) -> Result<usize> {
        self.with(|open| {
            self.converge(open, |desired, _| {
                *desired = layout::node(&self.cluster, &self.net, peers);
            })
        })
    }

    /// `complete` finishes the desired state, which has no peers yet.
    fn converge(&self, open: &mut Open, complete: impl FnOnce(&mut View, &View)) -> Result<usize> {
        let desired = layout::node(&self.cluster, &self.net, &[]);
        let done = converge(&self.netns(), &mut open.route, desired, complete)?;
        open.index = done.index;
        Ok(done.steps)
    }

    fn attach(&self, pod_uid: &str, netns: &Path, ip: Ipv4Addr) -> Result<()> {
        let file = File::open(netns).map_err(|source| Error::File { what: "opening", path: netns.into(), source })?;
        let mut inside = netns::inside(netns, || Netlink::open(NETLINK_ROUTE))??;
        let name = layout::pod_link(pod_uid);
        self.with(|open| {
            let near = kernel::links(&mut open.route, &[layout::BRIDGE, &name])?;
            let desired = layout::pod_near(&self.cluster, pod_uid, ip);
            host::pair(&mut open.route, near, &mut inside, &desired, &name, file.as_raw_fd())
        })?;
        let mut seen = kernel::observe(&mut inside, &[layout::LO, layout::ETH])?;
        let steps = plan(&layout::pod_far(&self.cluster, &self.net, ip), &seen.view);
        kernel::perform(&mut inside, &mut seen.index, &steps, None)
    }

    fn sync_services(&self, desired: &Services) -> Result<usize> {
        let table = services::node_table(&self.cluster, desired);
        self.with(|open| {
            let changes = open.nft.sync(&table)?;
            if changes > 0 {
                netns::inside(&self.netns(), || conntrack::forget_stale(desired))??;
            }
            Ok(changes)
        })
    }
}

/// Netlink never waits long, but it does wait for the kernel's locks: keep that off the async threads.
async fn blocking<T: Send + 'static>(f: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match task::spawn_blocking(f).await {
        Ok(result) => result,
        Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
        Err(e) => Err(Error::Invalid(format!("shutting down: {e}"))),
    }
}

/// The nodes that run here, by name; watchable, because they come and go.
#[derive(Clone)]
pub struct Nodes {
    map: Arc<watch::Sender<BTreeMap<String, NodeHandle>>>,
}

impl Default for Nodes {
    fn default() -> Self {
        Nodes { map: Arc::new(watch::Sender::new(BTreeMap::new())) }
    }
}

impl Nodes {
    pub fn insert(&self, node: NodeHandle) {
        self.map.send_modify(|m| {
            m.insert(node.net().name.clone(), node);
        });
    }

    pub fn remove(&self, name: &str) -> Option<NodeHandle> {
        let mut gone = None;
        self.map.send_if_modified(|m| {
            gone = m.remove(name);
            gone.is_some()
        });
        gone
    }

    pub fn get(&self, name: &str) -> Option<NodeHandle> {
        self.map.borrow().get(name).cloned()
    }

    pub fn list(&self) -> Vec<NodeHandle> {
        self.map.borrow().values().cloned().collect()
    }

    /// Changes of the set; the current value counts as unseen at first.
    pub fn subscribe(&self) -> watch::Receiver<BTreeMap<String, NodeHandle>> {
        let mut seen = self.map.subscribe();
        seen.mark_changed();
        seen
    }
}

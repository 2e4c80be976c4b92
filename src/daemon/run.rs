//! `coracle up`: everything, in order, until a signal.
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ipnetwork::Ipv4Network;
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::bootstrap::{self, Addresses};
use super::control::{self, About, Control};
use super::fleet::{self, Common, Connector, Fleet};
use super::ground::{listen, prepare, write_private};
use super::paths::{Paths, context_name};
use super::settings::{Options, Settings};
use super::{images, lock, underlay};
use crate::apiserver::pki::Pki;
use crate::apiserver::{self, ApiServer, Identity};
use crate::client::{Informers, in_process};
use crate::image::Images;
use crate::net::{self, Cluster, Nodes};
use crate::runtime::{Runtime, scope};
use crate::store::Store;
use crate::{controllers, dns, proxy, scheduler};

/// Of the links between the nodes: what Ethernet has.
pub const UNDERLAY_MTU: u32 = 1500;
/// Where DNS listens on the underlay: not 53, which the host's own resolver may hold on every address.
const DNS_PORT: u16 = 10053;
/// Number of the `kube-dns` Service in the Service range, by Kubernetes' custom.
const DNS_NUMBER: u32 = 10;
/// The node ports of every Kubernetes.
const NODE_PORTS: (u16, u16) = (30000, 32767);
/// How long loops may take to end.
const GOODBYE: Duration = Duration::from_secs(5);

/// What `up` says while it works.
#[derive(Debug, Clone)]
pub enum Event {
    /// Something is done, after this long.
    Done(String, Duration),
    /// Everything is; the kubeconfig.
    Ready(PathBuf, Duration),
}

/// Brings the cluster up and keeps it until SIGTERM, SIGINT or a shutdown request. `tell` hears of each step.
pub async fn run(options: Options, tell: impl Fn(Event)) -> Result<()> {
    let begin = Instant::now();
    let done = |what: String| tell(Event::Done(what, begin.elapsed()));
    let paths = Paths::new(&options.cluster, options.data_dir.as_deref());
    scope::settle(&paths.cluster);
    options.check(&paths.data)?;
    let _locks = prepare(&paths)?;
    scope::enter(&paths.cluster)?;
    let (settings, cluster) = lay_ground(&paths, &options).await?;
    done(format!("underlay {} on {}", cluster.underlay, cluster.link()));
    let daemon = Daemon::assemble(paths, options, settings, cluster).await?;
    done(format!("API on {}", daemon.about().api));
    let images = daemon.build_images();
    let names = daemon.fleet.start_all().await?;
    daemon.start_loops();
    bootstrap::ensure(&daemon.admin, &daemon.addresses()).await?;
    match fleet::ready(&daemon.admin, &names).await {
        Ok(()) => done(format!("{} nodes Ready", names.len())),
        // The API is there to find out why; pods that run already are better off with a daemon than without.
        Err(error) => tracing::error!("{error:#}"),
    }
    if !images::all_there(&daemon.images) {
        let images = images.await.unwrap_or_default();
        done(format!("images: {}", images.join(", ")));
    }
    tell(Event::Ready(daemon.paths.kubeconfig(), begin.elapsed()));
    notify(NotifyState::Ready);
    // What only starting needed: the loaded history as it lay on disk, code that runs once.
    if let Err(error) = crate::sys::give_back_pages() {
        tracing::debug!(%error, "giving back memory");
    }
    daemon.until_told().await;
    notify(NotifyState::Stopping);
    daemon.end().await;
    Ok(())
}

/// Tells the service manager, if one started us and wants to know (sd_notify(3)).
fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!("telling the service manager: {error}");
    }
}

/// What must exist before anything can listen: settings and the host's side of the network.
async fn lay_ground(paths: &Paths, options: &Options) -> Result<(Settings, Cluster)> {
    let mut settings = Settings::merge(Settings::load(&paths.data)?, options)?;
    let mut cluster = Cluster {
        name: paths.cluster.clone(),
        underlay: Ipv4Network::from(Ipv4Addr::UNSPECIFIED),
        pod_cidr: settings.pod_cidr,
        service_cidr: settings.service_cidr,
        mtu: UNDERLAY_MTU,
    };
    // Two clusters that come up at once must not choose the same network: held until the host has its address on it.
    let _choosing = lock::directory(Paths::run_root()).await?;
    let mut taken = underlay::taken(&cluster.link())?;
    taken.extend([settings.pod_cidr, settings.service_cidr]);
    let Some(network) = underlay::choose(settings.underlay, &taken) else {
        bail!("no free /24 in 172.30.0.0/15 for the underlay")
    };
    cluster.underlay = network;
    settings.underlay = Some(network);
    settings.save(&paths.data)?;
    net::ensure_host(&cluster).await.context("making the host's side of the network")?;
    Ok((settings, cluster))
}

/// Everything that lives while the cluster is up.
struct Daemon {
    paths: Paths,
    options: Options,
    cluster: Cluster,
    port: u16,
    api: Arc<ApiServer>,
    fleet: Arc<Fleet>,
    handles: Nodes,
    images: Images,
    root_ca: String,
    admin: kube::Client,
    /// Ends everything.
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl Daemon {
    async fn assemble(paths: Paths, options: Options, mut settings: Settings, cluster: Cluster) -> Result<Daemon> {
        let gateway = cluster.gateway();
        let service = |number: u32| Ipv4Addr::from(u32::from(cluster.service_cidr.network()) + number);
        let listeners = listen(settings.api_port, options.api_port == Some(0), gateway).await?;
        let port = listeners[0].local_addr()?.port();
        settings.api_port = port;
        settings.save(&paths.data)?;
        let (pki, store) = open(&paths, vec![gateway.into(), service(1).into()]).await?;
        let server = format!("https://127.0.0.1:{port}");
        write_private(&paths.kubeconfig(), &pki.kubeconfig(&context_name(&paths.cluster), &server))?;

        let connector = Connector::default();
        let config = api_config(&cluster, &options, &pki, port, &connector);
        let api = ApiServer::start(store, config).await;
        let api = api.map_err(|error| anyhow::anyhow!("starting the API server: {error:?}"))?;
        let images = Images::open(&paths.images())?;
        let common = Common {
            cluster: cluster.clone(),
            paths: paths.clone(),
            images: images.clone(),
            runtime: Runtime::new(std::env::current_exe()?, paths.run.clone())?,
            router: api.router(),
            dns: service(DNS_NUMBER),
            api: SocketAddr::from((gateway, port)),
            heartbeat: options.heartbeat,
            grace: options.node_grace,
            memory_qos: options.memory_qos,
        };
        let handles = Nodes::default();
        let admin = in_process(api.router(), Identity::master("system:apiserver"));
        let daemon = Daemon {
            fleet: Arc::new(Fleet::new(common, connector, handles.clone(), settings)),
            root_ca: pki.ca_certificate().to_owned(),
            shutdown: CancellationToken::new(),
            tasks: TaskTracker::new(),
            paths,
            options,
            cluster,
            port,
            api,
            handles,
            images,
            admin,
        };
        daemon.serve(listeners, &pki)?;
        Ok(daemon)
    }

    fn serve(&self, listeners: Vec<TcpListener>, pki: &Pki) -> Result<()> {
        let tls = pki.server_config()?;
        for listener in listeners {
            let part = apiserver::serve_tls(listener, tls.clone(), self.api.router(), self.shutdown.clone());
            self.task("listener", part);
        }
        let control = Control {
            about: self.about(),
            fleet: self.fleet.clone(),
            handles: self.handles.clone(),
            admin: self.admin.clone(),
            shutdown: self.shutdown.clone(),
        };
        let router = control::router(control).fallback_service(self.api.router());
        let (socket, stop) = (self.paths.socket(), self.shutdown.clone());
        self.task("socket", async move { apiserver::serve_unix(&socket, router, stop).await });
        Ok(())
    }

    fn about(&self) -> About {
        About {
            name: self.paths.cluster.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started: jiff::Timestamp::now(),
            api: format!("https://127.0.0.1:{}", self.port),
            underlay: self.cluster.underlay.to_string(),
            pod_cidr: self.cluster.pod_cidr.to_string(),
            service_cidr: self.cluster.service_cidr.to_string(),
            data_dir: self.paths.data.display().to_string(),
            kubeconfig: self.paths.kubeconfig().display().to_string(),
        }
    }

    fn start_loops(&self) {
        let client = |identity: Identity| in_process(self.api.router(), identity);
        let stop = || self.shutdown.clone();

        let manager = client(Identity::new("system:kube-controller-manager", &[]));
        let config = controllers::Config {
            node_monitor_grace: self.options.node_grace,
            root_ca: self.root_ca.clone(),
            ..controllers::Config::default()
        };
        let informers = Informers::new(manager.clone(), stop());
        self.task("controllers", forever(controllers::run(manager, informers, config, stop())));

        let planner = client(Identity::new("system:kube-scheduler", &[]));
        let informers = Informers::new(planner.clone(), stop());
        self.task("scheduler", forever(scheduler::run(planner, informers, stop())));

        let kube_proxy = client(Identity::new("system:kube-proxy", &[]));
        self.task("proxy", proxy::run(kube_proxy, self.cluster.clone(), self.handles.clone(), stop()));

        let (cluster, stop_guard) = (self.cluster.clone(), stop());
        self.task("firewall guard", async move {
            let guarded = stop_guard.run_until_cancelled(net::guard(&cluster)).await;
            guarded.unwrap_or(Ok(()))
        });

        let core_dns = client(Identity::service_account("kube-system", "coredns"));
        let listen = vec![SocketAddr::from((self.cluster.gateway(), DNS_PORT))];
        self.task("dns", dns::run(core_dns, listen, stop()));
    }

    /// Runs a part until it ends by itself; one that fails is said once, here.
    fn task<E: std::fmt::Display>(
        &self,
        name: &'static str,
        part: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.tasks.spawn(async move {
            if let Err(error) = part.await {
                tracing::error!("{name} ended: {error:#}");
            }
        });
    }

    fn addresses(&self) -> Addresses {
        let service = |number: u32| Ipv4Addr::from(u32::from(self.cluster.service_cidr.network()) + number);
        Addresses {
            api_service: service(1),
            dns_service: service(DNS_NUMBER),
            gateway: self.cluster.gateway(),
            api_port: self.port,
            dns_port: DNS_PORT,
        }
    }

    /// Meanwhile, in a thread of its own: takes a moment the first time, nothing the next.
    fn build_images(&self) -> JoinHandle<Vec<String>> {
        let images = self.images.clone();
        tokio::task::spawn_blocking(move || images::ensure_built_in(&images))
    }

    async fn until_told(&self) {
        use tokio::signal::unix::{SignalKind, signal};
        let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
            tracing::error!("no signal handlers; only a shutdown request ends this daemon in good order");
            return self.shutdown.cancelled().await;
        };
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
            () = self.shutdown.cancelled() => {}
        }
    }

    /// Ends the loops, then the API. Pods run on.
    async fn end(self) {
        let ending = async {
            self.fleet.rest().await;
            self.shutdown.cancel();
            self.api.shut_down();
            self.tasks.close();
            self.tasks.wait().await;
        };
        if tokio::time::timeout(GOODBYE, ending).await.is_err() {
            tracing::warn!("not every part ended within {GOODBYE:?}");
        }
        if let Err(error) = std::fs::remove_file(self.paths.socket()) {
            tracing::debug!("the socket: {error}");
        }
    }
}

fn api_config(cluster: &Cluster, options: &Options, pki: &Pki, port: u16, connector: &Connector) -> apiserver::Config {
    apiserver::Config {
        service_cidr: cluster.service_cidr,
        node_ports: NODE_PORTS,
        token_key: pki.token_key().to_owned(),
        eviction_seconds: options.eviction_seconds,
        address: format!("127.0.0.1:{port}"),
        nodes: Arc::new(connector.clone()),
    }
}

async fn forever(part: impl Future<Output = ()>) -> Result<(), std::convert::Infallible> {
    part.await;
    Ok(())
}

/// Keys and objects, both from the disk and both blocking: at the same time.
async fn open(paths: &Paths, addresses: Vec<IpAddr>) -> Result<(Pki, Store)> {
    let (pki, store) = (paths.data.join("pki"), paths.data.join("store"));
    let pki = tokio::task::spawn_blocking(move || Pki::ensure(&pki, &addresses, jiff::Timestamp::now()));
    let store = tokio::task::spawn_blocking(move || Store::open(&store));
    let (pki, store) = futures::future::try_join(pki, store).await?;
    Ok((pki?, store?))
}

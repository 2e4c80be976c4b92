//! The control plane alone: API server, controllers and scheduler in one process, without a kernel object. Nodes are
//! objects made by hand, and a few lines of kubelet say of every placed pod that it runs.
use std::{fmt::Debug, sync::Arc, time::Duration};

use coracle::{
    apiserver::{self, ApiServer, Identity, NodeConnector, pki},
    client::{Informer, Informers, ObjectKey, in_process},
    controllers, scheduler,
    store::Store,
};
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::{ConfigMap, Endpoints, Event, Namespace, Node, Pod, Service, ServiceAccount, Taint},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Resource,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// What takes longer is stuck.
const DEADLINE: Duration = Duration::from_secs(20);

/// How long nodes may be silent, where that matters; elsewhere for ever.
const GRACE: Duration = Duration::from_secs(2);
const EVER: Duration = Duration::from_secs(3600);

/// A time on this machine, which may be said to be slower than the one the tests are written for.
fn here(time: Duration) -> Duration {
    let factor = std::env::var("CORACLE_TEST_SLOWNESS").ok();
    let factor = factor.and_then(|f| f.parse::<f64>().ok());
    time.mul_f64(factor.unwrap_or(1.0).max(1.0))
}

struct Nowhere;

impl NodeConnector for Nowhere {
    fn connect(&self, _: &str) -> Option<axum::Router> {
        None
    }
}

struct Plane {
    client: kube::Client,
    informers: Arc<Informers>,
    scheduler: Arc<scheduler::Scheduler>,
    shutdown: CancellationToken,
    _dir: tempfile::TempDir,
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Plane {
    /// Nodes that nobody speaks for are lost after `grace`.
    async fn start(grace: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let keys = pki::Pki::ensure(dir.path(), &[], jiff::Timestamp::now()).unwrap();
        let config = apiserver::Config {
            service_cidr: "10.96.0.0/16".parse().unwrap(),
            node_ports: (30000, 32767),
            token_key: keys.token_key().to_owned(),
            eviction_seconds: 1,
            address: "127.0.0.1:6443".to_owned(),
            nodes: Arc::new(Nowhere),
        };
        let store = Store::open(&dir.path().join("store")).unwrap();
        let server = ApiServer::start(store, config).await.unwrap();
        let shutdown = CancellationToken::new();
        let client = |user: &str| in_process(server.router(), Identity::new(user, &[]));
        let manager = client("system:kube-controller-manager");
        let config = controllers::Config {
            node_monitor_grace: grace,
            root_ca: "-----BEGIN CERTIFICATE-----".to_owned(),
            ..controllers::Config::default()
        };
        let informers = Informers::new(manager.clone(), shutdown.clone());
        tokio::spawn(controllers::run(manager, informers, config, shutdown.clone()));
        let planner = client("system:kube-scheduler");
        let scheduler = scheduler::Scheduler::new(Informers::new(planner.clone(), shutdown.clone()));
        tokio::spawn(scheduler.clone().run(planner, shutdown.clone()));
        let client = in_process(server.router(), Identity::master("test"));
        let informers = Informers::new(client.clone(), shutdown.clone());
        Self { client, informers, scheduler, shutdown, _dir: dir }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), "default")
    }

    async fn create<K>(&self, object: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + serde::Serialize
            + Debug,
    {
        let object: K = serde_json::from_value(object).unwrap();
        self.api::<K>().create(&PostParams::default(), &object).await.unwrap()
    }

    async fn node(&self, name: &str, cpu: &str) {
        let nodes = Api::<Node>::all(self.client.clone());
        let node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}});
        nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
        let room = json!({"cpu": cpu, "memory": "1Gi", "pods": "110"});
        let status = json!({"status": {"capacity": room, "allocatable": room, "conditions": [alive()]}});
        nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }

    /// Says that a node is alive, again and again, until it is aborted.
    fn heart(&self, name: &'static str) -> tokio::task::JoinHandle<()> {
        let nodes = Api::<Node>::all(self.client.clone());
        tokio::spawn(async move {
            loop {
                let status = Patch::Merge(json!({"status": {"conditions": [alive()]}}));
                nodes.patch_status(name, &PatchParams::default(), &status).await.unwrap();
                tokio::time::sleep(GRACE / 10).await;
            }
        })
    }

    /// The taints of nodes, all together, are what is said of them.
    async fn taints(&self, what: &str, holds: impl Fn(&[Taint]) -> bool) {
        let of = |node: &Arc<Node>| node.spec.clone().unwrap_or_default().taints.unwrap_or_default();
        self.until::<Node>(what, |all| holds(&all.iter().flat_map(of).collect::<Vec<_>>())).await;
    }

    /// Says of every pod with a node that it runs and is ready, except those labelled `broken`; and lets go those that
    /// are told to.
    fn kubelet(&self) {
        let (client, pods) = (self.client.clone(), self.informers.of::<Pod>());
        let (sender, mut inbox) = tokio::sync::mpsc::unbounded_channel::<Arc<Pod>>();
        pods.subscribe(move |change| {
            if let Some(pod) = &change.new {
                let _ = sender.send(pod.clone());
            }
        });
        tokio::spawn(async move {
            let mut count = 0;
            while let Some(pod) = inbox.recv().await {
                let (name, meta) = (pod.metadata.name.clone().unwrap(), &pod.metadata);
                let api = Api::<Pod>::namespaced(client.clone(), meta.namespace.as_deref().unwrap());
                let placed = pod.spec.as_ref().unwrap().node_name.is_some();
                let broken = meta.labels.iter().flatten().any(|(key, _)| key == "broken");
                let running = pod.status.as_ref().and_then(|s| s.pod_ip.as_ref()).is_some();
                if placed && meta.deletion_timestamp.is_some() {
                    let _ = api.delete(&name, &DeleteParams::default().grace_period(0)).await;
                } else if placed && !running && !broken {
                    count += 1;
                    let ip = format!("10.244.{}.{}", count / 250, count % 250 + 1);
                    let now = jiff::Timestamp::now().to_string();
                    let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": now});
                    let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
                        "conditions": [ready]}});
                    let _ = api.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await;
                }
            }
        });
    }

    /// Waits until all objects of a kind together satisfy a condition.
    async fn until<K>(&self, what: &str, holds: impl Fn(&[Arc<K>]) -> bool)
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let informer: Arc<Informer<K>> = self.informers.of();
        informer.wait_synced().await;
        let changed = Arc::new(tokio::sync::Notify::new());
        let signal = changed.clone();
        informer.subscribe(move |_| signal.notify_one());
        let wait = async {
            while !holds(&informer.list()) {
                changed.notified().await;
            }
        };
        if tokio::time::timeout(here(DEADLINE), wait).await.is_err() {
            let events: Vec<_> = self.informers.of::<Event>().list().iter().map(|e| e.message.clone()).collect();
            panic!("not reached: {what}; now: {:#?}; events: {events:#?}", informer.list());
        }
    }
}

fn alive() -> Value {
    let now = jiff::Timestamp::now().to_string();
    json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "", "lastHeartbeatTime": now,
        "lastTransitionTime": now})
}

fn deployment(name: &str, replicas: i32, image: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": image,
                    "resources": {"requests": {"cpu": "100m"}}}]},
            },
        },
    })
}

fn ready(pods: &[Arc<Pod>], image: &str) -> usize {
    let is = |pod: &&Arc<Pod>| {
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        pod.metadata.deletion_timestamp.is_none()
            && conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
            && pod.spec.as_ref().unwrap().containers[0].image.as_deref() == Some(image)
    };
    pods.iter().filter(is).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_becomes_pods_behind_a_service_rolls_over_and_goes() {
    let plane = Plane::start(EVER).await;
    plane.kubelet();
    for node in ["node-1", "node-2", "node-3"] {
        plane.node(node, "4").await;
    }
    // Until it is ready a node takes nothing, and what is placed without it stays where it is.
    plane.taints("all take pods", <[_]>::is_empty).await;
    plane.create::<Deployment>(deployment("web", 6, "one")).await;
    let service = json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    plane.create::<Service>(service).await;
    plane.until::<Pod>("six ready pods", |pods| ready(pods, "one") == 6).await;
    plane
        .until::<Pod>("two on each node", |pods| {
            let on = |node: &str| {
                let here = |p: &&Arc<Pod>| p.spec.as_ref().unwrap().node_name.as_deref() == Some(node);
                pods.iter().filter(here).count()
            };
            ["node-1", "node-2", "node-3"].iter().all(|node| on(node) == 2)
        })
        .await;
    plane
        .until::<EndpointSlice>("six endpoints in the slice", |slices| {
            slices.iter().any(|slice| slice.endpoints.len() == 6)
        })
        .await;
    plane
        .until::<Endpoints>("six addresses", |all| {
            let subsets = |e: &Arc<Endpoints>| e.subsets.clone().unwrap_or_default();
            all.iter().flat_map(subsets).any(|s| s.addresses.is_some_and(|a| a.len() == 6))
        })
        .await;
    plane
        .until::<Deployment>("complete", |all| {
            all.iter().any(|d| {
                let status = d.status.clone().unwrap_or_default();
                let conditions = status.conditions.unwrap_or_default();
                status.available_replicas == Some(6)
                    && conditions.iter().any(|c| c.reason.as_deref() == Some("NewReplicaSetAvailable"))
            })
        })
        .await;

    let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "two"}]}}}});
    let deployments = plane.api::<Deployment>();
    deployments.patch("web", &PatchParams::default(), &Patch::Strategic(patch)).await.unwrap();
    plane.until::<Pod>("rolled", |pods| ready(pods, "two") == 6 && ready(pods, "one") == 0).await;
    plane
        .until::<Deployment>("second revision", |all| {
            let revision = "deployment.kubernetes.io/revision";
            all.iter().any(|d| d.metadata.annotations.iter().flatten().any(|(k, v)| k == revision && v == "2"))
        })
        .await;
    // Pods on their way out may be gone, and forgotten, for the scheduler already.
    let pods = plane.informers.of::<Pod>().list();
    let explained = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).all(|pod| {
        plane.scheduler.decision(&ObjectKey::of(pod.as_ref())).is_some_and(|decision| decision.chosen.is_some())
    });
    assert!(explained);

    deployments.delete("web", &DeleteParams::background()).await.unwrap();
    plane.until::<ReplicaSet>("no sets", |sets| sets.is_empty()).await;
    plane.until::<Pod>("no pods", |pods| pods.is_empty()).await;
    plane.api::<Service>().delete("web", &DeleteParams::default()).await.unwrap();
    plane
        .until::<EndpointSlice>("no slice of web", |slices| {
            let of = |slice: &Arc<EndpointSlice>| slice.metadata.name.clone().unwrap_or_default();
            !slices.iter().any(|slice| of(slice).starts_with("web"))
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_gets_its_account_and_ca_and_goes_with_everything_in_it() {
    let plane = Plane::start(EVER).await;
    plane.kubelet();
    plane.node("node-1", "4").await;
    let namespaces = Api::<Namespace>::all(plane.client.clone());
    let team = serde_json::from_value(json!({"metadata": {"name": "team"}})).unwrap();
    namespaces.create(&PostParams::default(), &team).await.unwrap();
    fn within<K: Resource>(objects: &[Arc<K>]) -> usize {
        objects.iter().filter(|object| object.meta().namespace.as_deref() == Some("team")).count()
    }
    plane.until::<ServiceAccount>("the account", |all| within(all) == 1).await;
    plane.until::<ConfigMap>("the CA", |all| within(all) == 1).await;
    let deployments = Api::<Deployment>::namespaced(plane.client.clone(), "team");
    let web = serde_json::from_value(deployment("web", 3, "one")).unwrap();
    deployments.create(&PostParams::default(), &web).await.unwrap();
    plane.until::<Pod>("pods", |pods| ready(pods, "one") == 3).await;
    namespaces.delete("team", &DeleteParams::default()).await.unwrap();
    plane.until::<Namespace>("gone", |all| !all.iter().any(|n| n.metadata.name.as_deref() == Some("team"))).await;
    assert!(
        Api::<Pod>::namespaced(plane.client.clone(), "team").list(&Default::default()).await.unwrap().items.is_empty()
    );
    plane.until::<ConfigMap>("no CA", |all| within(all) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_fits_nowhere_says_why_and_is_placed_when_room_comes() {
    let plane = Plane::start(EVER).await;
    plane.node("node-1", "1").await;
    plane.node("node-2", "1").await;
    let nodes = Api::<Node>::all(plane.client.clone());
    let taint = json!({"spec": {"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]}});
    nodes.patch("node-2", &PatchParams::default(), &Patch::Merge(taint)).await.unwrap();
    let seen = |all: &[Arc<Node>]| all.iter().filter(|n| n.spec.as_ref().is_some_and(|s| s.taints.is_some())).count();
    plane.until::<Node>("tainted", |all| seen(all) == 1).await;
    let pod = json!({"metadata": {"name": "big"}, "spec": {"containers": [{"name": "c", "image": "i",
        "resources": {"requests": {"cpu": "2"}}}]}});
    plane.create::<Pod>(pod).await;
    let why = "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint {gpu: yes}. preemption: \
        0/2 nodes are available: 2 Preemption is not helpful for scheduling.";
    plane
        .until::<Pod>("the condition", |pods| {
            let conditions = |pod: &Arc<Pod>| pod.status.clone().unwrap_or_default().conditions.unwrap_or_default();
            pods.iter().flat_map(conditions).any(|c| {
                c.type_ == "PodScheduled"
                    && c.status == "False"
                    && c.reason.as_deref() == Some("Unschedulable")
                    && c.message.as_deref() == Some(why)
            })
        })
        .await;
    plane.until::<Event>("the event", |all| all.iter().any(|e| e.message.as_deref() == Some(why))).await;
    plane.node("node-3", "4").await;
    plane.until::<Pod>("placed", |pods| pods[0].spec.as_ref().unwrap().node_name.as_deref() == Some("node-3")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_node_is_tainted_and_its_pods_are_replaced_elsewhere() {
    let plane = Plane::start(here(GRACE)).await;
    plane.kubelet();
    plane.node("node-1", "4").await;
    let heart = plane.heart("node-1");
    plane.create::<Deployment>(deployment("web", 2, "one")).await;
    plane.until::<Pod>("ready", |pods| ready(pods, "one") == 2).await;
    heart.abort();
    let unreachable = |taint: &Taint| taint.key == "node.kubernetes.io/unreachable";
    plane.taints("unreachable", |all| all.iter().filter(|t| unreachable(t)).count() == 2).await;
    plane.node("node-2", "4").await;
    let heart = plane.heart("node-2");
    plane
        .until::<Pod>("elsewhere", |pods| {
            let on_2 = |p: &&Arc<Pod>| p.spec.as_ref().unwrap().node_name.as_deref() == Some("node-2");
            pods.iter().filter(on_2).count() == 2 && pods.len() == 2
        })
        .await;
    heart.abort();
}

//! `coracle demo`: a cluster from nothing, and what it can do, step by step with the time each step takes.
use std::collections::BTreeSet;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::apply;
use super::door::{Door, Patch};
use super::load::Load;
use super::resource::{Discovery, Item};
use super::rollout;
use super::scope::Manifest;
use super::wait;
use crate::api::{meta, yaml};
use crate::guest;
use crate::lens::xray;

/// What is applied; the same files as `kubectl apply -f manifests/demo`.
const WEB: &str = include_str!("../../manifests/demo/web.yaml");
/// Longest any step may take: on a busy laptop, with a wide margin.
const PATIENCE: Duration = Duration::from_secs(60);
/// One request may take this long.
const REQUEST: Duration = Duration::from_secs(2);
/// Between two attempts to reach an address that does not answer yet.
const PAUSE: Duration = Duration::from_millis(5);
/// How often the spinner turns.
const TICK: Duration = Duration::from_millis(80);

/// Flags of `demo`.
#[derive(Args)]
pub struct Demo {
    /// Flags for `coracle up`, after --
    #[arg(last = true)]
    up: Vec<String>,
}

/// Says what is going on, and how long it took.
struct Teller(ProgressBar);

impl Teller {
    fn begin(what: &str) -> (Teller, Instant) {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("  {spinner} {msg}") {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        bar.enable_steady_tick(TICK);
        (Teller(bar), Instant::now())
    }

    fn end(self, begun: Instant, what: &str) {
        self.0.finish_and_clear();
        println!("{:>8.3}s  {what}", begun.elapsed().as_secs_f64());
    }
}

/// The cluster of the demo.
struct Stage<'a> {
    cluster: &'a str,
    door: Door,
    discovery: Discovery,
}

impl Demo {
    /// Runs it.
    pub async fn run(self, cluster: &str) -> Result<()> {
        println!("A Kubernetes cluster on this machine, from nothing:\n");
        self.up(cluster)?;
        let door = Door::open(cluster).await?;
        let discovery = Discovery::load(&door).await?;
        let stage = Stage { cluster, door, discovery };
        stage.nodes().await?;
        stage.apply().await?;
        stage.every_pod_answers().await?;
        stage.heals().await?;
        stage.rolls().await?;
        stage.kernel().await?;
        stage.how_to_go_on().await
    }

    fn up(&self, cluster: &str) -> Result<()> {
        // A killed daemon leaves its socket.
        if UnixStream::connect(crate::daemon::Paths::new(cluster, None).socket()).is_ok() {
            println!("          cluster {cluster:?} is up already");
            return Ok(());
        }
        let mut up = Command::new(std::env::current_exe()?);
        up.args(["--name", cluster, "up", "--detach"]).args(&self.up).stdin(Stdio::null());
        ensure!(up.status().context("starting the cluster")?.success(), "the cluster did not come up");
        Ok(())
    }
}

impl Stage<'_> {
    fn item(&self, kind: &str, name: &str) -> Result<Item> {
        self.discovery.one(&[kind.into(), name.into()], None, "default")
    }

    async fn list(&self, kind: &str, query: &str) -> Result<Vec<Value>> {
        let path = self.discovery.find(kind)?.path(Some("default"));
        let list = self.door.get(&format!("{path}{query}")).await?;
        Ok(meta::list(&list, &["items"]).to_vec())
    }

    async fn pods(&self) -> Result<Vec<Value>> {
        let all = self.list("pods", "?labelSelector=app%3Dweb").await?;
        Ok(all.into_iter().filter(|pod| !meta::deleting(pod)).collect())
    }

    /// Addresses of the nodes with the Service's node port.
    async fn urls(&self) -> Result<Vec<String>> {
        let web = self.door.get("/api/v1/namespaces/default/services/web").await?;
        let ports = meta::list(&web, &["spec", "ports"]);
        let port = ports.first().and_then(|port| meta::int(port, &["nodePort"]));
        let port = port.context("the Service has no node port")?;
        let nodes = self.list("nodes", "").await?;
        let address = |node: &Value| {
            let mut all = meta::list(node, &["status", "addresses"]).iter();
            let internal = all.find(|address| meta::text(address, &["type"]) == "InternalIP");
            internal.map(|address| format!("http://{}:{port}/", meta::text(address, &["address"])))
        };
        Ok(nodes.iter().filter_map(address).collect())
    }

    async fn nodes(&self) -> Result<()> {
        let (teller, begun) = Teller::begin("nodes");
        let nodes = self.list("nodes", "").await?;
        for node in &nodes {
            let item = self.item("nodes", meta::name(node))?;
            let ready = |node: Option<&Value>| Ok(node.is_some_and(|node| wait::condition(node, "Ready") == "True"));
            ensure!(wait::until(&self.door, &item, PATIENCE, ready).await?, "{} is not Ready", meta::name(node));
        }
        let names: Vec<&str> = nodes.iter().map(meta::name).collect();
        teller.end(
            begun,
            &format!("nodes Ready: {} — each a network namespace and a cgroup of this machine", names.join(", ")),
        );
        Ok(())
    }

    async fn apply(&self) -> Result<()> {
        let (teller, begun) = Teller::begin("applying manifests/demo");
        for object in yaml::documents(WEB).map_err(anyhow::Error::msg)? {
            let manifest = Manifest { file: "manifests/demo/web.yaml".into(), object };
            let item = self.discovery.item(&manifest, "default")?;
            apply::one(&self.door, &item, &manifest.object, "", &[("force", "true")]).await?;
        }
        self.rolled_out().await?;
        let place = |pod: &Value| {
            format!("{} on {}", meta::text(pod, &["status", "podIP"]), meta::text(pod, &["spec", "nodeName"]))
        };
        let places: Vec<String> = self.pods().await?.iter().map(place).collect();
        teller.end(begun, &format!("applied, placed, started and Ready: {}", places.join(", ")));
        Ok(())
    }

    /// Waits for the Deployment without a word.
    async fn rolled_out(&self) -> Result<()> {
        let item = self.item("deployments", "web")?;
        let done = |web: Option<&Value>| match web {
            Some(web) => rollout::progress(web).map(|(_, done)| done),
            None => bail!("the Deployment is gone"),
        };
        ensure!(
            wait::until(&self.door, &item, PATIENCE, done).await?,
            "the Deployment is not rolled out after {PATIENCE:?}"
        );
        Ok(())
    }

    async fn every_pod_answers(&self) -> Result<()> {
        let (teller, begun) = Teller::begin("asking the service");
        let urls = self.urls().await?;
        let wanted: BTreeSet<String> = self.pods().await?.iter().map(|pod| meta::name(pod).to_owned()).collect();
        let mut seen = BTreeSet::new();
        answering(&urls).await?;
        let mut turns = urls.iter().cycle();
        while !seen.is_superset(&wanted) {
            let url = turns.next().context("no nodes")?;
            let (status, body) = guest::get(url, REQUEST)?;
            ensure!(status == 200, "{url} answered {status}");
            seen.extend(String::from_utf8_lossy(&body).split(' ').next().map(str::to_owned));
            ensure!(begun.elapsed() < PATIENCE, "after {PATIENCE:?} only {seen:?} of {wanted:?} had answered");
        }
        teller.end(begun, &format!("one address, {} pods answer in turn: {}", seen.len(), urls[0]));
        Ok(())
    }

    async fn heals(&self) -> Result<()> {
        let (teller, begun) = Teller::begin("killing a container");
        let pod = self.pods().await?.pop().context("no pods")?;
        let name = meta::name(&pod).to_owned();
        let pid = xray::container(self.cluster, meta::uid(&pod), "web")
            .with_context(|| format!("no process of {name} found"))?;
        let restarts = |pod: &Value| -> i64 {
            let all = meta::list(pod, &["status", "containerStatuses"]).iter();
            all.filter_map(|c| meta::int(c, &["restartCount"])).sum()
        };
        let before = restarts(&pod);
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)?;
        let healed = |pod: Option<&Value>| {
            Ok(pod.is_some_and(|pod| restarts(pod) > before && wait::condition(pod, "Ready") == "True"))
        };
        let item = self.item("pods", &name)?;
        ensure!(wait::until(&self.door, &item, PATIENCE, healed).await?, "{name} did not heal within {PATIENCE:?}");
        teller.end(begun, &format!("killed process {pid} of {name}: started again and Ready"));
        Ok(())
    }

    async fn rolls(&self) -> Result<()> {
        let (teller, begun) = Teller::begin("a new version under load");
        let load = Load::start(self.urls().await?);
        let web = self.door.get("/apis/apps/v1/namespaces/default/deployments/web").await?;
        // Another one than before, however often the demo has run.
        let version = format!("v{}", meta::generation(&web) + 1);
        let path = "/apis/apps/v1/namespaces/default/deployments/web?force=true";
        let mut object = yaml::documents(WEB).map_err(anyhow::Error::msg)?.swap_remove(0);
        object["spec"]["template"]["spec"]["containers"][0]["env"] = json!([{"name": "VERSION", "value": version}]);
        self.door.patch(path, Patch::Apply, &object).await?;
        self.rolled_out().await?;
        let seen = load.stop();
        let failed: Vec<&String> = seen.iter().filter_map(|answer| answer.as_ref().err()).collect();
        if let Some(first) = failed.first() {
            bail!("{} of {} requests failed, the first: {first}", failed.len(), seen.len());
        }
        teller.end(begun, &format!("rolled out {version} under load: {} requests, 0 failed", seen.len()));
        Ok(())
    }

    async fn kernel(&self) -> Result<()> {
        let pod = self.pods().await?.pop().context("no pods")?;
        println!("\nWhat the kernel has behind pod {} (coracle xray {0}):\n", meta::name(&pod));
        for line in xray::pod(self.cluster, meta::uid(&pod)).text().lines() {
            println!("    {line}");
        }
        Ok(())
    }

    async fn how_to_go_on(&self) -> Result<()> {
        let status = self.door.get("/coracle/v1/status").await?;
        let name = if self.cluster == "default" { String::new() } else { format!(" --name {}", self.cluster) };
        println!("\nGo on:");
        println!("    export KUBECONFIG={}", meta::text(&status, &["kubeconfig"]));
        println!(
            "    kubectl get pods -o wide                any kubectl; or the same words: coracle{name} get pods -o wide"
        );
        println!("    coracle{name} node stop node-2          pull a node's plug and watch: kubectl get nodes,pods -w");
        println!("    labs/01-a-pod-is-processes.md           take a pod apart yourself");
        println!("    coracle{name} down                      leaves the machine as it was (--purge: the state too)");
        Ok(())
    }
}

/// Waits until every node answers: a pod is Ready a moment before the nodes' tables have it, and a connection in that
/// moment is refused, as Kubernetes refuses one to a Service without endpoints.
async fn answering(urls: &[String]) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    for url in urls {
        while let Err(e) = guest::get(url, REQUEST) {
            ensure!(Instant::now() < deadline, "no answer within {PATIENCE:?}: {e:#}");
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(())
}

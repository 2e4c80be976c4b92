//! Pods from `apply` to Ready on a running cluster: 1, 10 and 100 at once, against `podman kube play` of one.

use crate::containers::busybox;
use crate::report::Figure;
use crate::{Bench, CLUSTER, installed, peer};
use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, PostParams, WatchEvent, WatchParams};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Longest wait for one batch of pods; far beyond every budget, so that a hang ends with a message.
const DEADLINE: Duration = Duration::from_secs(60);
/// Runs of `podman kube play`; each takes up to half a second.
const PEER_RUNS: usize = 7;
const ONE: &str = "one pod, apply to Ready";
/// The image both run, and its name in a recipe.
const NAME: &str = "localhost/bench-busybox";
const IMAGE: &str = "localhost/bench-busybox:latest";

pub fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    write_recipe(&bench.dir.join("recipe"))?;
    bench.up()?;
    bench.coracle(&["image", "build", &bench.dir.join("recipe").to_string_lossy()])?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut figures = runtime.block_on(coracle())?;
    bench.down()?;
    let podman = podman(bench)?;
    if let (Some(ours), Some(theirs)) = (figures[0].median_ms(), podman.median_ms()) {
        anyhow::ensure!(ours < theirs / 3.0, "{ONE}: {ours:.1} ms is not under a third of podman's {theirs:.1} ms");
    }
    figures.insert(1, podman);
    Ok(figures)
}

/// An image of one static busybox, in the form `coracle image build` takes.
fn write_recipe(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    std::fs::copy(busybox()?, dir.join("busybox"))?;
    let recipe = format!(
        "name: {NAME}\nfiles:\n- {{copy: busybox, to: /bin/busybox}}\n\
         - {{link: busybox, to: /bin/sleep}}\n- {{link: busybox, to: /bin/sh}}\n"
    );
    std::fs::write(dir.join("recipe.yaml"), recipe)?;
    Ok(())
}

async fn coracle() -> Result<Vec<Figure>> {
    let socket = Path::new("/run/coracle").join(CLUSTER).join("coracle.sock");
    let client = coracle::client::over_unix(&socket, |_| {});
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let mut figures = vec![
        Figure::new(ONE, "coracle").floor_ms(100.0),
        Figure::new("10 pods, apply to all Ready", "coracle"),
        Figure::new("100 pods, apply to all Ready", "coracle").floor_ms(5000.0),
    ];
    for (figure, (count, runs)) in figures.iter_mut().zip([(1, 25), (10, 7), (100, 3)]) {
        for run in 0..runs {
            let batch = tokio::time::timeout(DEADLINE, ready(&pods, count, run));
            figure.push(batch.await.with_context(|| format!("{count} pods were not Ready in {DEADLINE:?}"))??);
            tokio::time::timeout(DEADLINE, gone(&pods)).await.context("the pods did not go")??;
        }
    }
    Ok(figures)
}

/// Create `count` pods and wait until the last is Ready.
async fn ready(pods: &Api<Pod>, count: usize, run: usize) -> Result<Duration> {
    let from = pods.list(&ListParams::default()).await?.metadata.resource_version.unwrap_or_default();
    let mut waiting: BTreeSet<String> = (0..count).map(|i| format!("pod-{count}-{run}-{i}")).collect();
    let manifests = waiting.iter().map(|name| manifest(name)).collect::<Result<Vec<_>>>()?;
    let started = Instant::now();
    let mut watch = pods.watch(&WatchParams::default(), &from).await?.boxed();
    let create = async {
        for pod in &manifests {
            pods.create(&PostParams::default(), pod).await?;
        }
        anyhow::Ok(())
    };
    let observe = async {
        while !waiting.is_empty() {
            match watch.try_next().await?.context("the watch ended")? {
                WatchEvent::Modified(pod) if is_ready(&pod) => {
                    waiting.remove(pod.metadata.name.as_deref().unwrap_or_default());
                }
                WatchEvent::Error(e) => anyhow::bail!("watch: {e:?}"),
                _ => {}
            }
        }
        anyhow::Ok(())
    };
    futures::future::try_join(create, observe).await?;
    Ok(started.elapsed())
}

/// Delete every pod of the namespace and wait until none is left.
async fn gone(pods: &Api<Pod>) -> Result<()> {
    let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    pods.delete_collection(&now, &ListParams::default()).await?;
    let left = pods.list(&ListParams::default()).await?;
    let mut names: BTreeSet<String> = left.items.iter().filter_map(|p| p.metadata.name.clone()).collect();
    let from = left.metadata.resource_version.unwrap_or_default();
    let mut watch = pods.watch(&WatchParams::default(), &from).await?.boxed();
    while !names.is_empty() {
        if let WatchEvent::Deleted(pod) = watch.try_next().await?.context("the watch ended")? {
            names.remove(pod.metadata.name.as_deref().unwrap_or_default());
        }
    }
    Ok(())
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn manifest(name: &str) -> Result<Pod> {
    Ok(serde_json::from_value(serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["/bin/sleep", "1000"]}]
        }
    }))?)
}

/// The same pod under `podman kube play`, in a storage root of the benchmark's own.
fn podman(bench: &Bench) -> Result<Figure> {
    if !installed("podman") {
        return Ok(Figure::missing(ONE, "podman kube play", "not installed (apt-get install podman)"));
    }
    let dir = bench.dir.join("podman");
    std::fs::create_dir_all(&dir)?;
    // Machines that forbid raising limits would refuse podman's defaults.
    std::fs::write(
        dir.join("containers.conf"),
        "[containers]\ndefault_ulimits=[\"nofile=1024:1024\",\"nproc=4096:4096\"]\n",
    )?;
    let podman = |args: &[&str]| {
        let mut command = Command::new("podman");
        command.env("CONTAINERS_CONF", dir.join("containers.conf"));
        command.arg("--root").arg(dir.join("root")).arg("--runroot").arg(dir.join("run")).args(args);
        command
    };
    let archive = dir.join("busybox.tar");
    peer(Command::new("tar").arg("-C").arg(bench.dir.join("rootfs")).arg("-cf").arg(&archive).arg("."))?;
    peer(&mut podman(&["import", &archive.to_string_lossy(), IMAGE]))?;
    let pod = dir.join("pod.json");
    std::fs::write(&pod, serde_json::to_vec(&manifest("peer")?)?)?;
    let pod = pod.to_string_lossy().into_owned();
    // The first play also builds podman's pause image: not counted.
    peer(&mut podman(&["kube", "play", &pod]))?;
    peer(&mut podman(&["kube", "down", &pod]))?;
    let mut figure = Figure::new(ONE, "podman kube play");
    for _ in 0..PEER_RUNS {
        let started = Instant::now();
        peer(&mut podman(&["kube", "play", &pod]))?;
        figure.push(started.elapsed());
        peer(&mut podman(&["kube", "down", &pod]))?;
    }
    peer(&mut podman(&["system", "reset", "--force"]))?;
    Ok(figure)
}

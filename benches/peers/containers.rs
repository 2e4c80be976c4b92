//! One container from nothing to its exit and removal: the runtime room against `runc run`, same root filesystem.

use crate::report::Figure;
use crate::{Bench, installed, peer};
use anyhow::{Context, Result};
use coracle::runtime::{ContainerSpec, Event, Network, Runtime, SandboxSpec};
use oci_spec::runtime::{ProcessBuilder, RootBuilder, Spec};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

const RUNS: usize = 40;
const WHAT: &str = "one container of `/bin/true`, create to exit and removal";

pub fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let rootfs = root_filesystem(bench)?;
    let ours = tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(coracle(bench, &rootfs))?;
    Ok(vec![ours, runc(bench, &rootfs)?])
}

/// A root filesystem with the static busybox as `/bin/true`.
fn root_filesystem(bench: &Bench) -> Result<PathBuf> {
    let rootfs = bench.dir.join("rootfs");
    for dir in ["bin", "proc", "sys", "dev", "etc", "tmp"] {
        std::fs::create_dir_all(rootfs.join(dir))?;
    }
    std::fs::copy(busybox()?, rootfs.join("bin/busybox"))?;
    for applet in ["true", "sh", "sleep"] {
        std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(applet))?;
    }
    Ok(rootfs)
}

/// The static busybox: what `make` fetched, or the machine's own.
pub fn busybox() -> Result<PathBuf> {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/busybox");
    let candidates = [fetched, "/bin/busybox".into(), "/usr/bin/busybox".into()];
    candidates.into_iter().find(|p| p.is_file()).context("no busybox: run `make tools` or install busybox-static")
}

async fn coracle(bench: &Bench, rootfs: &Path) -> Result<Figure> {
    let runtime = Runtime::new(bench.exe.clone(), bench.dir.join("run"))?;
    let mut events = runtime.subscribe();
    let mut figure = Figure::new(WHAT, "coracle");
    for run in 0..RUNS {
        let id = format!("bench-{}-{run}", std::process::id());
        let dir = bench.dir.join(&id);
        std::fs::create_dir_all(&dir)?;
        let started = Instant::now();
        runtime.create(&sandbox(&id, &dir)).await?;
        runtime.start(&id, &container(&dir, rootfs)?).await?;
        loop {
            let (whose, event) = events.recv().await?;
            match event {
                Event::Exited(record) if whose == id => {
                    anyhow::ensure!(record.code == 0, "/bin/true ended with {}", record.code);
                    break;
                }
                Event::SandboxDied if whose == id => anyhow::bail!("the shim of {whose} went away"),
                _ => {}
            }
        }
        runtime.destroy(&id).await?;
        figure.push(started.elapsed());
    }
    coracle::runtime::cgroup::remove("coracle/bench-runtime")?;
    Ok(figure)
}

fn sandbox(id: &str, dir: &Path) -> SandboxSpec {
    SandboxSpec {
        id: id.into(),
        name: id.into(),
        namespace: "bench".into(),
        dir: dir.into(),
        hostname: "bench".into(),
        network: Network::New,
        cgroup: format!("coracle/bench-runtime/{id}"),
        shim_cgroup: "coracle/bench-runtime/shims".into(),
        resources: None,
        sysctls: Default::default(),
        tmpfs: Vec::new(),
        labels: Default::default(),
    }
}

fn container(dir: &Path, rootfs: &Path) -> Result<ContainerSpec> {
    let mut spec = Spec::default();
    let process = ProcessBuilder::default().args(vec!["/bin/true".to_string()]).cwd("/").terminal(false).build()?;
    spec.set_process(Some(process));
    spec.set_root(Some(RootBuilder::default().path(rootfs).readonly(false).build()?));
    Ok(ContainerSpec {
        name: "main".into(),
        attempt: 0,
        dir: dir.join("bundle"),
        lower: vec![rootfs.into()],
        spec,
        log: dir.join("main.log"),
        stdin: false,
        tty: false,
    })
}

fn runc(bench: &Bench, rootfs: &Path) -> Result<Figure> {
    if !installed("runc") {
        return Ok(Figure::missing(WHAT, "runc run", "not installed (apt-get install runc)"));
    }
    let bundle = bench.dir.join("runc");
    std::fs::create_dir_all(&bundle)?;
    peer(Command::new("runc").arg("spec").current_dir(&bundle))?;
    let config = bundle.join("config.json");
    let mut spec: serde_json::Value = serde_json::from_slice(&std::fs::read(&config)?)?;
    spec["process"]["terminal"] = false.into();
    spec["process"]["args"] = serde_json::json!(["/bin/true"]);
    spec["root"]["path"] = rootfs.to_string_lossy().as_ref().into();
    std::fs::write(&config, serde_json::to_vec(&spec)?)?;
    let mut figure = Figure::new(WHAT, "runc run");
    for run in 0..RUNS {
        let started = Instant::now();
        peer(Command::new("runc").arg("run").arg(format!("coracle-bench-{run}")).current_dir(&bundle))?;
        figure.push(started.elapsed());
    }
    Ok(figure)
}

//! A container's bundle on disk, and what its shim is sent to start it.
use std::collections::HashMap;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use oci_spec::runtime::{LinuxDeviceCgroupBuilder, LinuxResources, LinuxSeccomp, Spec};

use super::cgroup;
use super::plan::{plan, plan_exec};
use super::seccomp;
use super::types::{ContainerSpec, Error, ExecSpec, Result, SandboxSpec};
use super::wire::{ExecStart, Start};
use crate::sys;

/// Compiled programs as memory files, by the profile's text: compiled once, handed to every process by descriptor.
#[derive(Default)]
pub(super) struct Programs(Mutex<HashMap<String, Arc<File>>>);

/// A request and the memory files that go with it.
pub(super) struct Prepared<T> {
    pub request: T,
    pub plan: File,
    pub seccomp: Option<Arc<File>>,
}

impl Programs {
    fn get(&self, spec: &Spec) -> Result<Option<Arc<File>>> {
        let Some(profile) = spec.linux().as_ref().and_then(|l| l.seccomp().as_ref()) else {
            return Ok(None);
        };
        let key = json(profile)?;
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(program) = known.get(&key) {
            return Ok(Some(program.clone()));
        }
        let program = Arc::new(compiled(profile)?);
        known.insert(key, program.clone());
        Ok(Some(program))
    }
}

fn compiled(profile: &LinuxSeccomp) -> Result<File> {
    sys::memfd(c"seccomp", &seccomp::compile(profile)?).map_err(Error::io("seccomp program"))
}

fn json<T: serde::Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::Invalid(e.to_string()))
}

/// The container's cgroup below its pod's.
pub(super) fn cgroup_of(sandbox: &SandboxSpec, container: &str) -> String {
    format!("{}/{container}", sandbox.cgroup)
}

/// Write the bundle, make the cgroup, plan the steps.
pub(super) fn prepare(
    sandbox: &SandboxSpec,
    container: &ContainerSpec,
    programs: &Programs,
) -> Result<Prepared<Start>> {
    let cgroup = cgroup_of(sandbox, &container.name);
    let layout = cgroup::layout()?;
    let mut container = container.clone();
    complete(&mut container, &cgroup);
    // What is below it may be for anybody in the container; nobody else gets there.
    make_dir(&container.dir, 0o700)?;
    for dir in ["rootfs", "upper", "work"] {
        make_dir(&container.dir.join(dir), 0o755)?;
    }
    if let Some(dir) = container.log.parent() {
        make_dir(dir, 0o755)?;
    }
    let config = container.dir.join("config.json");
    private_file(&config, &json(&container.spec)?).map_err(Error::io(format!("writing {}", config.display())))?;
    // What an earlier attempt left behind: its counts are not ours.
    cgroup::remove(&cgroup)?;
    cgroup::ensure_container(&cgroup, resources(&container.spec))?;
    let planned = plan(&container, &cgroup, layout)?;
    let seccomp = programs.get(&container.spec)?;
    let has_pids = planned.clone_flags & libc::CLONE_NEWPID != 0;
    let procs = layout.dir("pids", &cgroup).map(|d| d.join("cgroup.procs"));
    Ok(Prepared {
        plan: memory_file(&planned.steps)?,
        request: Start {
            clone_flags: planned.clone_flags,
            cgroup: layout.clone_into(&cgroup),
            oom: layout.oom_file(&cgroup),
            procs: procs.filter(|_| !has_pids),
            bundle: container.dir,
            log: container.log,
            name: container.name,
            attempt: container.attempt,
            tty: container.tty,
            stdin: container.stdin,
            seccomp: seccomp.is_some(),
        },
        seccomp,
    })
}

/// Plan a program for a running container, whose own spec is in its bundle.
pub(super) fn prepare_exec(
    sandbox: &SandboxSpec,
    bundle: &Path,
    exec: &ExecSpec,
    programs: &Programs,
) -> Result<Prepared<ExecStart>> {
    let config = bundle.join("config.json");
    let spec = Spec::load(&config).map_err(|e| Error::Invalid(format!("{}: {e}", config.display())))?;
    let mut process = spec.process().clone().unwrap_or_default();
    let mut env = process.env().clone().unwrap_or_default();
    env.extend(exec.env_extra.iter().cloned());
    if exec.tty && !env.iter().any(|entry| entry.starts_with("TERM=")) {
        env.push("TERM=xterm".into());
    }
    process.set_env(Some(env));
    process.set_args(Some(exec.args.clone()));
    let cgroup = cgroup_of(sandbox, &exec.container);
    let layout = cgroup::layout()?;
    let seccomp = programs.get(&spec)?;
    Ok(Prepared {
        plan: memory_file(&plan_exec(&spec, &process, exec.tty, &cgroup, layout)?)?,
        request: ExecStart {
            container: exec.container.clone(),
            tty: exec.tty,
            seccomp: seccomp.is_some(),
            cgroup: layout.clone_into(&cgroup),
        },
        seccomp,
    })
}

fn memory_file<T: serde::Serialize>(steps: &T) -> Result<File> {
    sys::memfd(c"plan", json(steps)?.as_bytes()).map_err(Error::io("plan"))
}

fn resources(spec: &Spec) -> Option<&LinuxResources> {
    spec.linux().as_ref()?.resources().as_ref()
}

/// Fill in what only the runtime knows. Devices are denied unless the spec speaks of them; libcgroups adds the usual ones.
fn complete(container: &mut ContainerSpec, cgroup: &str) {
    let mut linux = container.spec.linux().clone().unwrap_or_default();
    linux.set_cgroups_path(Some(format!("/{cgroup}").into()));
    let mut resources = linux.resources().clone().unwrap_or_default();
    if resources.devices().is_none() {
        let deny = LinuxDeviceCgroupBuilder::default()
            .allow(false)
            .access("rwm")
            .build()
            .expect("every field of a device rule has a default");
        resources.set_devices(Some(vec![deny]));
    }
    linux.set_resources(Some(resources));
    container.spec.set_linux(Some(linux));
    if !container.lower.is_empty() {
        let mut root = container.spec.root().clone().unwrap_or_default();
        root.set_path("rootfs".into());
        container.spec.set_root(Some(root));
    }
}

pub(super) fn make_dir(path: &Path, mode: u32) -> Result<()> {
    DirBuilder::new().recursive(true).mode(mode).create(path).map_err(Error::io(format!("making {}", path.display())))
}

/// The environment may hold secrets.
fn private_file(path: &Path, text: &str) -> io::Result<()> {
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    io::Write::write_all(&mut file, text.as_bytes())
}

/// Remove a directory with all in it; gone already is fine.
pub(super) fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(Error::io(format!("removing {}", path.display()))),
    }
}

/// Remove a file; gone already is fine.
pub(super) fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(Error::io(format!("removing {}", path.display()))),
    }
}

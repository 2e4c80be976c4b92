//! The daemon's side: asynchronous calls to the shims.
use std::collections::HashMap;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use oci_spec::runtime::LinuxResources;
use tokio::process::Command;
use tokio::sync::{Mutex, broadcast};

use super::bundle::{self, Programs, make_dir, remove_file, remove_tree};
use super::cgroup;
use super::conn::Conn;
use super::records::{dead, lay_out, left_behind, read_record};
use super::session::{Attached, Exec, ExecOutput, on_pipes, on_terminal};
use super::shim::record_path;
use super::types::*;
use super::wire::{Answer, Op};
use crate::sys;

/// Events a slow receiver may be behind before it must `list` instead.
const EVENTS: usize = 1024;
/// A shim that does not end in this time after it was told to is killed: a container may sit in a dead network mount.
const QUIT_PATIENCE: Duration = Duration::from_secs(10);
/// A unix socket's address has room for this many bytes.
const MAX_SOCKET_PATH: usize = 107;

/// Makes sandboxes and talks to their shims, those of an earlier process included. Cheap to clone.
#[derive(Clone)]
pub struct Runtime {
    inner: Arc<Inner>,
}

struct Inner {
    exe: PathBuf,
    /// `<run dir>/pods`: a record and a socket for each sandbox.
    pods: PathBuf,
    conns: Mutex<HashMap<String, Arc<Conn>>>,
    events: broadcast::Sender<(String, Event)>,
    programs: Arc<Programs>,
}

/// Run what blocks on a thread for that.
async fn blocking<T: Send + 'static>(f: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(f).await.unwrap_or_else(|e| Err(Error::Shim(e.to_string())))
}

impl Runtime {
    /// `exe`: our own binary (re-executed as `exe shim …`). `run_dir`: `/run/coracle/<cluster>`; sockets and
    /// records live in `run_dir/pods`.
    pub fn new(exe: PathBuf, run_dir: PathBuf) -> Result<Runtime> {
        let pods = run_dir.join("pods");
        make_dir(&pods, 0o700)?;
        cgroup::layout()?;
        Ok(Runtime {
            inner: Arc::new(Inner {
                exe,
                pods,
                conns: Mutex::default(),
                events: broadcast::Sender::new(EVENTS),
                programs: Arc::default(),
            }),
        })
    }

    /// Make a cgroup above pods' (path relative to every controller's mount), and limit it.
    pub async fn limit(path: String, resources: LinuxResources) -> Result<()> {
        blocking(move || cgroup::ensure(&path, Some(&resources))).await
    }

    /// Kill what lives in such a cgroup and below, and remove it. Gone already is fine.
    pub async fn end(path: String) -> Result<()> {
        blocking(move || cgroup::remove(&path)).await
    }

    fn record(&self, id: &str) -> PathBuf {
        self.inner.pods.join(format!("{id}.json"))
    }

    fn socket(&self, id: &str) -> PathBuf {
        self.inner.pods.join(format!("{id}.sock"))
    }

    /// Make a sandbox: cgroup, shim, namespaces. One that exists already (same id, alive) is returned as it is; one whose
    /// shim is dead is `Gone` and must be destroyed first.
    pub async fn create(&self, spec: &SandboxSpec) -> Result<Sandbox> {
        match self.conn(&spec.id).await {
            Ok(conn) => return self.sandbox(&conn).await,
            Err(Error::NoSandbox(_)) => {}
            Err(error) => return Err(error),
        }
        let made = self.make(spec).await;
        if made.is_err()
            && let Err(error) = self.destroy(&spec.id).await
        {
            tracing::warn!(sandbox = %spec.id, %error, "removing a half-made sandbox");
        }
        made
    }

    async fn make(&self, spec: &SandboxSpec) -> Result<Sandbox> {
        let (record, socket) = (self.record(&spec.id), self.socket(&spec.id));
        if spec.id.contains('/') || socket.as_os_str().len() > MAX_SOCKET_PATH {
            let path = socket.display();
            return Err(Error::Invalid(format!("{path} is not a possible socket")));
        }
        let (listener, stderr) = {
            let (spec, record, socket) = (spec.clone(), record.clone(), socket.clone());
            blocking(move || lay_out(&spec, &record, &socket)).await?
        };
        // Not waited for here: the runtime reaps it whenever it ends, and it may well outlive us. With nothing asked for
        // that needs a fork (a working directory, say), our memory is not copied for it.
        Command::new(&self.inner.exe)
            .arg("shim")
            .arg(&record)
            .env_clear()
            .stdin(Stdio::from(listener))
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .map_err(Error::io(format!("starting {} shim", self.inner.exe.display())))?;
        let conn = self.conn(&spec.id).await?;
        self.sandbox(&conn).await
    }

    async fn sandbox(&self, conn: &Conn) -> Result<Sandbox> {
        let (pid, _) = hello(conn).await?;
        Ok(Sandbox {
            id: conn.spec.id.clone(),
            pid,
            netns: format!("/proc/{pid}/ns/net").into(),
            spec: conn.spec.clone(),
        })
    }

    /// The connection to a sandbox, made when there is none. `NoSandbox` or `Gone` if there can be none.
    async fn conn(&self, id: &str) -> Result<Arc<Conn>> {
        let mut conns = self.inner.conns.lock().await;
        if let Some(conn) = conns.get(id).filter(|c| c.is_open()) {
            return Ok(conn.clone());
        }
        let spec = read_record(&self.record(id))?.ok_or_else(|| Error::NoSandbox(id.into()))?.spec;
        match Conn::open(&self.socket(id), spec, self.inner.events.clone()) {
            Ok(conn) => {
                conns.insert(id.to_owned(), conn.clone());
                Ok(conn)
            }
            Err(e) if dead(&e) => {
                conns.remove(id);
                Err(Error::Gone(id.into()))
            }
            Err(e) => Err(Error::io(format!("connecting to the shim of {id}"))(e)),
        }
    }

    /// Every sandbox that was made and not destroyed, by whichever process; adopts them for `subscribe`. Sorted by id.
    pub async fn list(&self) -> Result<Vec<SandboxState>> {
        let reading = || Error::io(format!("reading {}", self.inner.pods.display()));
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.inner.pods).map_err(reading())? {
            let name = entry.map_err(reading())?.file_name();
            if let Some(id) = name.to_str().and_then(|n| n.strip_suffix(".json")) {
                ids.push(id.to_owned());
            }
        }
        ids.sort();
        let mut states = Vec::new();
        for id in ids {
            match self.state(&id).await {
                Ok(state) => states.push(state),
                Err(Error::NoSandbox(_)) => {} // destroyed meanwhile
                Err(error) => return Err(error),
            }
        }
        Ok(states)
    }

    /// One sandbox. After its shim's death: what is on disk, with everything that ran counted as killed.
    pub async fn state(&self, id: &str) -> Result<SandboxState> {
        let asked = match self.conn(id).await {
            Ok(conn) => hello(&conn).await,
            Err(error) => Err(error),
        };
        let spec = read_record(&self.record(id))?.ok_or_else(|| Error::NoSandbox(id.into()))?.spec;
        let (pid, mut containers) = match asked {
            Ok((pid, containers)) => (Some(pid), containers),
            Err(Error::Gone(_)) => (None, left_behind(&spec.dir.join("exits"))?),
            Err(error) => return Err(error),
        };
        containers.sort_by(|a, b| (&a.name, a.attempt).cmp(&(&b.name, b.attempt)));
        Ok(SandboxState { spec, pid, containers })
    }

    /// Start a container; returns its pid after its program has been executed.
    pub async fn start(&self, id: &str, spec: &ContainerSpec) -> Result<i32> {
        let conn = self.conn(id).await?;
        let (sandbox, container) = (conn.spec.clone(), spec.clone());
        let programs = self.inner.programs.clone();
        let prepared = blocking(move || bundle::prepare(&sandbox, &container, &programs)).await?;
        let mut fds = vec![prepared.plan.as_fd()];
        fds.extend(prepared.seccomp.as_deref().map(File::as_fd));
        let (answer, _) = conn.ask(Op::Start(prepared.request), &fds).await?;
        let Answer::Started { pid, notes } = answer else {
            return Err(unexpected());
        };
        for note in notes {
            tracing::debug!(sandbox = %id, container = %spec.name, "{note}");
        }
        Ok(pid)
    }

    /// Signal a container's init. One that has ended already is fine.
    pub async fn kill(&self, id: &str, container: &str, signal: i32) -> Result<()> {
        let name = container.to_owned();
        match self.conn(id).await {
            Ok(conn) => conn.ask(Op::Kill { name, signal }, &[]).await.map(drop),
            Err(Error::Gone(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Forget an ended attempt: its record, bundle and cgroup. Kills it first if it still runs.
    pub async fn remove(&self, id: &str, container: &str, attempt: u32) -> Result<()> {
        let mut events = self.subscribe();
        let state = self.state(id).await?;
        let this = |c: &&ContainerState| c.name == container && c.attempt == attempt;
        let Some(found) = state.containers.iter().find(this) else {
            return Ok(());
        };
        if found.running() {
            self.kill(id, container, libc::SIGKILL).await?;
            self.until_exited(&mut events, id, container, attempt).await?;
        }
        if state.pid.is_some() {
            let name = container.to_owned();
            self.conn(id).await?.ask(Op::Forget { name, attempt }, &[]).await?;
        }
        let record = record_path(&state.spec.dir.join("exits"), container, attempt);
        let others = state.containers.iter().any(|c| c.name == container && c.attempt > attempt);
        let cgroup = (!others).then(|| bundle::cgroup_of(&state.spec, container));
        let dir = found.bundle.clone();
        blocking(move || {
            remove_file(&record)?;
            remove_tree(&dir)?;
            cgroup.map_or(Ok(()), |path| cgroup::remove(&path))
        })
        .await
    }

    async fn until_exited(
        &self,
        events: &mut broadcast::Receiver<(String, Event)>,
        id: &str,
        container: &str,
        attempt: u32,
    ) -> Result<()> {
        loop {
            match events.recv().await {
                Ok((of, Event::Exited(exit))) if of == id && exit.name == container && exit.attempt == attempt => {
                    return Ok(());
                }
                Ok((of, Event::SandboxDied)) if of == id => return Ok(()),
                Ok(_) => {}
                Err(_) => {
                    // Behind by too much: look.
                    let state = self.state(id).await?;
                    let running = |c: &ContainerState| c.name == container && c.attempt == attempt && c.running();
                    if !state.containers.iter().any(running) {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Kill everything in a sandbox and remove what was made for it (the pod's volumes and logs stay). Goes on after
    /// failures, works on half-made and dead ones, and is fine with one that is not there.
    pub async fn destroy(&self, id: &str) -> Result<()> {
        let (record, socket) = (self.record(id), self.socket(id));
        let Some(found) = read_record(&record)? else {
            return Ok(());
        };
        // Before the shim forgets them.
        let containers = match self.state(id).await {
            Ok(state) => state.containers,
            Err(_) => left_behind(&found.spec.dir.join("exits")).unwrap_or_default(),
        };
        if let Ok(conn) = self.conn(id).await {
            let quit = tokio::time::timeout(QUIT_PATIENCE, conn.ask(Op::Quit, &[])).await;
            if !matches!(quit, Ok(Ok(_) | Err(Error::Gone(_)))) {
                tracing::warn!(sandbox = %id, "the shim does not end by itself, killing it");
                kill_shim(&conn)?;
            }
        }
        self.inner.conns.lock().await.remove(id);
        blocking(move || {
            let spec = &found.spec;
            let mut results = vec![cgroup::remove(&spec.cgroup), remove_file(&socket)];
            results.extend(containers.iter().map(|c| remove_tree(&c.bundle)));
            results.push(remove_tree(&spec.dir.join("exits")));
            results.push(remove_file(&spec.dir.join("shim.log")));
            let all: Result<()> = results.into_iter().collect();
            // The record goes last, and only after all else: it is what a second try starts from.
            all.and_then(|()| remove_file(&record))
        })
        .await
    }

    /// Run a program in a running container.
    pub async fn exec(&self, id: &str, spec: &ExecSpec) -> Result<Exec> {
        let conn = self.conn(id).await?;
        let (_, containers) = hello(&conn).await?;
        let running = |c: &&ContainerState| c.name == spec.container && c.running();
        let found = containers.iter().find(running);
        let dir = found.ok_or_else(|| Error::NoContainer(spec.container.clone()))?.bundle.clone();
        let (sandbox, exec, programs) = (conn.spec.clone(), spec.clone(), self.inner.programs.clone());
        let prepared = blocking(move || bundle::prepare_exec(&sandbox, &dir, &exec, &programs)).await?;
        let mut fds = vec![prepared.plan.as_fd()];
        fds.extend(prepared.seccomp.as_deref().map(File::as_fd));
        let op = Op::Exec(prepared.request);
        match spec.tty {
            true => on_terminal(conn.clone(), op, fds, spec.stdin).await,
            false => on_pipes(conn.clone(), op, fds, spec.stdin).await,
        }
    }

    /// The input of a running container, whose log has unfinished lines from now on. With `once` a standard input is
    /// handed out for good, and ends with what is returned; the next caller gets none.
    pub async fn attach(&self, id: &str, container: &str, once: bool) -> Result<Attached> {
        let conn = self.conn(id).await?;
        let (_, containers) = hello(&conn).await?;
        let running = |c: &&ContainerState| c.name == container && c.running();
        let found = containers.iter().find(running).ok_or_else(|| Error::NoContainer(container.into()))?;
        let (_, fds) = conn.ask(Op::Attach { name: container.into(), take: once }, &[]).await?;
        let input = fds.into_iter().next();
        Attached::new(found.attempt, input).map_err(Error::io("attaching"))
    }

    /// Run a program to its end; each stream is cut at `limit` bytes. Past `timeout` it is killed: `Error::Timeout`.
    pub async fn exec_sync(&self, id: &str, spec: &ExecSpec, timeout: Duration, limit: usize) -> Result<ExecOutput> {
        self.exec(id, spec).await?.collect(timeout, limit).await
    }

    /// Events of all sandboxes this process made or listed, as (sandbox id, event). A receiver that lags should `list`.
    pub fn subscribe(&self) -> broadcast::Receiver<(String, Event)> {
        self.inner.events.subscribe()
    }
}

fn unexpected() -> Error {
    Error::Shim("the shim gave an answer to another question".into())
}

async fn hello(conn: &Conn) -> Result<(i32, Vec<ContainerState>)> {
    match conn.ask(Op::Hello, &[]).await?.0 {
        Answer::State { pid, containers } => Ok((pid, containers)),
        _ => Err(unexpected()),
    }
}

fn kill_shim(conn: &Conn) -> Result<()> {
    let pid = conn.shim_pid().map_err(Error::io("the shim's process"))?;
    match sys::pidfd_open(pid).and_then(|p| sys::pidfd_signal(p.as_fd(), libc::SIGKILL)) {
        Err(e) if e.raw_os_error() != Some(libc::ESRCH) => Err(Error::io("killing the shim")(e)),
        _ => Ok(()),
    }
}

//! `coracle up`: brings a cluster up, in the foreground or detached.
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use ipnetwork::Ipv4Network;

use super::scope::duration;
use crate::api::quantity::Quantity;
use crate::daemon::{Event, Options, Paths, Resize};
use crate::lens::doctor::{self, Level, Wanted};

/// Two threads are enough for a machine the size of a laptop, and each costs memory.
const THREADS: usize = 2;

/// What the log has unless CORACLE_LOG says otherwise: libcgroups warns of every controller a host does not have.
const QUIET: &str = "info,kube=warn,hyper=warn,libcgroups=error";

/// Flags of `up`.
#[derive(Args)]
pub struct Up {
    /// Return when the cluster is ready; the daemon goes on in the background
    #[arg(short, long)]
    detach: bool,
    /// How many nodes there are at least [default: 3, or as many as there were]
    #[arg(long)]
    nodes: Option<u32>,
    /// Where to keep state [default: /var/lib/coracle/<name>]
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Port of the API on 127.0.0.1; 0 is any free one [default: 6443, or as it was]
    #[arg(long)]
    api_port: Option<u16>,
    /// Addresses of pods [default: 10.244.0.0/16]
    #[arg(long)]
    pod_cidr: Option<Ipv4Network>,
    /// Addresses of Services [default: 10.96.0.0/16]
    #[arg(long)]
    service_cidr: Option<Ipv4Network>,
    #[command(flatten)]
    size: NodeSize,
    /// How often a node says that it lives
    #[arg(long, default_value = "2s", value_parser = duration)]
    node_heartbeat: Duration,
    /// How long a node that says nothing counts as alive
    #[arg(long, default_value = "6s", value_parser = duration)]
    node_monitor_grace: Duration,
    /// Seconds pods stay on a node that is not ready or unreachable, unless they say otherwise
    #[arg(long, default_value_t = 5)]
    default_toleration_seconds: u64,
    /// NAME=true: MemoryQoS gives containers memory.min and memory.high (cgroup v2 only)
    #[arg(long, value_name = "NAME=true", value_parser = feature_gate)]
    feature_gates: Option<bool>,
    /// The detached daemon itself
    #[arg(long, hide = true)]
    leave_terminal: bool,
}

/// What a node offers.
#[derive(Args, Clone)]
pub struct NodeSize {
    /// Cores of a node, as in 2 or 500m [new nodes: 2]
    #[arg(long, value_parser = |text: &str| amount(text, Quantity::milli))]
    pub node_cpu: Option<u64>,
    /// Memory of a node [new nodes: 4Gi]
    #[arg(long, value_parser = |text: &str| amount(text, Quantity::value))]
    pub node_memory: Option<u64>,
    /// Bytes a second a node may read from and write to the disk its data lie on (io.max: cgroup v2 only)
    #[arg(long, value_parser = |text: &str| amount(text, Quantity::value))]
    pub node_disk_bandwidth: Option<u64>,
}

impl NodeSize {
    /// As the daemon takes it: what is not given stays as it is.
    pub fn size(&self) -> Resize {
        Resize { cpu_milli: self.node_cpu, memory: self.node_memory, disk_bandwidth: self.node_disk_bandwidth }
    }
}

/// `<name>=true`, as a kubelet takes them; the value is whether MemoryQoS is on.
fn feature_gate(text: &str) -> Result<bool, String> {
    match text.split_once('=') {
        Some(("MemoryQoS", value)) => value.parse().map_err(|_| format!("{value:?} is neither true nor false")),
        _ => Err("the gate that can be set is MemoryQoS=true (memory.min and memory.high, KEP-2570)".into()),
    }
}

fn amount(text: &str, unit: fn(Quantity) -> i64) -> Result<u64, String> {
    let amount = text.parse().ok().and_then(|quantity| u64::try_from(unit(quantity)).ok());
    amount.filter(|amount| *amount > 0).ok_or_else(|| format!("{text:?} is not an amount, as in 2, 500m or 4Gi"))
}

impl Up {
    /// Runs it.
    pub fn run(self, cluster: &str) -> Result<()> {
        if !nix::unistd::geteuid().is_root() {
            bail!("coracle up makes network namespaces, mounts and cgroups: run it as root (sudo coracle up)");
        }
        // What the caller has open (a lock, a pipe that somebody waits for) must not live on in the daemon and the shims.
        crate::sys::close_on_exec_from(3).context("letting go of inherited files")?;
        if !self.leave_terminal {
            self.refuse_what_cannot_work(cluster)?;
        }
        if self.detach { self.detached(cluster) } else { self.foreground(cluster) }
    }

    /// What the doctor would stop at, `up` does not begin. Without a flag the port may be a remembered one, which only
    /// the attempt can judge.
    fn refuse_what_cannot_work(&self, cluster: &str) -> Result<()> {
        let usual = Wanted::default();
        let wanted = Wanted {
            name: cluster.to_owned(),
            data_dir: Paths::new(cluster, self.data_dir.as_deref()).data,
            api_port: self.api_port.unwrap_or(0),
            pod_cidr: self.pod_cidr.unwrap_or(usual.pod_cidr),
            service_cidr: self.service_cidr.unwrap_or(usual.service_cidr),
        };
        let stops = doctor::plan(&wanted, &doctor::read(&wanted));
        let stops = stops.into_iter().filter(|f| f.level == Level::Refuse);
        let lines: Vec<String> = stops.map(|f| format!("{}\n  fix: {}", f.what, f.fix)).collect();
        anyhow::ensure!(lines.is_empty(), "{}", lines.join("\n"));
        Ok(())
    }

    fn foreground(self, cluster: &str) -> Result<()> {
        if self.leave_terminal {
            nix::unistd::setsid().context("leaving the terminal")?;
        }
        let filter = tracing_subscriber::EnvFilter::try_from_env("CORACLE_LOG").unwrap_or_else(|_| QUIET.into());
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(nix::unistd::isatty(2).unwrap_or(false))
            .init();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
        let name = cluster.to_owned();
        let result = runtime.block_on(crate::daemon::run(self.options(cluster), move |event| say(&name, &event)));
        runtime.shutdown_background();
        result
    }

    fn options(self, cluster: &str) -> Options {
        Options {
            cluster: cluster.to_owned(),
            data_dir: self.data_dir,
            nodes: self.nodes,
            api_port: self.api_port,
            pod_cidr: self.pod_cidr,
            service_cidr: self.service_cidr,
            size: self.size.size(),
            memory_qos: self.feature_gates == Some(true),
            heartbeat: self.node_heartbeat,
            node_grace: self.node_monitor_grace,
            eviction_seconds: self.default_toleration_seconds,
        }
    }

    /// Starts ourselves again without a terminal, and passes on what it says until it is ready.
    fn detached(self, cluster: &str) -> Result<()> {
        let paths = Paths::new(cluster, self.data_dir.as_deref());
        self.options(cluster).check(&paths.data)?;
        crate::daemon::own_directory(&paths.data)?;
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(paths.log())
            .with_context(|| format!("opening {}", paths.log().display()))?;
        let same_arguments = std::env::args_os().skip(1).filter(|word| word != "--detach" && word != "-d");
        let mut daemon = Command::new(std::env::current_exe()?)
            .args(same_arguments)
            .arg("--leave-terminal")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("starting the daemon")?;
        let output = daemon.stdout.take().context("the daemon has no output")?;
        let mut ready = false;
        for line in BufReader::new(output).lines() {
            let line = line?;
            ready |= line.contains(READY);
            println!("{line}");
            if ready {
                return Ok(());
            }
        }
        let status = daemon.wait()?;
        let log = std::fs::read_to_string(paths.log()).unwrap_or_default();
        let reason = log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("nothing in the log");
        bail!("the daemon ended ({status}): {reason}\nsee {}", paths.log().display())
    }
}

/// The last line of a start.
const READY: &str = "ready: ";

/// Prints a step. Nobody may be reading any more, which must not end the daemon.
fn say(cluster: &str, event: &Event) {
    let line = match event {
        Event::Done(what, time) => format!("{:>8.3}s  {what}", time.as_secs_f64()),
        Event::Ready(kubeconfig, time) => {
            let name = if cluster == "default" { String::new() } else { format!(" --name {cluster}") };
            format!(
                "{:>8.3}s  {READY}export KUBECONFIG={}   (or: coracle get pods -A{name})",
                time.as_secs_f64(),
                kubeconfig.display()
            )
        }
    };
    if let Err(error) = writeln!(std::io::stdout(), "{line}") {
        tracing::debug!("nobody reads the progress: {error}");
    }
}

//! A cluster of a test's own, and the tools to talk to it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long anything may take on the machine the deadlines are written for. Only a failing test waits this long.
const PATIENCE: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(300);

/// How much slower this machine is than the one the limits are written for, as `CORACLE_TEST_SLOWNESS` says; at least 1.
pub fn slowness() -> f64 {
    static SLOWNESS: OnceLock<f64> = OnceLock::new();
    *SLOWNESS.get_or_init(|| {
        std::env::var("CORACLE_TEST_SLOWNESS").ok().and_then(|s| s.parse().ok()).filter(|s| *s >= 1.0).unwrap_or(1.0)
    })
}

/// [`PATIENCE`] on this machine; what has not come by [`LONGEST`] will not come.
pub fn patience() -> Duration {
    PATIENCE.mul_f64(slowness()).min(LONGEST)
}

/// The deadline in the form kubectl takes.
pub fn timeout() -> String {
    format!("--timeout={}s", patience().as_secs())
}

/// The built binary.
pub fn coracle() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_coracle"))
}

/// A program of `target/tools` (`make tools`), else of PATH.
pub fn tool(name: &str) -> PathBuf {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools").join(name);
    if fetched.is_file() { fetched } else { PathBuf::from(name) }
}

/// Fails loudly when a test could not possibly run here.
pub fn require() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "the whole-system tests start clusters: run them as root (sudo make test)"
    );
    for name in ["kubectl", "helm"] {
        let found = Command::new(tool(name))
            .arg("version")
            .arg("--client")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        assert!(found.is_ok(), "{name} is neither in target/tools nor on PATH: run `make tools`");
    }
}

/// What a program said.
#[derive(Debug)]
pub struct Said {
    pub what: String,
    pub ok: bool,
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Said {
    fn of(what: String, output: Output) -> Said {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        Said { what, ok: output.status.success(), code: output.status.code(), out, err }
    }

    /// The output of a program that must succeed.
    #[track_caller]
    pub fn good(self) -> String {
        assert!(self.ok, "{} failed ({:?})\n{}{}", self.what, self.code, self.out, self.err);
        self.out
    }

    /// The complaint of a program that must fail.
    #[track_caller]
    pub fn bad(self) -> String {
        assert!(!self.ok, "{} should have failed, but said\n{}{}", self.what, self.out, self.err);
        self.err
    }
}

/// Runs a command to its end, `input` on its standard input.
pub fn run(command: &mut Command, input: &str) -> Said {
    use std::io::Write;
    let what = format!("{command:?}");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{what}: {e}"));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_string();
    // A program may end without reading; that is its business.
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap_or_else(|e| panic!("{what}: {e}"));
    drop(writer.join());
    Said::of(what, output)
}

/// Asks again until the answer is `Some`. Every question is a whole program run or request, so this is no busy loop.
#[track_caller]
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what}: not within {:?}", patience());
    }
}

/// A running cluster; `down --purge` when dropped.
pub struct Cluster {
    pub name: String,
    pub data: PathBuf,
}

impl Cluster {
    /// Starts one; the name is made unique to this process.
    #[track_caller]
    pub fn up(name: &str, flags: &[&str]) -> Cluster {
        let name = format!("t{}-{name}", std::process::id());
        let data = std::env::temp_dir().join(format!("coracle-{name}"));
        let cluster = Cluster { name, data };
        cluster.start(flags);
        cluster
    }

    /// `coracle up --detach`, again after a stop.
    #[track_caller]
    pub fn start(&self, flags: &[&str]) {
        let port: &[&str] = if flags.contains(&"--api-port") { &[] } else { &["--api-port", "0"] };
        let mut command = self.command(&["up", "--detach"]);
        command.args(port).arg("--data-dir").arg(&self.data).args(flags);
        run(&mut command, "").good();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(coracle());
        command.arg("--name").arg(&self.name).args(args);
        command
    }

    /// The coracle command line on this cluster.
    pub fn coracle(&self, args: &[&str]) -> Said {
        run(&mut self.command(args), "")
    }

    /// Removes everything, twice removal being fine.
    pub fn down(&self) {
        let mut command = self.command(&["down", "--purge", "--data-dir"]);
        command.arg(&self.data);
        run(&mut command, "").good();
        assert!(!self.data.exists(), "{} is left", self.data.display());
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.data.join("kubeconfig")
    }

    /// A stock program with this cluster's kubeconfig, in a namespace.
    pub fn program(&self, name: &str, namespace: &str) -> Command {
        let mut command = Command::new(tool(name));
        command.env("KUBECONFIG", self.kubeconfig()).env("HOME", &self.data).arg("--namespace").arg(namespace);
        command
    }

    /// kubectl in the default namespace.
    pub fn kubectl(&self, args: &[&str]) -> Said {
        self.existing("default").kubectl(args)
    }

    /// A new namespace for one test.
    #[track_caller]
    pub fn space(&self, name: &str) -> Space<'_> {
        self.kubectl(&["create", "namespace", name]).good();
        // As any client that creates pods at once after the namespace does.
        self.existing(name).kubectl(&["wait", "--for=create", "serviceaccount/default", &timeout()]).good();
        self.existing(name)
    }

    /// A namespace that is there.
    pub fn existing(&self, name: &str) -> Space<'_> {
        Space { cluster: self, name: name.into() }
    }

    /// The daemon's process id.
    pub fn pid(&self) -> i32 {
        let path = Path::new("/run/coracle").join(&self.name).join("daemon.pid");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        text.trim().parse().unwrap()
    }

    /// `kill -9`, and wait until it is gone.
    pub fn kill_daemon(&self) {
        let pid = self.pid();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
        until("the daemon to die", || {
            let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // Gone, or a zombie that nobody has reaped yet.
            (state.is_empty() || state.rsplit(')').next().is_some_and(|s| s.starts_with(" Z"))).then_some(())
        });
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let mut command = self.command(&["down", "--purge", "--data-dir"]);
        command.arg(&self.data);
        let said = run(&mut command, "");
        if !said.ok {
            eprintln!("{} failed: {}", said.what, said.err);
        }
    }
}

/// One namespace of a cluster.
pub struct Space<'a> {
    pub cluster: &'a Cluster,
    pub name: String,
}

impl Space<'_> {
    pub fn kubectl(&self, args: &[&str]) -> Said {
        self.kubectl_with(args, "")
    }

    /// kubectl with something on its standard input.
    pub fn kubectl_with(&self, args: &[&str], input: &str) -> Said {
        run(self.cluster.program("kubectl", &self.name).args(args), input)
    }

    #[track_caller]
    pub fn apply(&self, manifest: &str) -> String {
        self.kubectl_with(&["apply", "-f", "-"], manifest).good()
    }

    /// Applies a pod of the busybox image and returns when it is Ready. `spec` is added to the container (JSON fields).
    #[track_caller]
    pub fn pod(&self, name: &str, container: serde_json::Value) {
        self.apply(&pod(name, container, serde_json::json!({})).to_string());
        self.ready(name);
    }

    #[track_caller]
    pub fn ready(&self, pod: &str) {
        self.kubectl(&["wait", "--for=condition=Ready", &format!("pod/{pod}"), &timeout()]).good();
    }

    /// A value of an object.
    #[track_caller]
    pub fn value(&self, object: &str, path: &str) -> String {
        self.kubectl(&["get", object, "-o", &format!("jsonpath={path}")]).good()
    }

    /// Waits until a value is as wanted.
    #[track_caller]
    pub fn wait_value(&self, object: &str, path: &str, want: &str) {
        let condition = format!("--for=jsonpath={path}={want}");
        self.kubectl(&["wait", &condition, object, &timeout()]).good();
    }

    /// Runs a shell line in a pod's first container.
    pub fn sh(&self, pod: &str, line: &str) -> Said {
        self.kubectl(&["exec", pod, "--", "sh", "-c", line])
    }
}

/// A pod of the busybox image that waits, unless `container` says otherwise; `spec` is merged into the pod's spec.
pub fn pod(name: &str, container: serde_json::Value, spec: serde_json::Value) -> serde_json::Value {
    let mut main = serde_json::json!({
        "name": "main", "image": "busybox:1", "imagePullPolicy": "IfNotPresent", "command": ["coracle", "guest", "sleep"],
    });
    json_patch::merge(&mut main, &container);
    let mut pod = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"run": name}},
        "spec": {"terminationGracePeriodSeconds": 2, "containers": [main]},
    });
    json_patch::merge(&mut pod, &serde_json::json!({"spec": spec}));
    pod
}

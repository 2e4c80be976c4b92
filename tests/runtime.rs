//! The runtime through the built binary, as root: real namespaces, cgroups and shims, all with names of their own.
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use coracle::runtime::{
    ContainerSpec, ContainerState, Error, Event, ExecSpec, ExitRecord, Network, Runtime, SandboxSpec, Tmpfs, cgroup,
    seccomp,
};
use oci_spec::runtime::{Capability, Spec};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const BINARY: &str = env!("CARGO_BIN_EXE_coracle");
/// Enough for machines that are emulated.
const PATIENCE: Duration = Duration::from_secs(120);

/// A directory, a cgroup and a runtime of their own; removed at the end, and checked to be removable.
struct Bed {
    dir: tempfile::TempDir,
    cgroup: String,
    runtime: Runtime,
}

impl Bed {
    fn new() -> Bed {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = tempfile::Builder::new().prefix("crt").tempdir().unwrap();
        let cgroup = format!("coracle/test-{}-{n}", std::process::id());
        let runtime = Runtime::new(BINARY.into(), dir.path().join("run")).unwrap();
        image(&dir.path().join("layer"));
        Bed { dir, cgroup, runtime }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn sandbox(&self, id: &str) -> SandboxSpec {
        SandboxSpec {
            id: id.into(),
            name: id.into(),
            namespace: "default".into(),
            dir: self.path(id),
            hostname: format!("host-{id}"),
            network: Network::New,
            cgroup: format!("{}/pod{id}", self.cgroup),
            shim_cgroup: format!("{}/shims", self.cgroup),
            resources: None,
            sysctls: [("net.ipv4.ip_unprivileged_port_start".into(), "0".into())].into(),
            tmpfs: vec![Tmpfs { path: self.path(id).join("shm"), size: Some(1 << 20), mode: 0o1777 }],
            labels: Default::default(),
        }
    }

    fn container(&self, id: &str, name: &str, attempt: u32, script: &str) -> ContainerSpec {
        let dir = self.path(id).join(format!("containers/{name}/{attempt}"));
        let log = self.path(id).join(format!("{name}.{attempt}.log"));
        let spec = spec(&["/bin/sh", "-c", script], &self.path(id).join("shm"));
        let lower = vec![self.path("layer")];
        ContainerSpec { name: name.into(), attempt, dir, lower, spec, log, stdin: false, tty: false }
    }

    /// Run a script in a container of a new sandbox to its end; what it printed, and how it ended.
    async fn run(&self, id: &str, change: impl FnOnce(&mut ContainerSpec), script: &str) -> (String, ExitRecord) {
        self.runtime.create(&self.sandbox(id)).await.unwrap();
        let mut events = self.runtime.subscribe();
        let mut container = self.container(id, "main", 0, script);
        change(&mut container);
        self.runtime.start(id, &container).await.unwrap();
        let exit = exited(&mut events, "main", 0).await;
        let text = said(&container.log);
        self.runtime.destroy(id).await.unwrap();
        (text, exit)
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let removed = cgroup::remove(&self.cgroup).and_then(|()| cgroup::remove_empty("coracle"));
        if !std::thread::panicking() {
            removed.unwrap();
        }
    }
}

/// A root file system: busybox under the names the scripts use.
fn image(dir: &Path) {
    fs::create_dir_all(dir.join("bin")).unwrap();
    fs::create_dir_all(dir.join("etc")).unwrap();
    fs::write(dir.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
    fs::write(dir.join("etc/plain"), "no program\n").unwrap();
    // `make test` has one on PATH; a user's machine may have Debian's.
    let dirs = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&dirs).chain(["/bin", "/usr/bin"].map(PathBuf::from));
    let busybox = dirs.map(|dir| dir.join("busybox")).find(|path| path.exists());
    fs::copy(busybox.expect("busybox-static is on PATH"), dir.join("bin/busybox")).unwrap();
    for name in [
        "sh", "cat", "sleep", "id", "ls", "mount", "hostname", "true", "stty", "tty", "touch", "grep", "ip", "kill",
        "head", "dd", "tr", "yes", "ulimit", "umount", "mkdir", "wc",
    ] {
        symlink("busybox", dir.join("bin").join(name)).unwrap();
    }
}

fn spec(args: &[&str], shm: &Path) -> Spec {
    let caps = ["CAP_CHOWN", "CAP_SETUID", "CAP_SETGID", "CAP_NET_BIND_SERVICE", "CAP_KILL"];
    let have: Vec<Capability> = vec![Capability::Chown, Capability::Setuid];
    serde_json::from_value(json!({
        "ociVersion": "1.2.0",
        "root": { "path": "rootfs" },
        "process": {
            "terminal": false, "cwd": "/", "user": { "uid": 0, "gid": 0 }, "args": args,
            "env": ["PATH=/bin", "HOME=/root"],
            "capabilities": { "bounding": caps, "effective": caps, "permitted": caps },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": 512, "hard": 1024 }],
            "oomScoreAdj": 500, "noNewPrivileges": false,
        },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
            { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"] },
            { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", "ro"] },
            { "destination": "/dev/shm", "type": "bind", "source": shm, "options": ["rbind", "rw"] },
        ],
        "linux": {
            "namespaces": [{ "type": "pid" }, { "type": "mount" }, { "type": "cgroup" }, { "type": "ipc" }, { "type": "uts" }, { "type": "network" }],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/acpi", "/sys/firmware", "/proc/timer_list"],
            "readonlyPaths": ["/proc/bus", "/proc/sys", "/proc/sysrq-trigger"],
            "seccomp": seccomp::default_profile(&have),
        },
    }))
    .unwrap()
}

/// Change a container's specification as JSON.
fn change(container: &mut ContainerSpec, how: impl FnOnce(&mut serde_json::Value)) {
    let mut value = serde_json::to_value(&container.spec).unwrap();
    how(&mut value);
    container.spec = serde_json::from_value(value).unwrap();
}

/// Text of a CRI log without its headers.
fn said(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.lines().map(|l| l.splitn(4, ' ').nth(3).unwrap_or_default().to_owned() + "\n").collect()
}

async fn exited(
    events: &mut tokio::sync::broadcast::Receiver<(String, Event)>,
    name: &str,
    attempt: u32,
) -> ExitRecord {
    let wait = async {
        loop {
            if let (_, Event::Exited(exit)) = events.recv().await.unwrap()
                && (exit.name.as_str(), exit.attempt) == (name, attempt)
            {
                return exit;
            }
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("it ends in time")
}

fn exec(args: &[&str]) -> ExecSpec {
    ExecSpec { container: "main".into(), args: args.iter().map(|a| a.to_string()).collect(), ..ExecSpec::default() }
}

fn alive(pid: i32) -> bool {
    // A zombie is not alive.
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|s| !s.rsplit(')').next().unwrap_or_default().starts_with(" Z"))
}

async fn until(what: &str, check: impl Fn() -> bool) {
    let began = Instant::now();
    while !check() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_container_sees_itself_as_asked() {
    let bed = Bed::new();
    let (text, exit) = bed
        .run("a", |_| (), "
            echo pid $$; hostname; cat /proc/self/status | grep -E '^(Cap|Seccomp:|NoNewPrivs)'; ulimit -n; cat /proc/self/oom_score_adj
            ls /dev | tr '\\n' ' '; echo; ls /proc/acpi /sys/firmware 2>/dev/null; cat /proc/kcore | wc -c
            touch /proc/sys/x /sys/x 2>&1; ip -o link | grep -c LOOPBACK,UP; ls /proc | grep -c '^[0-9]'
            cat /proc/sys/net/ipv4/ip_unprivileged_port_start; mount -t tmpfs none /etc 2>&1; grep -E 'memory|^0::' /proc/self/cgroup
            echo err >&2; touch /written; ls /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; exit 7")
        .await;
    eprintln!("{text}");
    assert_eq!((exit.code, exit.signal, exit.oom_killed, exit.known), (7, None, false, true));
    assert!(text.starts_with("pid 1\nhost-a\n"));
    assert!(text.contains("Seccomp:\t2\n"));
    assert!(text.contains("CapEff:\t00000000000004e1\n"));
    assert!(text.contains("CapBnd:\t00000000000004e1\n"));
    assert!(text.contains("\n512\n500\n"));
    for device in ["null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "mqueue", "fd", "stdin"] {
        assert!(text.contains(&format!("{device} ")), "{device}");
    }
    // Its own cgroup is the root it sees, and there its limits are, on v1 as on v2.
    assert!(text.contains("memory:/\n") || text.contains("0::/\n"));
    assert!(text.contains("/memory.limit_in_bytes\n") || text.contains("/memory.max\n"));
    assert!(!bed.path("layer/written").exists());
    assert!(text.contains("\nerr\n"));
}

#[tokio::test]
async fn programs_that_cannot_start_say_why() {
    let bed = Bed::new();
    bed.runtime.create(&bed.sandbox("a")).await.unwrap();
    let mut attempt = 0;
    for (args, code, message) in [
        (&["foo", "bar"][..], 127, "exec: \"foo\": executable file not found in $PATH"),
        (&["/foo"], 127, "exec: \"/foo\": stat /foo: no such file or directory"),
        (&["/etc/passwd"], 126, "exec: \"/etc/passwd\": permission denied"),
    ] {
        let mut container = bed.container("a", "main", attempt, "");
        let mut process = container.spec.process().clone().unwrap();
        process.set_args(Some(args.iter().map(|a| a.to_string()).collect()));
        container.spec.set_process(Some(process));
        match bed.runtime.start("a", &container).await {
            Err(Error::Start { code: c, message: m }) => assert_eq!((c, m.as_str()), (code, message)),
            other => panic!("{other:?}"),
        }
        attempt += 1;
    }
    let mut container = bed.container("a", "main", attempt, "true");
    container.lower = vec![bed.path("nowhere")];
    match bed.runtime.start("a", &container).await {
        Err(Error::Start { code: 128, message }) => {
            assert!(message.contains("overlay"), "{message}")
        }
        other => panic!("{other:?}"),
    }
    assert!(bed.runtime.state("a").await.unwrap().containers.is_empty());
    bed.runtime.destroy("a").await.unwrap();
}

#[tokio::test]
async fn users_groups_read_only_root_and_volumes() {
    let bed = Bed::new();
    let volume = bed.path("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("file"), "content").unwrap();
    // A link in an image must not lead a mount out of the container.
    fs::create_dir_all(bed.path("layer/data")).unwrap();
    symlink("/etc", bed.path("layer/data/link")).unwrap();
    let (text, exit) = bed
        .run(
            "a",
            |c| {
                let mut value = serde_json::to_value(&c.spec).unwrap();
                value["root"]["readonly"] = json!(true);
                value["process"]["user"] = json!({ "uid": 1000, "gid": 2000, "additionalGids": [3000] });
                value["process"]["noNewPrivileges"] = json!(true);
                value["process"]["cwd"] = json!("/work/here");
                let mounts = value["mounts"].as_array_mut().unwrap();
                mounts.push(json!({ "destination": "/data/ro", "type": "bind", "source": volume, "options": ["rbind", "ro"] }));
                mounts.push(json!({ "destination": "/data/rw", "type": "bind", "source": volume, "options": ["rbind", "rw"] }));
                mounts.push(json!({ "destination": "/data/one", "type": "bind", "source": volume.join("file"), "options": ["bind", "ro"] }));
                mounts.push(json!({ "destination": "/data/link/inside", "type": "bind", "source": volume, "options": ["bind", "ro"] }));
                c.spec = serde_json::from_value(value).unwrap();
            },
            "id; cat /data/one; echo; touch /x /data/ro/x /data/rw/y 2>&1; cat /etc/inside/file; echo; pwd
             grep -E '^(CapEff|NoNewPrivs)' /proc/self/status; echo out > /dev/stdout; ls /dev/shm; touch /dev/shm/z && echo shared",
        )
        .await;
    eprintln!("{text}");
    assert_eq!(exit.code, 0);
    assert!(
        text.starts_with("uid=1000 gid=2000 groups=2000,3000\ncontent\n")
            || text.contains("groups=3000,2000")
            || text.contains("groups=3000")
    );
    assert!(text.contains("touch: /x: Read-only file system"));
    assert!(text.contains("touch: /data/ro/x: Read-only file system"));
    assert!(text.contains("touch: /data/rw/y: Permission denied"));
    assert!(text.contains("\ncontent\n/work/here\n"));
    assert!(text.contains("NoNewPrivs:\t1"));
    assert!(text.contains("CapEff:\t0000000000000000"));
    assert!(text.contains("\nout\n"));
    assert!(text.ends_with("shared\n"));
    assert!(!Path::new("/etc/inside").exists());
}

/// CVE-2024-21626: a descriptor the runtime has open, as a working directory, is a way to the host.
#[tokio::test]
async fn no_path_leads_out_through_a_magic_link() {
    let bed = Bed::new();
    bed.runtime.create(&bed.sandbox("a")).await.unwrap();
    let links = (3..24).map(|n| format!("/proc/self/fd/{n}")).chain(["/proc/self/cwd".into(), "/link/made".into()]);
    fs::create_dir(bed.path("outside")).unwrap();
    symlink("/proc/1/root/tmp", bed.path("layer/link")).unwrap();
    for (attempt, link) in links.enumerate() {
        let mut container = bed.container("a", "main", attempt as u32, "cat ../../../../etc/hostname");
        change(&mut container, |spec| spec["process"]["cwd"] = json!(link));
        let started = bed.runtime.start("a", &container).await;
        assert!(matches!(started, Err(Error::Start { code: 128, .. })), "{link}: {started:?}");
    }
    // Nor does a mount point.
    let mut container = bed.container("a", "main", 100, "true");
    change(&mut container, |spec| {
        let mount = json!({ "destination": "/link/made/file", "type": "bind", "source": bed.path("outside"), "options": ["bind"] });
        spec["mounts"].as_array_mut().unwrap().push(mount);
    });
    let started = bed.runtime.start("a", &container).await;
    assert!(matches!(started, Err(Error::Start { code: 128, .. })), "{started:?}");
    bed.runtime.destroy("a").await.unwrap();
}

/// Between the change of its user and exec, a program has no more privileges than those already in the container.
#[tokio::test]
async fn nobody_in_the_container_looks_into_a_program_on_its_way() {
    let bed = Bed::new();
    bed.runtime.create(&bed.sandbox("a")).await.unwrap();
    let mut events = bed.runtime.subscribe();
    // Who has no HOME is looked up in a file, and that takes as long as the file lets it.
    let script = "busybox rm /etc/passwd; busybox mkfifo /etc/passwd; echo there
        while :; do for p in /proc/[0-9]*; do
            if grep -q coracle $p/comm && grep -q 'CapEff:.00000000000004e1' $p/status; then
                cat $p/environ $p/exe $p/root/etc/plain $p/fd/0 2>&1 >/dev/null; echo > /etc/passwd; exit; fi
        done; done 2>/dev/null";
    let mut container = bed.container("a", "main", 0, script);
    let log = container.log.clone();
    fs::write(bed.path("layer/etc/passwd"), "").unwrap();
    change(&mut container, |spec| spec["process"]["env"] = json!(["PATH=/bin"]));
    bed.runtime.start("a", &container).await.unwrap();
    until("the file is a pipe", || said(&log).starts_with("there")).await;
    // The container ends first or the program does.
    bed.runtime.exec_sync("a", &exec(&["true"]), PATIENCE, 10).await.ok();
    exited(&mut events, "main", 0).await;
    let text = said(&log);
    eprintln!("{text}");
    assert_eq!(text.lines().filter(|l| l.contains("ermission denied")).count(), 4, "{text}");
    assert_eq!(text.lines().count(), 5, "{text}");
    bed.runtime.destroy("a").await.unwrap();
}

#[tokio::test]
async fn a_volume_at_dev_is_left_alone_and_masks_nothing() {
    let bed = Bed::new();
    let volume = bed.path("volume");
    fs::create_dir(&volume).unwrap();
    symlink("/proc/sys/kernel/core_pattern", volume.join("null")).unwrap();
    let look = "ls /dev | tr '\\n' ' '; echo; cat /proc/timer_list | wc -c; ls -l /proc/timer_list";
    for (id, fresh, source, dev) in [
        // The second time it is the one of before.
        ("a", true, volume.as_path(), "null \n"),
        ("b", true, volume.as_path(), "null \n"),
        ("c", false, volume.as_path(), "mqueue null pts shm \n"),
        ("d", true, Path::new("/dev"), ""),
    ] {
        let mounted = |c: &mut ContainerSpec| {
            change(c, |spec| {
                let mounts = spec["mounts"].as_array_mut().unwrap();
                let at = mounts.iter().position(|m| m["destination"] == "/dev").unwrap();
                let bind =
                    json!({ "destination": "/dev", "type": "bind", "source": source, "options": ["rbind", "rw"] });
                match fresh {
                    true => mounts.push(bind),
                    false => mounts[at] = bind,
                }
            });
        };
        let (text, exit) = bed.run(id, mounted, look).await;
        eprintln!("{id}: {text}");
        assert_eq!(exit.code, 0);
        assert!(text.starts_with(dev) && text.contains("\n0\nc"), "{id}: {text}");
    }
    // One device of the host's over one of ours.
    let over = json!({ "destination": "/dev/null", "type": "bind", "source": "/dev/zero", "options": ["bind"] });
    let mounted = |c: &mut ContainerSpec| change(c, |spec| spec["mounts"].as_array_mut().unwrap().push(over));
    assert_eq!(bed.run("e", mounted, "head -c 7 /dev/null | wc -c").await.0, "7\n");
}

#[tokio::test]
async fn as_many_layers_as_the_kernel_takes() {
    let bed = Bed::new();
    // As long as the names of the image store.
    let layers: Vec<PathBuf> = (0..400).map(|n| bed.path(&format!("layers/{n:064}"))).collect();
    for (n, layer) in layers.iter().enumerate() {
        fs::create_dir_all(layer).unwrap();
        fs::write(layer.join(format!("layer{n}")), "").unwrap();
        fs::write(layer.join("top"), n.to_string()).unwrap();
    }
    let stack = |c: &mut ContainerSpec| c.lower.splice(0..0, layers.clone()).for_each(drop);
    let (text, _) = bed.run("a", stack, "cat /top; echo; ls / | grep -c layer; touch /new && ls /new").await;
    assert_eq!(text, "0\n400\n/new\n");
}

#[tokio::test]
async fn memory_over_the_limit_is_137_and_said_so() {
    let bed = Bed::new();
    let (_, exit) = bed
        .run(
            "a",
            |c| {
                let mut value = serde_json::to_value(&c.spec).unwrap();
                value["linux"]["resources"] = json!({ "memory": { "limit": 20 << 20 }, "pids": { "limit": 50 }, "cpu": { "shares": 100, "quota": 50000, "period": 100000 } });
                c.spec = serde_json::from_value(value).unwrap();
            },
            "exec dd if=/dev/zero of=/dev/null bs=200M count=1",
        )
        .await;
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (137, Some(9), true));
}

#[tokio::test]
async fn exec_streams_codes_time_limits_and_terminals() {
    let bed = Bed::new();
    bed.runtime.create(&bed.sandbox("a")).await.unwrap();
    let pid = bed.runtime.start("a", &bed.container("a", "main", 0, "exec sleep 1000")).await.unwrap();
    let done = bed
        .runtime
        .exec_sync("a", &exec(&["sh", "-c", "echo hello; echo $$ >&2; hostname; exit 3"]), PATIENCE, 4096)
        .await
        .unwrap();
    assert_eq!((done.status.code, String::from_utf8_lossy(&done.stdout)), (3, "hello\nhost-a\n".into()));
    assert!(String::from_utf8_lossy(&done.stderr).trim().parse::<i32>().unwrap() < 100);

    let slow = bed.runtime.exec_sync("a", &exec(&["sleep", "777"]), Duration::from_millis(50), 10).await;
    assert!(matches!(slow, Err(Error::Timeout(_))));
    let missing = bed.runtime.exec_sync("a", &exec(&["nope"]), PATIENCE, 10).await;
    assert!(matches!(missing, Err(Error::Start { code: 127, .. })), "{missing:?}");

    let mut spec = exec(&["cat"]);
    spec.stdin = true;
    let mut cat = bed.runtime.exec("a", &spec).await.unwrap();
    let mut stdin = cat.stdin.take().unwrap();
    stdin.write_all(b"through and through").await.unwrap();
    drop(stdin);
    let mut text = String::new();
    cat.stdout.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "through and through");
    assert_eq!(cat.wait().await.unwrap().code, 0);

    let mut spec = exec(&["sh", "-c", "tty; read x; stty size; echo got $x; exit 5"]);
    (spec.tty, spec.stdin) = (true, true);
    let mut shell = bed.runtime.exec("a", &spec).await.unwrap();
    shell.resize(100, 40).unwrap();
    shell.stdin.as_mut().unwrap().write_all(b"typed\n").await.unwrap();
    let mut text = String::new();
    shell.stdout.read_to_string(&mut text).await.unwrap();
    assert!(text.contains("/dev/pts/0") && text.contains("40 100") && text.contains("got typed"), "{text}");
    assert_eq!(shell.wait().await.unwrap().code, 5);

    // A session that nobody holds any more is ended.
    let lost = bed.runtime.exec("a", &exec(&["sleep", "888"])).await.unwrap();
    drop(lost);
    let inside = || fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).is_ok();
    assert!(inside());
    let count = || cgroup::stats(&format!("{}/poda/main", bed.cgroup)).unwrap().pids;
    until("exec sessions are gone", || count() == 1).await;
    bed.runtime.destroy("a").await.unwrap();
    assert!(!alive(pid));
}

#[tokio::test]
async fn another_runtime_finds_everything_again() {
    let bed = Bed::new();
    bed.runtime.create(&bed.sandbox("a")).await.unwrap();
    let mut events = bed.runtime.subscribe();
    let pid = bed.runtime.start("a", &bed.container("a", "main", 0, "exec sleep 1000")).await.unwrap();
    bed.runtime.start("a", &bed.container("a", "once", 0, "exit 4")).await.unwrap();
    exited(&mut events, "once", 0).await;

    let other = Runtime::new(BINARY.into(), bed.path("run")).unwrap();
    let found = other.list().await.unwrap();
    assert_eq!(found.len(), 1);
    let names: Vec<_> =
        found[0].containers.iter().map(|c| (c.name.as_str(), c.exit.as_ref().map(|e| e.code))).collect();
    assert_eq!(names, [("main", None), ("once", Some(4))]);
    assert_eq!(found[0].containers[0].pid, pid);
    // Graceful: an init without a handler ignores TERM; KILL ends it.
    let mut events = other.subscribe();
    other.kill("a", "main", 15).await.unwrap();
    assert!(alive(pid));
    other.kill("a", "main", 9).await.unwrap();
    let exit = exited(&mut events, "main", 0).await;
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
    other.remove("a", "once", 0).await.unwrap();
    // The next attempt of the same container.
    other.start("a", &bed.container("a", "main", 1, "exec sleep 1000")).await.unwrap();
    other.remove("a", "main", 0).await.unwrap();
    let left: Vec<ContainerState> = other.state("a").await.unwrap().containers;
    assert_eq!(left.iter().map(|c| (c.attempt, c.running())).collect::<Vec<_>>(), [(1, true)]);
    other.destroy("a").await.unwrap();
    assert!(other.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_killed_shim_takes_its_containers_along_and_is_reported() {
    let bed = Bed::new();
    let sandbox = bed.runtime.create(&bed.sandbox("a")).await.unwrap();
    let mut events = bed.runtime.subscribe();
    let pid = bed.runtime.start("a", &bed.container("a", "main", 0, "sleep 1000")).await.unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(sandbox.pid), nix::sys::signal::SIGKILL).unwrap();
    let died = async { while !matches!(events.recv().await, Ok((_, Event::SandboxDied))) {} };
    tokio::time::timeout(PATIENCE, died).await.unwrap();
    until("the container dies with its shim", || !alive(pid)).await;
    let state = bed.runtime.state("a").await.unwrap();
    assert_eq!(state.pid, None);
    let exit = state.containers[0].exit.clone().unwrap();
    assert_eq!((exit.code, exit.known), (137, false));
    assert!(matches!(bed.runtime.create(&bed.sandbox("a")).await, Err(Error::Gone(_))));
    bed.runtime.destroy("a").await.unwrap();
    bed.runtime.create(&bed.sandbox("a")).await.unwrap();
    bed.runtime.destroy("a").await.unwrap();
}

/// A node is switched off, or a cluster taken down, while a pod of it is being started.
#[test]
fn a_shim_whose_cgroup_has_gone_ends() {
    let dir = tempfile::tempdir().unwrap();
    let (record, log) = (dir.path().join("s.json"), dir.path().join("shim.log"));
    let gone = dir.path().join("gone/cgroup.procs");
    let spec = json!({ "dir": dir.path(), "hostname": "s", "network": "new" });
    fs::write(&record, json!({ "spec": spec, "entrances": [gone] }).to_string()).unwrap();
    let listener = std::os::unix::net::UnixListener::bind(dir.path().join("s.sock")).unwrap();
    let mut shim = Command::new(BINARY)
        .arg("shim")
        .arg(&record)
        .stdin(std::os::fd::OwnedFd::from(listener))
        .stderr(fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let began = Instant::now();
    let ended = loop {
        let ended = shim.try_wait().unwrap();
        if ended.is_some() || began.elapsed() > PATIENCE {
            break ended;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    shim.kill().unwrap();
    assert_eq!(ended.and_then(|status| status.code()), Some(1), "it lives on");
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.contains(&format!("entering {}", gone.display())), "{text}");
}

#[tokio::test]
async fn destroy_leaves_nothing() {
    let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap();
    let bed = Bed::new();
    let sandbox = bed.runtime.create(&bed.sandbox("a")).await.unwrap();
    // Orphans of init, a fork that ignores signals, and a zombie maker.
    let script = "trap '' TERM HUP; (sleep 1001 &) ; (true &); sleep 1002 & while :; do sleep 1003; done";
    bed.runtime.start("a", &bed.container("a", "main", 0, script)).await.unwrap();
    assert!(!mounts().contains(bed.dir.path().to_str().unwrap()), "nothing is mounted in the host's namespace");
    bed.runtime.destroy("a").await.unwrap();
    bed.runtime.destroy("a").await.unwrap();
    for dir in cgroup::layout().unwrap().dirs(&format!("{}/poda", bed.cgroup)) {
        assert!(!dir.exists(), "{dir:?}");
    }
    until("the shim is reaped", || !Path::new(&format!("/proc/{}", sandbox.pid)).exists()).await;
    assert_eq!(fs::read_dir(bed.path("run/pods")).unwrap().count(), 0);
    let left: Vec<_> = fs::read_dir(bed.path("a")).unwrap().map(|e| e.unwrap().file_name()).collect();
    eprintln!("left in the pod's directory: {left:?}");
}

#[tokio::test]
async fn how_fast_and_how_small() {
    let bed = Bed::new();
    let mut total = Vec::new();
    for n in 0..10 {
        let id = format!("p{n}");
        let began = Instant::now();
        let sandbox = bed.runtime.create(&bed.sandbox(&id)).await.unwrap();
        let created = began.elapsed();
        let mut events = bed.runtime.subscribe();
        let mut container = bed.container(&id, "main", 0, "");
        let mut process = container.spec.process().clone().unwrap();
        process.set_args(Some(vec!["/bin/true".into()]));
        container.spec.set_process(Some(process));
        bed.runtime.start(&id, &container).await.unwrap();
        let started = began.elapsed();
        exited(&mut events, "main", 0).await;
        let ended = began.elapsed();
        total.push((created, started, ended));
        if n == 9 {
            let status = || fs::read_to_string(format!("/proc/{}/status", sandbox.pid)).unwrap();
            let rss =
                |s: &str| s.lines().filter(|l| l.contains("Rss")).map(str::to_owned).collect::<Vec<_>>().join(", ");
            eprintln!("busy: {}", rss(&status()));
            let resident = || {
                let line = status().lines().find(|l| l.starts_with("VmRSS")).map(str::to_owned);
                let kib = line.as_deref().and_then(|l| l.split_ascii_whitespace().nth(1));
                kib.and_then(|n| n.parse::<u64>().ok()).unwrap()
            };
            until("an idle shim is small", || resident() < 3 << 10).await;
            eprintln!("idle: {}", rss(&status()));
        }
        bed.runtime.destroy(&id).await.unwrap();
    }
    for (created, started, ended) in total {
        eprintln!("created {created:?} started {started:?} ended {ended:?}");
    }
}

#[test]
fn containers_survive_the_kill_of_whoever_started_them() {
    let bed = Bed::new();
    // This very test, run again as the victim.
    let me = std::env::current_exe().unwrap();
    let mut victim = Command::new(me)
        .args(["--exact", "victim", "--ignored", "--nocapture"])
        .env("VICTIM_DIR", bed.dir.path())
        .env("VICTIM_CGROUP", &bed.cgroup)
        .spawn()
        .unwrap();
    let ready = bed.path("ready");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(until("the victim is ready", || ready.exists()));
    victim.kill().unwrap();
    victim.wait().unwrap();
    runtime.block_on(async {
        let other = Runtime::new(BINARY.into(), bed.path("run")).unwrap();
        let log = bed.path("v").join("main.0.log");
        let lines = || said(&log).lines().count();
        let before = lines();
        until("it goes on writing its log", || lines() > before + 3).await;
        until("the record of the one that ended meanwhile is there", || {
            bed.path("v/exits/late.0.json").metadata().is_ok()
        })
        .await;
        fs::write(bed.path("v/shm/never-seen"), "").ok();
        let mut found = other.list().await.unwrap();
        let began = Instant::now();
        while found[0].containers[0].running() && began.elapsed() < PATIENCE {
            tokio::time::sleep(Duration::from_millis(5)).await;
            found = other.list().await.unwrap();
        }
        let codes: Vec<_> =
            found[0].containers.iter().map(|c| (c.name.clone(), c.exit.as_ref().map(|e| e.code))).collect();
        assert_eq!(codes, [("late".into(), Some(9)), ("main".into(), None)]);
        other.destroy("v").await.unwrap();
    });
}

#[test]
#[ignore = "started and killed by containers_survive_the_kill_of_whoever_started_them"]
fn victim() {
    let dir = PathBuf::from(std::env::var("VICTIM_DIR").unwrap());
    let cgroup = std::env::var("VICTIM_CGROUP").unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let runtime = Runtime::new(BINARY.into(), dir.join("run")).unwrap();
        let sandbox: SandboxSpec = serde_json::from_value(json!({
            "id": "v", "name": "v", "namespace": "default", "dir": dir.join("v"), "hostname": "v", "network": "new",
            "cgroup": format!("{cgroup}/podv"), "shimCgroup": format!("{cgroup}/shims"),
            "tmpfs": [{ "path": dir.join("v/shm"), "size": null, "mode": 0o1777 }],
        }))
        .unwrap();
        runtime.create(&sandbox).await.unwrap();
        for (name, script) in [("main", "while :; do echo still here; sleep 0.05; done"), ("late", "sleep 1; exit 9")] {
            let spec = spec(&["/bin/sh", "-c", script], &dir.join("v/shm"));
            let bundle = dir.join(format!("v/containers/{name}/0"));
            let log = dir.join(format!("v/{name}.0.log"));
            let lower = vec![dir.join("layer")];
            let container = ContainerSpec {
                name: name.into(),
                attempt: 0,
                dir: bundle,
                lower,
                spec,
                log,
                stdin: false,
                tty: false,
            };
            runtime.start("v", &container).await.unwrap();
        }
        fs::write(dir.join("ready"), "").unwrap();
        std::future::pending::<()>().await;
    });
}

//! Nodes that are cordoned, cut off, come back; clusters side by side; an idle daemon.

use crate::alone;
use crate::harness::{Cluster, coracle, pod, run, slowness, timeout, until};
use crate::host::Snapshot;
use crate::workloads::hello;
use libtest_mimic::Trial;
use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

pub fn trials() -> Vec<Trial> {
    vec![
        alone("nodes_cordon_keeps_pods_away", cordon),
        alone("nodes_a_dead_node_is_replaced_and_comes_back", dead_node),
        alone("nodes_cut_off_are_unheard_and_join_again", cut),
        alone("nodes_are_added_and_removed", add_remove),
        alone("nodes_are_as_large_as_they_say", size),
        alone("nodes_keep_the_users_things_over_down_and_up", down_and_up),
        alone("nodes_two_clusters_do_not_touch_each_other", two_clusters),
        alone("nodes_idle_costs_nothing", idle),
        alone("nodes_hold_nothing_of_who_started_them", inherited),
    ]
}

fn cordon() {
    let cluster = Cluster::up("cordon", &["--nodes", "2"]);
    cluster.kubectl(&["cordon", "node-1"]).good();
    assert!(cluster.kubectl(&["get", "node", "node-1"]).good().contains("Ready,SchedulingDisabled"));
    let space = cluster.space("a");
    space.apply(&hello("web", 3, "v1"));
    space.kubectl(&["rollout", "status", "deployment/web", &timeout()]).good();
    assert_eq!(space.value("pods", "{.items[*].spec.nodeName}"), "node-2 node-2 node-2");
    cluster.kubectl(&["uncordon", "node-1"]).good();
    cluster.kubectl(&["taint", "node", "node-1", "keep=out:NoSchedule"]).good();
    space.kubectl(&["scale", "deployment/web", "--replicas=5"]).good();
    space.kubectl(&["rollout", "status", "deployment/web", &timeout()]).good();
    assert!(!space.value("pods", "{.items[*].spec.nodeName}").contains("node-1"));
}

fn dead_node() {
    let cluster = Cluster::up("dead", &[]);
    let space = cluster.space("a");
    space.apply(&hello("web", 3, "v1"));
    space.kubectl(&["rollout", "status", "deployment/web", &timeout()]).good();
    cluster.coracle(&["node", "stop", "node-2"]).good();
    let ready = "{.status.conditions[?(@.type=='Ready')].status}";
    cluster.existing("default").wait_value("node/node-2", ready, "Unknown");
    until("three pods elsewhere", || {
        let pods = space.kubectl(&["get", "pods", "-o", "wide", "--no-headers"]).good();
        let running: Vec<&str> =
            pods.lines().filter(|l| l.contains("1/1") && l.contains("Running") && !l.contains("node-2")).collect();
        (running.len() == 3).then_some(())
    });
    let slices = space.value("endpointslices", "{.items[*].endpoints[?(@.conditions.ready==true)].nodeName}");
    assert!(!slices.contains("node-2"), "{slices}");
    cluster.coracle(&["node", "start", "node-2"]).good();
    cluster.kubectl(&["wait", "--for=condition=Ready", "node/node-2", &timeout()]).good();
    until("the taint to go", || {
        (!cluster.kubectl(&["get", "node", "node-2", "-o", "jsonpath={.spec.taints}"]).good().contains("unreachable"))
            .then_some(())
    });
    let gone = until("the old pods to go", || {
        let pods = space.kubectl(&["get", "pods", "--no-headers"]).good();
        (pods.lines().count() == 3).then_some(pods)
    });
    assert!(gone.lines().all(|l| l.contains("Running")), "{gone}");
}

/// A partition: the pod runs on and nobody hears of it; its own requests end at the cut as well.
fn cut() {
    let cluster = Cluster::up("cut", &["--nodes", "2"]);
    let space = cluster.space("a");
    let stay = json!({"nodeName": "node-2", "tolerations": [{"operator": "Exists"}]});
    space.apply(&pod("box", json!({}), stay).to_string());
    space.ready("box");
    let container = space.value("pod/box", "{.status.containerStatuses[0].containerID}");
    let ready = "{.status.conditions[?(@.type=='Ready')].status}";
    cluster.coracle(&["node", "cut", "node-2"]).good();
    assert!(cluster.coracle(&["status"]).good().contains("cut"));
    cluster.existing("default").wait_value("node/node-2", ready, "Unknown");
    let refused = space.kubectl(&["exec", "box", "--", "true"]).bad();
    assert!(refused.contains("cannot be reached"), "{refused}");
    cluster.coracle(&["node", "join", "node-2"]).good();
    cluster.existing("default").wait_value("node/node-2", ready, "True");
    space.wait_value("pod/box", ready, "True");
    space.kubectl(&["exec", "box", "--", "true"]).good();
    assert_eq!(space.value("pod/box", "{.status.containerStatuses[0].containerID}"), container);
}

/// What the user built keeps its name, whatever the binary brings along; what Secrets hold was never on the disk in
/// plain, and nothing of a cluster is anybody else's to read.
fn down_and_up() {
    let cluster = Cluster::up("again", &["--nodes", "1"]);
    let recipe = cluster.data.join("recipe.yaml");
    std::fs::write(&recipe, "name: busybox\ntag: '1'\nbase: busybox:1\nfiles: [{dir: /mine}]\n").unwrap();
    cluster.coracle(&["image", "build", recipe.to_str().unwrap()]).good();
    let space = cluster.space("a");
    let plain = "only-for-the-pod-4711";
    space.kubectl(&["create", "secret", "generic", "s", &format!("--from-literal=key={plain}")]).good();
    let volume = json!({"volumes": [{"name": "v", "secret": {"secretName": "s"}}]});
    let mount = json!({"volumeMounts": [{"name": "v", "mountPath": "/s"}]});
    space.apply(&pod("box", mount, volume).to_string());
    space.ready("box");
    let uses = || space.sh("box", "ls -d /mine && cat /s/key").good();
    assert_eq!(uses(), format!("/mine\n{plain}"));

    assert_eq!(std::fs::metadata(&cluster.data).unwrap().permissions().mode() & 0o777, 0o700);
    let found = Command::new("grep").args(["-rlF", plain]).arg(&cluster.data).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "", "in plain on the disk");
    let open = Command::new("find").arg(&cluster.data).args(["-maxdepth", "1", "-type", "f", "-perm", "/077"]).output();
    assert_eq!(
        String::from_utf8_lossy(&open.unwrap().stdout),
        recipe.display().to_string() + "\n",
        "only the test's own"
    );

    cluster.coracle(&["down"]).good();
    assert!(!std::path::Path::new("/run/coracle").join(&cluster.name).exists());
    cluster.start(&[]);
    space.wait_value("pod/box", "{.status.containerStatuses[0].restartCount}", "1");
    space.ready("box");
    assert_eq!(uses(), format!("/mine\n{plain}"));
}

/// A lock or pipe that the caller of `up --detach` has open does not live on in the daemon.
fn inherited() {
    let cluster = Cluster::up("inherited", &["--nodes", "1"]);
    cluster.coracle(&["down"]).good();
    let lock = cluster.data.join("callers");
    let line = r#"exec 7>"$0"; exec "$1" --name "$2" up --detach --api-port 0 --data-dir "$3""#;
    let mut shell = Command::new("sh");
    shell.args(["-c", line]).arg(&lock).arg(coracle()).arg(&cluster.name).arg(&cluster.data);
    run(&mut shell, "").good();
    let open = std::fs::read_dir(format!("/proc/{}/fd", cluster.pid())).unwrap();
    let open: Vec<_> = open.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok()).collect();
    assert!(!open.is_empty() && !open.contains(&lock), "{open:?}");
}

/// A node's own cgroup holds its pods to what it offers, whatever they ask for or take.
fn size() {
    let v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let sized: &[&str] = &["--nodes", "1", "--node-cpu", "1", "--node-memory", "256Mi"];
    let more: &[&str] = &["--node-disk-bandwidth", "50Mi", "--feature-gates", "MemoryQoS=true"];
    let cluster = Cluster::up("size", &[sized, if v2 { more } else { &[] }].concat());
    let space = cluster.space("a");
    let amounts = json!({"requests": {"cpu": "250m", "memory": "16Mi"}, "limits": {"cpu": "4", "memory": "64Mi"}});
    space.apply(&pod("box", json!({"resources": amounts}), json!({})).to_string());
    space.ready("box");
    let said = |object: &str, wanted: &[&str]| {
        until(&format!("{object} to have {wanted:?}"), || {
            let text = cluster.coracle(&["xray", object, "-n", &space.name]).good();
            let lines: Vec<String> = text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
            wanted.iter().all(|wanted| lines.iter().any(|line| line == wanted)).then_some(())
        });
    };
    if v2 {
        said("node/node-1", &["cpu.max 100000 100000", "memory.max 268435456", "pids.max 32768", "cpuset.cpus 0"]);
        said("node/node-1", &["cpu.weight 35", "memory.min 16777216"]);
        let node = cluster.coracle(&["xray", "node/node-1"]).good();
        assert!(node.contains("rbps=52428800 wbps=52428800"), "{node}");
        // A request of 16 MiB, a limit of 64: nine tenths of the way.
        said("pod/box", &["cpu.max 400000 100000", "memory.min 16777216", "memory.high 62074880"]);
        assert_eq!(space.sh("box", "nproc").good().trim(), "1");
        // With MemoryQoS who has no limit is slowed down near the node's for as long as it likes, not killed.
        cluster.kill_daemon();
        cluster.start(&["--nodes", "1"]);
    } else {
        said("node/node-1", &["cpu.cfs_quota_us 100000", "memory.limit_in_bytes 268435456", "pids.max 32768"]);
        said("node/node-1", &["cpu.shares 256", "cpu.shares 2"]);
        // v1 takes no more than the node has.
        said("pod/box", &["cpu.cfs_quota_us 100000"]);
        let refused = cluster.coracle(&["node", "add", "--node-disk-bandwidth", "1Mi"]).bad();
        assert!(refused.contains("needs cgroup v2"), "{refused}");
        let mut other = Command::new(coracle());
        let (name, data) = (format!("{}-other", cluster.name), cluster.data.join("other"));
        other.args(["--name", &name, "up", "-d", "--api-port", "0", "--feature-gates", "MemoryQoS=true", "--data-dir"]);
        let refused = run(other.arg(&data), "").bad();
        assert!(refused.contains("need cgroup v2"), "{refused}");
    }
    // Nobody limits this one but the node.
    let greedy = json!({"command": ["coracle", "guest", "oom"]});
    space.apply(&pod("greedy", greedy, json!({"restartPolicy": "Never"})).to_string());
    space.wait_value("pod/greedy", "{.status.containerStatuses[0].state.terminated.reason}", "OOMKilled");
    assert_eq!(space.value("pod/box", "{.status.containerStatuses[0].restartCount}"), "0");
}

fn add_remove() {
    let cluster = Cluster::up("addrm", &["--nodes", "1"]);
    cluster.coracle(&["node", "add", "extra"]).good();
    assert!(cluster.kubectl(&["get", "node", "extra"]).good().contains(" Ready "), "added means usable");
    let space = cluster.space("a");
    space.apply(&pod("box", json!({}), json!({"nodeName": "extra"})).to_string());
    space.ready("box");
    let memory = Path::new("/run/coracle").join(&cluster.name).join("memory/extra");
    assert!(memory.exists(), "tokens are kept in memory");
    cluster.coracle(&["node", "rm", "extra"]).good();
    assert!(!memory.exists());
    assert!(cluster.kubectl(&["get", "node", "extra"]).bad().contains("NotFound"));
    cluster.kubectl(&["wait", "--for=delete", "pod/box", "-n", "a", &timeout()]).good();
    let left = Snapshot::take();
    assert!(left.naming(&format!("coracle-{}-extra", cluster.name)).is_empty());
}

fn two_clusters() {
    let one = Cluster::up("one", &["--nodes", "1"]);
    let two = Cluster::up("two", &["--nodes", "1"]);
    let space = two.space("a");
    space.apply(&hello("web", 1, "v1"));
    space.kubectl(&["rollout", "status", "deployment/web", &timeout()]).good();
    let uptime = space.value("pods", "{.items[0].status.containerStatuses[0].containerID}");
    // The first dies badly, with a pod running, and is cleaned up by name.
    let doomed = one.space("a");
    doomed.pod("box", json!({}));
    one.kill_daemon();
    one.down();
    let left = Snapshot::take();
    assert_eq!(left.naming(&one.name), Vec::<&String>::new());
    assert!(!left.naming(&two.name).is_empty());
    space.kubectl(&["get", "pods"]).good();
    assert_eq!(space.value("pods", "{.items[0].status.containerStatuses[0].containerID}"), uptime);
    assert_eq!(space.value("pods", "{.items[0].status.containerStatuses[0].restartCount}"), "0");
}

/// Jiffies of processor time a process has used.
fn processor_time(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

fn resident_kib(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Three idle nodes and a pod: what the daemon and the shim use. Resident memory counts the program's own pages too,
/// so the limits here are those of a debug build; the README's figures come from `make bench`.
fn idle() {
    let cluster = Cluster::up("idle", &[]);
    let space = cluster.space("a");
    space.pod("box", json!({}));
    let pid = cluster.pid();
    // Measuring takes time by its nature: five seconds by the clock, while the cluster is left alone.
    // What is left to do after the start may take some of them. The same work takes a larger share of a slower core; a
    // daemon that polls would take all of it.
    let limit = f64::min(0.03 * slowness(), 0.3);
    until("an idle daemon", || {
        let (started, before) = (Instant::now(), processor_time(pid));
        std::thread::park_timeout(Duration::from_secs(5));
        let used = processor_time(pid) - before;
        let share = used as f64 / 100.0 / started.elapsed().as_secs_f64();
        println!("the daemon used {:.1} % of a core", share * 100.0);
        (share < limit).then_some(())
    });
    let daemon = resident_kib(pid);
    assert!(daemon < 60 * 1024, "the idle daemon takes {daemon} KiB");
}

//! The daemon dies at any moment, again and again: nothing acknowledged is lost, nothing restarts.

use crate::alone;
use crate::harness::{Cluster, slowness, timeout, until};
use libtest_mimic::Trial;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// How often the daemon is killed.
const KILLS: usize = 50;
/// Writers beside it.
const WRITERS: usize = 3;

pub fn trials() -> Vec<Trial> {
    vec![
        alone("crash_fifty_kills_lose_nothing", kills),
        alone("crash_down_cleans_up_after_a_killed_daemon", down_after_kill),
        alone("crash_who_was_ready_stays_ready", readiness),
    ]
}

fn kills() {
    let cluster = Cluster::up("kills", &["--nodes", "2"]);
    let space = cluster.space("a");
    let line = "i=0; while :; do echo line $i; i=$((i+1)); usleep 50000; done";
    space.pod("talker", json!({"command": ["sh", "-c", line]}));
    let identity =
        "{.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount} {.status.podIP}";
    let before = space.value("pod/talker", identity);

    let acknowledged: Mutex<BTreeMap<String, String>> = Mutex::default();
    let (stop, writes) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (cluster, acknowledged, stop, writes) = (&cluster, &acknowledged, &stop, &writes);
            scope.spawn(move || {
                for round in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let (name, value) = (format!("w{writer}-{}", round % 20), format!("{writer}.{round}"));
                    let manifest = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"v": value}});
                    let said = cluster.existing("a").kubectl_with(&["apply", "--server-side", "--force-conflicts", "-f", "-"], &manifest.to_string());
                    let mut acknowledged = acknowledged.lock().unwrap();
                    if said.ok {
                        writes.fetch_add(1, Ordering::Relaxed);
                        acknowledged.insert(name, value);
                    } else {
                        // Unknown whether it was written: nothing is claimed about it until the next acknowledged write.
                        acknowledged.remove(&name);
                    }
                }
            });
        }
        for _ in 0..KILLS {
            let seen = writes.load(Ordering::Relaxed);
            until("a write between two kills", || {
                std::thread::yield_now();
                (writes.load(Ordering::Relaxed) > seen).then_some(())
            });
            cluster.kill_daemon();
            cluster.start(&[]);
        }
        stop.store(true, Ordering::Relaxed);
    });

    for (name, value) in acknowledged.into_inner().unwrap() {
        assert_eq!(space.value(&format!("cm/{name}"), "{.data.v}"), value, "{name}");
    }
    assert_eq!(space.value("pod/talker", identity), before, "the container went on");
    let log = space.kubectl(&["logs", "talker"]).good();
    for (i, line) in log.lines().enumerate() {
        assert_eq!(line, format!("line {i}"), "no line is lost or doubled");
    }
    assert!(log.lines().count() > KILLS);
}

/// Services keep their endpoints over a death of the daemon: no probe has to pass first.
fn readiness() {
    let patient: &[&str] = &["--nodes", "1", "--node-monitor-grace", "5m"];
    let cluster = Cluster::up("ready", patient);
    let space = cluster.space("a");
    let probe = json!({"exec": {"command": ["true"]}, "timeoutSeconds": 60, "initialDelaySeconds": 1});
    let mut started = json!({"command": ["coracle", "guest", "sleep"], "readinessProbe": probe, "startupProbe": probe});
    space.pod("box", started.clone());
    let since = r#"{.status.conditions[?(@.type=="Ready")]}{.status.containerStatuses[0].started}"#;
    let before = space.value("pod/box", since);
    cluster.kill_daemon();
    cluster.start(patient);
    // A second pod that is Ready tells that the node has looked at all of its pods.
    started["readinessProbe"] = serde_json::Value::Null;
    space.pod("other", started);
    assert_eq!(space.value("pod/box", since), before);
}

fn down_after_kill() {
    let cluster = Cluster::up("trace", &[]);
    let space = cluster.space("a");
    space.apply(&crate::workloads::hello("web", 3, "v1"));
    space.kubectl(&["rollout", "status", "deployment/web", &timeout()]).good();
    // An exit while nobody looks: the shim keeps the record.
    let line = format!("coracle guest sleep {}; exit 5", 5 + 2 * slowness() as u64);
    space.apply(
        &crate::harness::pod("brief", json!({"command": ["sh", "-c", line]}), json!({"restartPolicy": "Never"}))
            .to_string(),
    );
    space.ready("brief");
    cluster.kill_daemon();
    let exits = cluster.data.join("nodes");
    until("the exit record", || {
        let found = walk(&exits).into_iter().any(|p| p.to_string_lossy().contains("exits/main"));
        found.then_some(())
    });
    cluster.start(&[]);
    space.wait_value("pod/brief", "{.status.phase}", "Failed");
    assert_eq!(space.value("pod/brief", "{.status.containerStatuses[0].state.terminated.exitCode}"), "5");
    cluster.kill_daemon();
    cluster.down();
    let left = crate::host::Snapshot::take();
    assert_eq!(left.naming(&cluster.name), Vec::<&String>::new());
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut all = Vec::new();
    for path in entries.flatten().map(|e| e.path()) {
        if path.is_dir() && !path.ends_with("rootfs") && !path.ends_with("upper") {
            all.extend(walk(&path));
        } else {
            all.push(path);
        }
    }
    all
}

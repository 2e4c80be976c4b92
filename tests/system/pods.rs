//! Pods from inside and outside: logs, exec, probes, volumes, identity, limits, ends.

use crate::harness::{Cluster, Space, pod, run, timeout, until};
use crate::shared;
use libtest_mimic::Trial;
use serde_json::{Value, json};

pub fn trials() -> Vec<Trial> {
    vec![
        shared("pod_logs_as_kubectl_asks_for_them", logs),
        shared("pod_exec_with_and_without_a_terminal", exec),
        shared("pod_probes_decide", probes),
        shared("pod_conditions_of_others_stay", gates),
        shared("pod_restarts_back_off_and_remember", restarts),
        shared("pod_ends_as_its_policy_says", ends),
        shared("pod_that_eats_too_much_is_oom_killed", oom),
        shared("pod_volumes_hold_what_they_should", volumes),
        shared("pod_environment_comes_from_everywhere", environment),
        shared("pod_security_is_what_the_process_sees", security),
        shared("pod_limits_are_cgroup_values", limits),
        shared("pod_init_containers_come_first", init),
        shared("pod_ends_gracefully", graceful),
        shared("pod_hooks_fail_politely", hooks),
        shared("pod_tells_what_it_waits_for", waiting),
    ]
}

/// A pod that runs a shell line.
fn shell(name: &str, line: &str, spec: Value) -> String {
    pod(name, json!({"command": ["sh", "-c", line]}), spec).to_string()
}

fn logs(cluster: &Cluster) {
    let space = cluster.space("logs");
    let two = pod(
        "two",
        json!({"command": ["sh", "-c", "for i in 1 2 3; do echo out $i; done; echo err >&2; coracle guest sleep"]}),
        json!({}),
    );
    let mut two = two;
    let mut other = two["spec"]["containers"][0].clone();
    other["name"] = json!("other");
    other["command"] = json!(["sh", "-c", "echo from the other; coracle guest sleep"]);
    two["spec"]["containers"].as_array_mut().unwrap().push(other);
    space.apply(&two.to_string());
    space.ready("two");
    let lines = until("all lines", || {
        let text = space.kubectl(&["logs", "two", "-c", "main"]).good();
        (text.lines().count() == 4).then_some(text)
    });
    assert!(lines.contains("out 1\nout 2\nout 3\n") && lines.contains("err\n"), "{lines}");
    until("the other's line", || {
        (space.kubectl(&["logs", "two", "-c", "other"]).good() == "from the other\n").then_some(())
    });
    assert_eq!(space.kubectl(&["logs", "two", "-c", "main", "--tail=1"]).good().lines().count(), 1);
    assert_eq!(space.kubectl(&["logs", "two", "-c", "main", "--since=1h"]).good().lines().count(), 4);
    let stamped = space.kubectl(&["logs", "two", "-c", "other", "--timestamps"]).good();
    assert!(stamped.starts_with("20") && stamped.trim_end().ends_with("Z from the other"), "{stamped}");
    let all = space.kubectl(&["logs", "two", "--all-containers", "--prefix"]).good();
    assert!(all.contains("[pod/two/other] from the other"), "{all}");
    // Follow until the container ends.
    space.apply(&shell(
        "talker",
        "for i in 1 2 3; do echo $i; coracle guest sleep 1; done",
        json!({"restartPolicy": "Never"}),
    ));
    space.kubectl(&[
        "wait",
        "--for=jsonpath={.status.containerStatuses[0].state.running.startedAt}",
        "pod/talker",
        &timeout(),
    ]);
    assert_eq!(space.kubectl(&["logs", "-f", "talker"]).good(), "1\n2\n3\n");
}

fn exec(cluster: &Cluster) {
    let space = cluster.space("exec");
    space.pod("box", json!({}));
    assert_eq!(space.sh("box", "echo $((6*7))").good(), "42\n");
    let failed = space.sh("box", "echo no >&2; exit 7");
    assert_eq!((failed.code, failed.err.starts_with("no\n")), (Some(7), true), "{failed:?}");
    assert!(failed.err.contains("command terminated with exit code 7"));
    let echoed = space.kubectl_with(&["exec", "-i", "box", "--", "cat"], "through and back\n").good();
    assert_eq!(echoed, "through and back\n");
    let megabyte = "x".repeat(1 << 20);
    assert_eq!(space.kubectl_with(&["exec", "-i", "box", "--", "wc", "-c"], &megabyte).good().trim(), "1048576");
    let missing = space.kubectl(&["exec", "box", "--", "no-such-program"]);
    assert!(!missing.ok && missing.err.contains("executable file not found in $PATH"), "{}", missing.err);
    // With a terminal: `script` (util-linux) gives kubectl one to pass on.
    let mut script = cluster.program("kubectl", "exec");
    let line = format!(
        "{} --kubeconfig {} -n exec exec -it box -- sh -c 'tty; stty size'",
        script.get_program().to_string_lossy(),
        cluster.kubeconfig().display()
    );
    script = std::process::Command::new("script");
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    let said = run(&mut script, "").good();
    assert!(said.contains("/dev/pts/"), "{said}");
    let ours = cluster.coracle(&["exec", "-n", "exec", "box", "--", "hostname"]).good();
    assert_eq!(ours, "box\n");
}

fn probes(cluster: &Cluster) {
    let space = cluster.space("probes");
    let readiness = json!({"readinessProbe": {"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1}});
    space.apply(&pod("gate", readiness, json!({})).to_string());
    space.wait_value("pod/gate", "{.status.phase}", "Running");
    assert_eq!(space.value("pod/gate", "{.status.conditions[?(@.type=='Ready')].status}"), "False");
    until("exec to work", || space.sh("gate", "touch /tmp/ready").ok.then_some(()));
    space.ready("gate");
    space.sh("gate", "rm /tmp/ready").good();
    space.kubectl(&["wait", "--for=condition=Ready=false", "pod/gate", &timeout()]).good();
    until("an event about it", || {
        space.kubectl(&["events", "--for", "pod/gate"]).good().contains("Readiness probe failed").then_some(())
    });
    // HTTP and TCP, and a liveness probe that restarts.
    let server = |name: &str, probe: Value| {
        let mut container = json!({"image": "hello:1", "command": ["/coracle", "guest", "serve"], "ports": [{"containerPort": 8080, "name": "http"}]});
        json_patch::merge(&mut container, &probe);
        space.apply(&pod(name, container, json!({})).to_string());
    };
    server("http", json!({"readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 1}}));
    server("tcp", json!({"readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1}}));
    server(
        "dying",
        json!({"livenessProbe": {"httpGet": {"path": "/no-such-page", "port": 8080}, "periodSeconds": 1, "failureThreshold": 1}}),
    );
    space.ready("http");
    space.ready("tcp");
    until("a restart", || {
        let count: u32 = space.value("pod/dying", "{.status.containerStatuses[0].restartCount}").parse().unwrap_or(0);
        (count > 0).then_some(())
    });
    until("the events about it", || {
        let events = space.kubectl(&["events", "--for", "pod/dying"]).good();
        (events.contains("Liveness probe failed") && events.contains("Killing")).then_some(())
    });
}

fn gates(cluster: &Cluster) {
    let space = cluster.space("gates");
    let gate = json!({"readinessGates": [{"conditionType": "example.com/open"}]});
    space.apply(&pod("box", json!({}), gate).to_string());
    space.kubectl(&["wait", "--for=condition=ContainersReady", "pod/box", &timeout()]).good();
    let ready = "{.status.conditions[?(@.type=='Ready')].status} {.status.conditions[?(@.type=='Ready')].reason}";
    assert_eq!(space.value("pod/box", ready), "False ReadinessGatesNotReady");
    let open = r#"{"status": {"conditions": [{"type": "example.com/open", "status": "True"}]}}"#;
    space.kubectl(&["patch", "pod", "box", "--subresource=status", "-p", open]).good();
    space.ready("box");
    // A container that starts again has the node write its own conditions anew.
    let killed = space.sh("box", "kill -TERM 1");
    assert!(killed.ok || killed.code == Some(137), "{killed:?}");
    space.wait_value("pod/box", "{.status.containerStatuses[0].restartCount}", "1");
    space.ready("box");
    assert_eq!(space.value("pod/box", "{.status.conditions[?(@.type=='example.com/open')].status}"), "True");
    assert_eq!(space.value("pod/box", "{.status.podIPs[*].ip}"), space.value("pod/box", "{.status.podIP}"));
}

fn restarts(cluster: &Cluster) {
    let space = cluster.space("restarts");
    space.apply(&shell("crash", "echo attempt; exit 3", json!({})));
    space.wait_value("pod/crash", "{.status.containerStatuses[0].state.waiting.reason}", "CrashLoopBackOff");
    let last = space.value("pod/crash", "{.status.containerStatuses[0].lastState.terminated.exitCode} {.status.containerStatuses[0].lastState.terminated.reason}");
    assert_eq!(last, "3 Error");
    assert_eq!(space.kubectl(&["logs", "crash", "--previous"]).good(), "attempt\n");
    until("the table to say so", || {
        space.kubectl(&["get", "pod", "crash"]).good().contains("CrashLoopBackOff").then_some(())
    });
    until("the event about it", || {
        let events = space.kubectl(&["events", "--for", "pod/crash"]).good();
        events.contains("Back-off restarting failed container").then_some(())
    });
}

fn ends(cluster: &Cluster) {
    let space = cluster.space("ends");
    for (name, line, policy, phase, reason, code) in [
        ("good", "true", "Never", "Succeeded", "Completed", "0"),
        ("bad", "exit 9", "Never", "Failed", "Error", "9"),
        ("fine", "true", "OnFailure", "Succeeded", "Completed", "0"),
    ] {
        space.apply(&shell(name, line, json!({"restartPolicy": policy})));
        let pod = format!("pod/{name}");
        space.wait_value(&pod, "{.status.phase}", phase);
        let state = space.value(&pod, "{.status.containerStatuses[0].state.terminated.reason} {.status.containerStatuses[0].state.terminated.exitCode}");
        assert_eq!(state, format!("{reason} {code}"));
    }
    let no_program = pod("none", json!({"command": ["/no/such/program"]}), json!({"restartPolicy": "Never"}));
    space.apply(&no_program.to_string());
    space.wait_value("pod/none", "{.status.phase}", "Failed");
    let state = space.value("pod/none", "{.status.containerStatuses[0].state.terminated}");
    assert!(state.contains("StartError") && state.contains("no such file or directory"), "{state}");
}

fn oom(cluster: &Cluster) {
    let space = cluster.space("oom");
    let hungry = pod(
        "hungry",
        json!({"command": ["coracle", "guest", "oom"], "resources": {"limits": {"memory": "32Mi"}}}),
        json!({"restartPolicy": "Never"}),
    );
    space.apply(&hungry.to_string());
    space.wait_value("pod/hungry", "{.status.phase}", "Failed");
    let state = space.value("pod/hungry", "{.status.containerStatuses[0].state.terminated.reason} {.status.containerStatuses[0].state.terminated.exitCode}");
    assert_eq!(state, "OOMKilled 137");
}

fn volumes(cluster: &Cluster) {
    let space = cluster.space("volumes");
    let host = cluster.data.join("host-volume");
    std::fs::create_dir_all(&host).unwrap();
    std::fs::write(host.join("note"), "from the host\n").unwrap();
    space.kubectl(&["create", "configmap", "conf", "--from-literal=key=one", "--from-literal=other=two"]).good();
    space.kubectl(&["create", "secret", "generic", "pass", "--from-literal=word=xyzzy"]).good();
    let container = json!({"volumeMounts": [
        {"name": "scratch", "mountPath": "/scratch"}, {"name": "memory", "mountPath": "/memory"}, {"name": "host", "mountPath": "/host", "readOnly": true},
        {"name": "conf", "mountPath": "/conf"}, {"name": "pass", "mountPath": "/pass"}, {"name": "conf", "mountPath": "/one-file", "subPath": "key"},
        {"name": "scratch", "mountPath": "/part", "subPath": "some/part"}, {"name": "memory", "mountPath": "/memory-part", "subPath": "a/b"}]});
    let spec = json!({"volumes": [
        {"name": "scratch", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory"}}, {"name": "host", "hostPath": {"path": host, "type": "Directory"}},
        {"name": "conf", "configMap": {"name": "conf"}}, {"name": "pass", "secret": {"secretName": "pass", "defaultMode": 0o400}}]});
    space.apply(&pod("box", container, spec).to_string());
    space.ready("box");
    let all = space.sh("box", "cat /conf/key /conf/other /pass/word /one-file /host/note; stat -Lc %a /pass/word; grep ' /memory ' /proc/mounts | cut -d' ' -f3").good();
    assert_eq!(all, "onetwoxyzzyonefrom the host\n400\ntmpfs\n");
    assert!(space.sh("box", "touch /host/x").bad().contains("Read-only file system"));
    // A part of a volume is made where it is missing, and is the same place.
    let same = "echo one > /part/x; echo two > /memory-part/x; cat /scratch/some/part/x /memory/a/b/x";
    assert_eq!(space.sh("box", same).good(), "one\ntwo\n");
    space.sh("box", "echo kept > /scratch/file").good();
    // The scratch volume lives as long as the pod, not as the container.
    // Whether the shell that kills is itself killed with the namespace before it has ended is a race.
    let killed = space.sh("box", "kill -TERM 1");
    assert!(killed.ok || killed.code == Some(137), "{killed:?}");
    // A changed ConfigMap arrives without a restart.
    space.kubectl(&["patch", "configmap", "conf", "--type=merge", "-p", r#"{"data":{"key":"new"}}"#]).good();
    until("the new value", || {
        let said = space.sh("box", "cat /conf/key; cat /scratch/file");
        (said.ok && said.out == "newkept\n").then_some(())
    });
    // A volume instead of the usual /dev, with what belongs in there all the same.
    for (name, volume, there) in [
        ("dev-host", json!({"name": "dev", "hostPath": {"path": "/dev"}}), "fd full null shm stdin zero"),
        ("dev-empty", json!({"name": "dev", "emptyDir": {}}), "shm termination-log"),
    ] {
        let container = json!({"volumeMounts": [{"name": "dev", "mountPath": "/dev"}]});
        space.apply(&pod(name, container, json!({"volumes": [volume]})).to_string());
        space.ready(name);
        let all = space.sh(name, "ls /dev").good();
        let found: Vec<&str> = all.lines().collect();
        assert!(there.split(' ').all(|device| found.contains(&device)), "{name}: {all}");
        assert!(found.len() == 2 || name == "dev-host", "{name}: {all}");
        space.sh(name, "touch /dev/shm/x; grep -q ' /dev/shm tmpfs' /proc/mounts").good();
    }
    let token = space.sh("box", "cat /var/run/secrets/kubernetes.io/serviceaccount/namespace; test -s /var/run/secrets/kubernetes.io/serviceaccount/token && echo; ls /var/run/secrets/kubernetes.io/serviceaccount").good();
    assert_eq!(token, "volumes\nca.crt\nnamespace\ntoken\n");
}

fn environment(cluster: &Cluster) {
    let space = cluster.space("env");
    space.kubectl(&["create", "configmap", "conf", "--from-literal=KEY=one"]).good();
    space.kubectl(&["create", "secret", "generic", "pass", "--from-literal=word=xyzzy"]).good();
    let container = json!({"envFrom": [{"configMapRef": {"name": "conf"}}], "resources": {"limits": {"memory": "64Mi"}}, "env": [
        {"name": "PLAIN", "value": "a"}, {"name": "BOTH", "value": "$(PLAIN)-$(KEY)-$$(KEY)"},
        {"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "pass", "key": "word"}}},
        {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}}]});
    space.apply(&pod("box", container, json!({"nodeName": "node-1"})).to_string());
    space.ready("box");
    let said = space
        .sh("box", "echo $BOTH $WORD $POD $NODE $MEM; echo $KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT; hostname")
        .good();
    assert_eq!(said, "a-one-$(KEY) xyzzy box node-1 67108864\n10.96.0.1:443\nbox\n");
}

fn inspect(space: &Space, pod: &str) -> Value {
    serde_json::from_str(&space.kubectl(&["exec", pod, "--", "coracle", "guest", "inspect"]).good()).unwrap()
}

fn security(cluster: &Cluster) {
    let space = cluster.space("security");
    space.pod("plain", json!({}));
    let plain = space.sh("plain", "grep -E 'Seccomp:|NoNewPrivs|CapEff' /proc/1/status").good();
    assert!(plain.contains("Seccomp:\t2") && plain.contains("CapEff:\t00000000a80425fb"), "{plain}");
    assert!(inspect(&space, "plain").is_object());
    let locked = json!({"securityContext": {"runAsUser": 1000, "runAsGroup": 3000, "runAsNonRoot": true, "readOnlyRootFilesystem": true,
        "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}});
    space.apply(&pod("locked", locked, json!({"securityContext": {"fsGroup": 2000}})).to_string());
    space.ready("locked");
    let said =
        space.sh("locked", "id -u; id -g; id -G; touch /x 2>&1; grep -E 'NoNewPrivs|CapEff' /proc/self/status").good();
    assert!(said.starts_with("1000\n3000\n3000 2000\n"), "{said}");
    assert!(
        said.contains("Read-only file system")
            && said.contains("NoNewPrivs:\t1")
            && said.contains("CapEff:\t0000000000000000"),
        "{said}"
    );
    let masked = space
        .sh(
            "plain",
            "cat /proc/kcore | head -c1 | wc -c; ls /proc/acpi 2>/dev/null | wc -l; echo x > /proc/sys/kernel/hostname",
        )
        .bad();
    assert!(masked.contains("Read-only file system"), "{masked}");
    let added = json!({"securityContext": {"capabilities": {"add": ["NET_ADMIN"], "drop": ["CHOWN"]}}});
    space.apply(&pod("caps", added, json!({})).to_string());
    space.ready("caps");
    let caps = space.sh("caps", "grep CapEff /proc/self/status").good();
    assert!(caps.contains("00000000a80435fa"), "{caps}");
    // Making a node for the host's disk is allowed, as everywhere; looking into it is not.
    let disk = space.sh("caps", "mknod /tmp/disk b 254 0 && head -c1 /tmp/disk").bad();
    assert!(disk.contains("Operation not permitted"), "{disk}");
    // A network shared with the node is no way to the file systems below the host's /sys.
    space.apply(&pod("net", json!({}), json!({"hostNetwork": true})).to_string());
    space.ready("net");
    let sys =
        space.sh("net", "grep ' /sys/[km]' /proc/mounts; ls /sys/class/net | wc -l; grep -c : /proc/net/dev").good();
    let counts: Vec<&str> = sys.lines().collect();
    assert!(counts.len() == 2 && counts[0] == counts[1], "{sys}");
    assert!(space.sh("net", "ls /sys/fs/cgroup").good().lines().count() > 1);
    // An image whose user is root is refused where runAsNonRoot is asked for.
    space.apply(&pod("rooted", json!({"securityContext": {"runAsNonRoot": true}}), json!({})).to_string());
    space.wait_value("pod/rooted", "{.status.containerStatuses[0].state.waiting.reason}", "CreateContainerConfigError");
}

fn limits(cluster: &Cluster) {
    let space = cluster.space("limits");
    let container = json!({"resources": {"requests": {"cpu": "100m", "memory": "16Mi"}, "limits": {"cpu": "500m", "memory": "64Mi"}}});
    space.apply(&pod("box", container, json!({"nodeName": "node-1"})).to_string());
    space.ready("box");
    assert_eq!(space.value("pod/box", "{.status.qosClass}"), "Burstable");
    let uid = space.value("pod/box", "{.metadata.uid}");
    let tree = format!("coracle/{}/node-1/kubepods/burstable/pod{uid}/main", cluster.name);
    let read = |v1: &str, v2: &str| {
        let paths = [
            format!("/sys/fs/cgroup/{}", v1.replace("@", &tree)),
            format!("/sys/fs/cgroup/{}", v2.replace("@", &tree)),
            format!("/sys/fs/cgroup/system.slice/coracle-{}.scope/{}", cluster.name, v2.replace("@", &tree)),
        ];
        let found = paths.iter().find_map(|p| std::fs::read_to_string(p).ok());
        found.unwrap_or_else(|| panic!("none of {paths:?}")).trim().to_string()
    };
    assert_eq!(read("memory/@/memory.limit_in_bytes", "@/memory.max"), "67108864");
    let quota = read("cpu/@/cpu.cfs_quota_us", "@/cpu.max");
    assert!(quota == "50000" || quota == "50000 100000", "{quota}");
}

fn init(cluster: &Cluster) {
    let space = cluster.space("init");
    let mut manifest = pod(
        "box",
        json!({"command": ["sh", "-c", "cat /work/*; coracle guest sleep"], "volumeMounts": [{"name": "w", "mountPath": "/work"}]}),
        json!({"volumes": [{"name": "w", "emptyDir": {}}]}),
    );
    let step = |name: &str, line: &str| json!({"name": name, "image": "busybox:1", "command": ["sh", "-c", line], "volumeMounts": [{"name": "w", "mountPath": "/work"}]});
    manifest["spec"]["initContainers"] =
        json!([step("first", "echo 1 > /work/a"), step("second", "cat /work/a > /work/b; echo 2 >> /work/b")]);
    space.apply(&manifest.to_string());
    space.ready("box");
    until("the output", || (space.kubectl(&["logs", "box"]).good() == "1\n1\n2\n").then_some(()));
    let mut failing = pod("failing", json!({}), json!({"restartPolicy": "Never"}));
    failing["spec"]["initContainers"] = json!([{"name": "no", "image": "busybox:1", "command": ["false"]}]);
    space.apply(&failing.to_string());
    space.wait_value("pod/failing", "{.status.phase}", "Failed");
    assert!(space.kubectl(&["get", "pod", "failing"]).good().contains("Init:Error"));
}

fn graceful(cluster: &Cluster) {
    let space = cluster.space("graceful");
    let host = cluster.data.join("graceful");
    std::fs::create_dir_all(&host).unwrap();
    let line = "trap 'echo term >> /host/log; exit 0' TERM; while :; do coracle guest sleep 1; done";
    let container = json!({"command": ["sh", "-c", line], "volumeMounts": [{"name": "h", "mountPath": "/host"}],
        "lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", "echo prestop >> /host/log"]}}}});
    let spec = json!({"terminationGracePeriodSeconds": 20, "volumes": [{"name": "h", "hostPath": {"path": host}}]});
    space.apply(&pod("polite", container, spec).to_string());
    space.ready("polite");
    space.kubectl(&["delete", "pod", "polite", &timeout()]).good();
    assert_eq!(std::fs::read_to_string(host.join("log")).unwrap(), "prestop\nterm\n");
    // One that ignores SIGTERM is killed when its grace is over.
    space.apply(&shell(
        "rude",
        "trap '' TERM; while :; do coracle guest sleep 1; done",
        json!({"terminationGracePeriodSeconds": 1}),
    ));
    space.ready("rude");
    space.kubectl(&["delete", "pod", "rude", &timeout()]).good();
}

/// A postStart hook that fails ends its container as politely as a deletion; one that is answered has not failed. And what
/// the node mounts lies within what the manifest mounts.
fn hooks(cluster: &Cluster) {
    let space = cluster.space("hooks");
    let line = "trap 'echo bye > /tmp/last; exit 0' TERM; touch /tmp/up; while :; do coracle guest sleep 1; done";
    let hook = ["sh", "-c", "while [ ! -e /tmp/up ]; do :; done; exit 1"];
    let container = json!({"command": ["sh", "-c", line], "terminationMessagePath": "/tmp/last",
        "volumeMounts": [{"name": "t", "mountPath": "/tmp"}], "lifecycle": {"postStart": {"exec": {"command": hook}}}});
    let spec = json!({"restartPolicy": "Never", "volumes": [{"name": "t", "emptyDir": {}}]});
    space.apply(&pod("touchy", container, spec).to_string());
    space.wait_value("pod/touchy", "{.status.phase}", "Succeeded");
    let ended = "{.status.containerStatuses[0].state.terminated";
    assert_eq!(space.value("pod/touchy", &format!("{ended}.message}}")), "bye\n");
    assert_eq!(space.value("pod/touchy", &format!("{ended}.exitCode}}")), "0");
    until("the events", || {
        let events = space.kubectl(&["events", "--for=pod/touchy"]).good();
        ["FailedPostStartHook", "Killing"].iter().all(|reason| events.contains(reason)).then_some(())
    });
    let probe = json!({"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1});
    space.pod("server", json!({"image": "hello:1", "command": null, "readinessProbe": probe}));
    let get = json!({"host": space.value("pod/server", "{.status.podIP}"), "port": 8080, "path": "/no-such-page"});
    let container = json!({"lifecycle": {"postStart": {"httpGet": get}}});
    space.pod("answered", container);
    assert_eq!(space.value("pod/answered", "{.status.containerStatuses[0].restartCount}"), "0");
}

fn waiting(cluster: &Cluster) {
    let space = cluster.space("waiting");
    space.apply(&pod("image", json!({"image": "nowhere.example/none:1"}), json!({})).to_string());
    until("the image error", || {
        let reason = space.value("pod/image", "{.status.containerStatuses[0].state.waiting.reason}");
        matches!(reason.as_str(), "ErrImagePull" | "ImagePullBackOff").then_some(())
    });
    space.apply(
        &pod(
            "config",
            json!({"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "later", "key": "a"}}}]}),
            json!({}),
        )
        .to_string(),
    );
    space.wait_value("pod/config", "{.status.containerStatuses[0].state.waiting.reason}", "CreateContainerConfigError");
    let message = space.value("pod/config", "{.status.containerStatuses[0].state.waiting.message}");
    assert_eq!(message, "configmap \"later\" not found");
    space.kubectl(&["create", "configmap", "later", "--from-literal=a=b"]).good();
    space.ready("config");
}

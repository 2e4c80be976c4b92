//! Deployments: place, answer, scale, roll, undo, pause, heal.

use crate::harness::{Cluster, Space, slowness, timeout, until};
use crate::shared;
use libtest_mimic::Trial;
use std::collections::BTreeSet;

pub fn trials() -> Vec<Trial> {
    vec![
        shared("workload_a_deployment_answers_behind_one_address", answers),
        shared("workload_rolls_without_a_failed_request", rolls),
        shared("workload_undo_pause_and_history", undo),
        shared("workload_a_stuck_rollout_says_so", stuck),
        shared("workload_replica_sets_heal_adopt_and_orphan", heal),
        shared("workload_scheduling_says_why", scheduling),
    ]
}

/// A Deployment of the hello image and its Service.
pub fn hello(name: &str, replicas: u32, version: &str) -> String {
    // Until every node has heard that it goes.
    let drain = (3000.0 * slowness()).min(15_000.0) as u64;
    let grace = 5 + drain / 1000;
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  strategy: {{rollingUpdate: {{maxSurge: 1, maxUnavailable: 0}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: {grace}
      containers:
      - name: hello
        image: hello:1
        args: [serve, --version, {version}, --drain-ms, \"{drain}\"]
        ports: [{{containerPort: 8080, name: http}}]
        readinessProbe: {{httpGet: {{path: /healthz, port: http}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  selector: {{app: {name}}}
  ports: [{{port: 80, targetPort: http}}]
"
    )
}

fn rollout(space: &Space, name: &str) {
    space.kubectl(&["rollout", "status", &format!("deployment/{name}"), &timeout()]).good();
}

/// Deployment and Service are there and a client pod too.
fn deploy(space: &Space, name: &str, replicas: u32) {
    space.apply(&hello(name, replicas, "v1"));
    space.pod("client", serde_json::json!({}));
    rollout(space, name);
}

fn fetch(space: &Space, url: &str) -> Option<String> {
    let said = space.kubectl(&["exec", "client", "--", "coracle", "guest", "fetch", url]);
    said.ok.then(|| said.out.trim().to_string())
}

fn answers(cluster: &Cluster) {
    let space = cluster.space("answers");
    deploy(&space, "web", 3);
    let nodes: BTreeSet<String> = space
        .value("pods", "{range .items[?(@.metadata.labels.app=='web')]}{.spec.nodeName} {end}")
        .split_whitespace()
        .map(str::to_string)
        .collect();
    assert_eq!(nodes.len(), 3, "spread over the nodes");
    let mut seen = BTreeSet::new();
    until("every pod to answer behind the service", || {
        seen.extend(fetch(&space, "http://web/"));
        (seen.len() == 3).then_some(())
    });
    assert!(seen.iter().all(|answer| answer.ends_with("v1") && answer.starts_with("web-")), "{seen:?}");
    space.kubectl(&["scale", "deployment/web", "--replicas=1"]).good();
    space.wait_value("deployment/web", "{.status.replicas}", "1");
    let table = space.kubectl(&["get", "deployment", "web"]).good();
    assert!(table.lines().nth(1).unwrap().split_whitespace().take(4).eq(["web", "1/1", "1", "1"]), "{table}");
    let described = space.kubectl(&["describe", "deployment", "web"]).good();
    assert!(
        described.contains("ScalingReplicaSet") && described.contains("1 desired | 1 updated | 1 total | 1 available"),
        "{described}"
    );
}

fn rolls(cluster: &Cluster) {
    let space = cluster.space("rolls");
    deploy(&space, "web", 3);
    let requests = "i=0; bad=0; while [ ! -e /tmp/stop ]; do coracle guest fetch http://web/ >/dev/null 2>>/tmp/errors || bad=$((bad+1)); i=$((i+1)); echo $i >/tmp/count; done; echo $i $bad > /tmp/result";
    until("the service to answer", || fetch(&space, "http://web/"));
    space.sh("client", &format!("({requests}) >/dev/null 2>&1 &")).good();
    space.apply(&hello("web", 3, "v2"));
    rollout(&space, "web");
    until("only v2 to answer", || {
        let answers: Vec<String> = (0..6).filter_map(|_| fetch(&space, "http://web/")).collect();
        (answers.len() == 6 && answers.iter().all(|a| a.ends_with("v2"))).then_some(())
    });
    until("some requests", || {
        (space.sh("client", "cat /tmp/count").out.trim().parse::<u32>().ok()? > 20).then_some(())
    });
    space.sh("client", "touch /tmp/stop").good();
    let result = until("the load to end", || {
        let said = space.sh("client", "cat /tmp/result");
        said.ok.then_some(said.out)
    });
    let errors = space.sh("client", "cat /tmp/errors").out;
    let numbers: Vec<u32> = result.split_whitespace().map(|n| n.parse().unwrap()).collect();
    assert_eq!(numbers[1], 0, "of {} requests {} failed: {errors}", numbers[0], numbers[1]);
}

fn undo(cluster: &Cluster) {
    let space = cluster.space("undo");
    space.apply(&hello("web", 2, "v1"));
    rollout(&space, "web");
    space.apply(&hello("web", 2, "v2"));
    rollout(&space, "web");
    let history = space.kubectl(&["rollout", "history", "deployment/web"]).good();
    assert_eq!(history.lines().filter(|l| l.starts_with(['1', '2'])).count(), 2, "{history}");
    space.kubectl(&["rollout", "undo", "deployment/web"]).good();
    rollout(&space, "web");
    assert_eq!(space.value("deployment/web", "{.spec.template.spec.containers[0].args[2]}"), "v1");
    assert_eq!(space.value("deployment/web", "{.metadata.annotations.deployment\\.kubernetes\\.io/revision}"), "3");
    space.kubectl(&["rollout", "pause", "deployment/web"]).good();
    space.kubectl(&["set", "env", "deployment/web", "A=b"]).good();
    let updated = space.value("deployment/web", "{.spec.paused} {.status.updatedReplicas}");
    assert!(updated.starts_with("true"), "{updated}");
    space.wait_value("deployment/web", "{.status.conditions[?(@.type=='Progressing')].reason}", "DeploymentPaused");
    assert_eq!(space.value("rs", "{range .items[*]}x{end}"), "xx", "a paused rollout makes no new ReplicaSet");
    space.kubectl(&["rollout", "resume", "deployment/web"]).good();
    rollout(&space, "web");
    assert_eq!(space.value("rs", "{range .items[*]}x{end}"), "xxx");
    space.kubectl(&["rollout", "restart", "deployment/web"]).good();
    rollout(&space, "web");
}

fn stuck(cluster: &Cluster) {
    let space = cluster.space("stuck");
    space.apply(&hello("web", 2, "v1"));
    rollout(&space, "web");
    let patch = r#"{"spec":{"progressDeadlineSeconds":2,"template":{"spec":{"containers":[{"name":"hello","image":"nowhere.example/none:1"}]}}}}"#;
    space.kubectl(&["patch", "deployment", "web", "-p", patch]).good();
    space.wait_value(
        "deployment/web",
        "{.status.conditions[?(@.type=='Progressing')].reason}",
        "ProgressDeadlineExceeded",
    );
    let status = space.kubectl(&["rollout", "status", "deployment/web", &timeout()]).bad();
    assert!(status.contains("exceeded its progress deadline"), "{status}");
    assert_eq!(space.value("deployment/web", "{.status.availableReplicas}"), "2", "the old pods go on");
    until("the new pod to say why", || {
        let pods = space.kubectl(&["get", "pods"]).good();
        (pods.contains("ErrImagePull") || pods.contains("ImagePullBackOff")).then_some(())
    });
}

fn heal(cluster: &Cluster) {
    let space = cluster.space("heal");
    space.apply(&hello("web", 2, "v1"));
    rollout(&space, "web");
    let pods = || -> BTreeSet<String> {
        space.value("pods", "{.items[*].metadata.name}").split_whitespace().map(str::to_string).collect()
    };
    let before = pods();
    space.kubectl(&["delete", "pod", before.first().unwrap(), &timeout()]).good();
    until("a replacement", || {
        let now = pods();
        (now.len() == 2 && now != before).then_some(())
    });
    rollout(&space, "web");
    // Orphan, then adopt.
    space.kubectl(&["delete", "deployment", "web", "--cascade=orphan"]).good();
    let orphans = pods();
    assert_eq!(space.value("rs", "{.items[*].metadata.ownerReferences}"), "");
    space.apply(&hello("web", 2, "v1"));
    rollout(&space, "web");
    assert_eq!(pods(), orphans, "the new Deployment adopts what matches");
    space.kubectl(&["delete", "deployment", "web", "--cascade=foreground", &timeout()]).good();
    assert_eq!(space.value("rs,pods", "{.items[*].metadata.name}"), "");
}

fn scheduling(cluster: &Cluster) {
    let space = cluster.space("sched");
    let pending = |name: &str, spec: serde_json::Value, container: serde_json::Value| {
        space.apply(&crate::harness::pod(name, container, spec).to_string());
        space.wait_value(
            &format!("pod/{name}"),
            "{.status.conditions[?(@.type=='PodScheduled')].reason}",
            "Unschedulable",
        );
        space.value(&format!("pod/{name}"), "{.status.conditions[?(@.type=='PodScheduled')].message}")
    };
    let big = pending("big", serde_json::json!({}), serde_json::json!({"resources": {"requests": {"cpu": "1000"}}}));
    assert!(big.starts_with("0/3 nodes are available: 3 Insufficient cpu."), "{big}");
    let picky = pending("picky", serde_json::json!({"nodeSelector": {"disk": "ssd"}}), serde_json::json!({}));
    assert!(
        picky.starts_with("0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector."),
        "{picky}"
    );
    until("the event about it", || {
        space.kubectl(&["events", "--for", "pod/picky"]).good().contains("FailedScheduling").then_some(())
    });
    cluster.kubectl(&["label", "node", "node-2", "disk=ssd"]).good();
    space.ready("picky");
    assert_eq!(space.value("pod/picky", "{.spec.nodeName}"), "node-2");
    cluster.kubectl(&["label", "node", "node-2", "disk-"]).good();
}

//! Rows as `kubectl get` shows them, one line an example.

use super::*;
use serde_json::json;

const NOW: &str = "2026-01-01T01:00:00Z";

/// The cells of one object, joined by ` | `; `+` instead of an object's own metadata.
fn cells(columns: &[Column], mut object: Value) -> String {
    object["metadata"]["name"] = "x".into();
    object["metadata"]["creationTimestamp"] = "2026-01-01T00:57:00Z".into();
    let cells: Vec<Value> = columns.iter().map(|column| (column.cell)(&object, NOW.parse().unwrap())).collect();
    let text = |c: &Value| c.as_str().map_or_else(|| c.to_string(), str::to_string);
    cells.iter().map(text).collect::<Vec<_>>().join(" | ")
}

fn pod(init: Value, containers: Value, phase: &str) -> String {
    let names = |statuses: &Value| -> Value {
        statuses.as_array().unwrap().iter().enumerate().map(|(i, _)| json!({"name": i.to_string()})).collect()
    };
    let object = json!({
        "spec": {"containers": names(&containers), "initContainers": names(&init)},
        "status": {"phase": phase, "containerStatuses": containers, "initContainerStatuses": init},
    });
    cells(POD, object).split(" | ").take(5).collect::<Vec<_>>().join(" | ")
}

#[test]
fn a_pod_sums_up_its_containers() {
    let running = json!({"ready": true, "restartCount": 0, "state": {"running": {}}});
    let waiting = |reason: &str| json!({"ready": false, "restartCount": 0, "state": {"waiting": {"reason": reason}}});
    let ended = |reason: &str, code: i64| json!({"restartCount": 0, "state": {"terminated": {"reason": reason, "exitCode": code}}});
    let crashing = json!({"restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"finishedAt": "2026-01-01T00:59:30Z"}}});
    for (init, containers, phase, row) in [
        (json!([]), json!([running, running]), "Running", "x | 2/2 | Running | 0 | 3m"),
        (json!([]), json!([waiting("ContainerCreating")]), "Pending", "x | 0/1 | ContainerCreating | 0 | 3m"),
        (json!([]), json!([]), "Pending", "x | 0/0 | Pending | 0 | 3m"),
        (json!([]), json!([crashing]), "Running", "x | 0/1 | CrashLoopBackOff | 3 (30s ago) | 3m"),
        (json!([]), json!([ended("Completed", 0)]), "Succeeded", "x | 0/1 | Completed | 0 | 3m"),
        (json!([]), json!([ended("", 3)]), "Failed", "x | 0/1 | ExitCode:3 | 0 | 3m"),
        (json!([]), json!([running, ended("Completed", 0)]), "Running", "x | 1/2 | NotReady | 0 | 3m"),
        (
            json!([waiting("PodInitializing")]),
            json!([waiting("PodInitializing")]),
            "Pending",
            "x | 0/1 | Init:0/1 | 0 | 3m",
        ),
        (json!([ended("Error", 1)]), json!([waiting("PodInitializing")]), "Pending", "x | 0/1 | Init:Error | 0 | 3m"),
    ] {
        assert_eq!(pod(init, containers, phase), row);
    }
}

#[test]
fn a_pod_that_is_being_deleted_is_terminating_until_it_ended() {
    let deleted = |phase: &str| json!({"metadata": {"deletionTimestamp": NOW}, "spec": {}, "status": {"phase": phase}});
    assert!(cells(POD, deleted("Running")).contains("| Terminating |"));
    assert!(cells(POD, deleted("Succeeded")).contains("| Succeeded |"));
}

#[test]
fn services_show_ports_and_addresses() {
    let service = |spec: Value| cells(SERVICE, json!({"spec": spec}));
    assert_eq!(
        service(json!({"type": "NodePort", "clusterIP": "10.96.0.9", "selector": {"b": "2", "a": "1"},
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}, {"port": 53, "protocol": "UDP"}]})),
        "x | NodePort | 10.96.0.9 | <none> | 80:30080/TCP,53/UDP | 3m | a=1,b=2"
    );
    assert_eq!(
        service(json!({"type": "ExternalName", "externalName": "a.b"})),
        "x | ExternalName | <none> | a.b | <none> | 3m | <none>"
    );
}

#[test]
fn long_endpoint_lists_are_cut() {
    let addresses: Vec<Value> = (1..=5).map(|i| json!({"ip": format!("10.0.0.{i}")})).collect();
    let object = json!({"subsets": [{"addresses": addresses, "ports": [{"port": 80}]}]});
    assert_eq!(cells(ENDPOINTS, object), "x | 10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more... | 3m");
    assert_eq!(cells(ENDPOINTS, json!({})), "x | <none> | 3m");
}

#[test]
fn nodes_show_status_and_roles() {
    let node = json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}, "spec": {"unschedulable": true},
        "status": {"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kubeletVersion": "v1"},
            "addresses": [{"type": "InternalIP", "address": "1.2.3.4"}]}});
    let row = cells(NODE, node);
    assert!(row.starts_with("x | Ready,SchedulingDisabled | control-plane | 3m | v1 | 1.2.3.4 | <none> |"), "{row}");
}

#[test]
fn deployments_show_progress_and_template() {
    let object = json!({"spec": {"replicas": 3, "selector": {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "t", "operator": "In", "values": ["y", "x"]}]},
        "template": {"spec": {"containers": [{"name": "c", "image": "i:1"}]}}}, "status": {"readyReplicas": 2, "updatedReplicas": 3}});
    assert_eq!(cells(DEPLOYMENT, object), "x | 2/3 | 3 | 0 | 3m | c | i:1 | a=b,t in (x,y)");
}

#[test]
fn events_take_the_newest_time_there_is() {
    let event = json!({"lastTimestamp": "2026-01-01T00:59:00Z", "firstTimestamp": "2026-01-01T00:50:00Z", "count": 4, "type": "Normal",
        "reason": "Pulled", "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "spec.containers{c}"}, "message": "m\n", "source": {"component": "kubelet", "host": "n"}});
    assert_eq!(
        cells(EVENT, event),
        "60s | Normal | Pulled | pod/p | spec.containers{c} | kubelet, n | m | 10m | 4 | x"
    );
}

//! The network as programs see it: addresses, names, services, node ports.

use crate::harness::{Cluster, pod, until};
use crate::shared;
use crate::workloads::hello;
use libtest_mimic::Trial;
use serde_json::json;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

pub fn trials() -> Vec<Trial> {
    vec![
        shared("network_pods_reach_each_other_without_nat", without_nat),
        shared("network_names_resolve_from_any_pod", names),
        shared("network_node_ports_answer_from_the_host", node_port),
        shared("network_services_without_endpoints_refuse", refuse),
        shared("network_a_pod_reaches_itself_behind_its_service", hairpin),
        shared("network_pods_reach_the_api", api),
    ]
}

fn without_nat(cluster: &Cluster) {
    let space = cluster.space("nonat");
    let serve = |name: &str, node: &str| {
        let container = json!({"command": ["coracle", "guest", "serve"]});
        space.apply(&pod(name, container, json!({"nodeName": node})).to_string());
        space.ready(name);
        space.value(&format!("pod/{name}"), "{.status.podIP}")
    };
    let (there, near) = (serve("far", "node-2"), serve("near", "node-1"));
    space.apply(&pod("client", json!({}), json!({"nodeName": "node-1"})).to_string());
    space.ready("client");
    let me = space.value("pod/client", "{.status.podIP}");
    for address in [there, near] {
        let url = format!("http://{address}:8080/peer");
        let seen = until("the peer's view", || {
            let said = space.sh("client", &format!("coracle guest fetch {url}"));
            said.ok.then_some(said.out)
        });
        assert_eq!(seen.trim(), me, "what {address} sees of the client");
    }
}

fn names(cluster: &Cluster) {
    let space = cluster.space("names");
    space.apply(&hello("web", 2, "v1"));
    let headless = "apiVersion: v1\nkind: Service\nmetadata: {name: each}\nspec: {clusterIP: None, selector: {app: web}, ports: [{port: 8080, name: http}]}\n";
    space.apply(headless);
    space.kubectl(&["rollout", "status", "deployment/web", &crate::harness::timeout()]).good();
    space.pod("client", json!({}));
    let lookup = |name: &str| space.sh("client", &format!("nslookup {name}"));
    let virtual_ip = space.value("svc/web", "{.spec.clusterIP}");
    for name in ["web.names.svc.cluster.local", "kubernetes.default.svc.cluster.local"] {
        assert!(lookup(name).ok, "{name}: {}", lookup(name).out);
    }
    assert!(lookup("web.names.svc.cluster.local").good().contains(&virtual_ip));
    // A pod is Ready a moment before every node's table has it.
    let short = until("the service to answer", || {
        let said = space.sh("client", "coracle guest fetch http://web.names/");
        said.ok.then_some(said.out)
    });
    assert!(short.contains("web-"), "{short}");
    let ips: Vec<String> = space
        .value("pods", "{.items[?(@.metadata.labels.app=='web')].status.podIP}")
        .split_whitespace()
        .map(str::to_string)
        .collect();
    until("every endpoint under the headless name", || {
        let said = lookup("each.names.svc.cluster.local").out;
        ips.iter().all(|ip| said.contains(ip.as_str())).then_some(())
    });
    let pod_name = format!("{}.names.pod.cluster.local", ips[0].replace('.', "-"));
    assert!(lookup(&pod_name).good().contains(&ips[0]));
    assert!(!lookup("nothing.names.svc.cluster.local").ok);
}

/// A GET from this process, in the host's namespace.
fn get(address: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.starts_with("HTTP/1.1 200").then(|| text.lines().last().unwrap_or_default().to_string())
}

fn node_port(cluster: &Cluster) {
    let space = cluster.space("nodeport");
    space.apply(
        &hello("web", 2, "v1")
            .replace("  selector: {app: web}\n  ports", "  type: NodePort\n  selector: {app: web}\n  ports"),
    );
    space.kubectl(&["rollout", "status", "deployment/web", &crate::harness::timeout()]).good();
    let port: u16 = space.value("svc/web", "{.spec.ports[0].nodePort}").parse().unwrap();
    assert!((30000..32768).contains(&port));
    for node in ["node-1", "node-2", "node-3"] {
        let ip = cluster
            .kubectl(&["get", "node", node, "-o", "jsonpath={.status.addresses[?(@.type=='InternalIP')].address}"])
            .good();
        let address: SocketAddr = format!("{ip}:{port}").parse().unwrap();
        let answer = until("an answer on the node port", || get(address));
        assert!(answer.contains("web-"), "{answer}");
    }
}

fn refuse(cluster: &Cluster) {
    let space = cluster.space("refuse");
    space.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: nobody}\nspec: {selector: {app: none}, ports: [{port: 80}]}\n",
    );
    space.pod("client", json!({}));
    until("a refusal", || {
        let said = space.sh("client", "coracle guest fetch http://nobody/");
        (!said.ok && said.err.to_lowercase().contains("refused")).then_some(())
    });
}

fn hairpin(cluster: &Cluster) {
    let space = cluster.space("hairpin");
    space.apply(&pod("self", json!({"command": ["coracle", "guest", "serve"]}), json!({})).to_string());
    space.ready("self");
    space.kubectl(&["expose", "pod", "self", "--name=me", "--port=80", "--target-port=8080"]).good();
    until("its own answer", || space.sh("self", "coracle guest fetch http://me/").ok.then_some(()));
}

fn api(cluster: &Cluster) {
    let space = cluster.space("api-from-pod");
    space.pod("box", json!({}));
    let line = "T=/var/run/secrets/kubernetes.io/serviceaccount; nc -w 20 $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT </dev/null && test -s $T/ca.crt && echo reached";
    assert!(space.sh("box", line).good().contains("reached"));
}

//! The room against the real kernel. Every test has a "host" of its own: a fresh network namespace in which all threads
//! of the test's runtime live, so that nothing touches the machine's network.
use super::*;
use crate::net::{netns::inside, socket::Netlink};
use nix::sched::{CloneFlags, setns, unshare};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

const SECOND: Duration = Duration::from_secs(1);

/// How much slower this machine is than the one the limits below are written for.
fn slowness() -> f64 {
    let factor = std::env::var("CORACLE_TEST_SLOWNESS").ok();
    let factor = factor.and_then(|f| f.parse::<f64>().ok());
    factor.unwrap_or(1.0).max(1.0)
}

struct Lab {
    cluster: Cluster,
    runtime: tokio::runtime::Runtime,
}

/// A pod's namespace, held by its file.
struct Pod {
    uid: String,
    ip: Ipv4Addr,
    file: File,
}

impl Lab {
    fn new(name: &str) -> Lab {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        lo_up();
        let host = Arc::new(File::open("/proc/thread-self/ns/net").unwrap());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .on_thread_start(move || setns(&*host, CloneFlags::CLONE_NEWNET).unwrap())
            .build()
            .unwrap();
        let cluster = Cluster {
            name: format!("t{name}{}", std::process::id()),
            underlay: "172.30.0.0/24".parse().unwrap(),
            pod_cidr: "10.244.0.0/16".parse().unwrap(),
            service_cidr: "10.96.0.0/16".parse().unwrap(),
            mtu: 1500,
        };
        Lab { cluster, runtime }
    }

    fn nodes(&self, count: u32) -> Vec<NodeHandle> {
        self.runtime.block_on(async {
            ensure_host(&self.cluster).await.unwrap();
            let mut handles = vec![];
            for k in 1..=count {
                let net = self.cluster.node(&format!("n{k}"), k).unwrap();
                handles.push(node(&self.cluster, &net).await.unwrap());
            }
            let all: Vec<_> = handles.iter().map(|h| h.net().clone()).collect();
            for h in &handles {
                h.sync_peers(&all).await.unwrap();
            }
            handles
        })
    }

    fn pod(&self, node: &NodeHandle, host_part: u8) -> Pod {
        let mut octets = node.net().pod_cidr.network().octets();
        octets[3] = host_part;
        let ip = Ipv4Addr::from(octets);
        let file = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        })
        .join()
        .unwrap();
        let pod = Pod { uid: format!("uid-{ip}"), ip, file };
        self.runtime.block_on(node.attach(&pod.uid, &pod.netns(), ip)).unwrap();
        pod
    }

    fn sync(&self, node: &NodeHandle, services: &Services) -> usize {
        self.runtime.block_on(node.sync_services(services)).unwrap()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let result = self.runtime.block_on(teardown(&self.cluster));
        if !std::thread::panicking() {
            result.unwrap();
            let left: Vec<_> = std::fs::read_dir(netns::dir())
                .map(|d| d.filter_map(|e| e.ok()).map(|e| e.file_name().into_string().unwrap()).collect())
                .unwrap_or_default();
            assert!(!left.iter().any(|n| n.starts_with(&self.cluster.netns_prefix())), "{left:?}");
            let links = kernel::aliases(&mut Netlink::open(0).unwrap()).unwrap();
            assert_eq!(links.len(), 1, "only lo is left: {links:?}");
        }
    }
}

impl Pod {
    fn netns(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }

    /// A server that answers every connection with its name and the client's address until the namespace goes.
    fn serve(&self, port: u16) {
        serve(&self.netns(), port, self.ip.to_string());
    }

    fn ask(&self, to: &str) -> std::io::Result<String> {
        ask(&self.netns(), to)
    }
}

fn serve(netns: &Path, port: u16, name: String) {
    let listener = inside(netns, || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap()).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let from = stream.peer_addr().unwrap().ip();
            stream.write_all(format!("{name} sees {from}").as_bytes()).unwrap();
        }
    });
}

fn ask(netns: &Path, to: &str) -> std::io::Result<String> {
    let to: SocketAddr = to.parse().unwrap();
    let mut stream = inside(netns, || TcpStream::connect_timeout(&to, 2 * SECOND)).unwrap()?;
    stream.set_read_timeout(Some(2 * SECOND))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn lo_up() {
    let step = view::Step::SetLink(view::LinkChange { up: Some(true), ..view::LinkChange::of("lo") });
    kernel::perform(&mut Netlink::open(0).unwrap(), &mut BTreeMap::new(), &[step], None).unwrap();
}

fn service(name: &str, address: &str, node_port: Option<u16>, endpoints: &[(Ipv4Addr, u16)]) -> ServicePort {
    let (ip, port) = address.split_once(':').unwrap();
    ServicePort {
        name: name.into(),
        protocol: Protocol::Tcp,
        addresses: [ip.parse().unwrap()].into(),
        port: port.parse().unwrap(),
        node_port,
        endpoints: endpoints.iter().map(|(ip, port)| Endpoint { ip: *ip, port: *port }).collect(),
        external: None,
        affinity: None,
    }
}

#[test]
fn pods_reach_pods_with_their_own_address() {
    let lab = Lab::new("p");
    let start = Instant::now();
    let nodes = lab.nodes(3);
    println!("host and three nodes: {:?}", start.elapsed());
    let start = Instant::now();
    let (a, b, c) = (lab.pod(&nodes[0], 2), lab.pod(&nodes[0], 3), lab.pod(&nodes[1], 2));
    println!("a pod: {:?}", start.elapsed() / 3);
    for pod in [&a, &b, &c] {
        pod.serve(80);
    }
    assert_eq!(a.ask("10.244.1.3:80").unwrap(), "10.244.1.3 sees 10.244.1.2", "same node");
    assert_eq!(a.ask("10.244.2.2:80").unwrap(), "10.244.2.2 sees 10.244.1.2", "other node");
    assert_eq!(c.ask("10.244.1.2:80").unwrap(), "10.244.1.2 sees 10.244.2.2", "and back");
    assert_eq!(ask(&nodes[0].netns_path(), "10.244.1.2:80").unwrap(), "10.244.1.2 sees 10.244.1.1", "from the node");
    assert_eq!(
        ask(&nodes[2].netns_path(), "10.244.1.2:80").unwrap(),
        "10.244.1.2 sees 10.244.3.0",
        "from another node"
    );
    lab.runtime.block_on(async {
        let to = "10.244.2.2:80".parse().unwrap();
        nodes[0].connect(to).await.unwrap();
    });
}

#[test]
fn a_second_plan_is_empty_and_a_node_can_be_adopted() {
    let lab = Lab::new("s");
    let nodes = lab.nodes(2);
    let all: Vec<_> = nodes.iter().map(|h| h.net().clone()).collect();
    let pod = lab.pod(&nodes[0], 2);
    pod.serve(80);
    lab.runtime.block_on(async {
        ensure_host(&lab.cluster).await.unwrap();
        assert_eq!(nodes[0].sync_peers(&all).await.unwrap(), 0);
        // As after a restart of the daemon: a new handle on what is there.
        let again = node(&lab.cluster, &all[0]).await.unwrap();
        assert_eq!(again.sync_peers(&all).await.unwrap(), 0, "peers survived the adoption");
        again.attach(&pod.uid, &pod.netns(), pod.ip).await.unwrap();
        let links = again.attached().await.unwrap();
        assert_eq!(links.iter().map(|l| l.pod_uid.as_str()).collect::<Vec<_>>(), [pod.uid.as_str()]);
        assert_eq!(again.sync_peers(&all[..1]).await.unwrap(), 3, "a peer is three entries");
        again.sync_peers(&all).await.unwrap();
        again.detach(&pod.uid).await.unwrap();
        again.detach(&pod.uid).await.unwrap();
        assert!(again.attached().await.unwrap().is_empty());
        again.attach(&pod.uid, &pod.netns(), pod.ip).await.unwrap();
    });
    assert_eq!(ask(&nodes[1].netns_path(), "10.244.1.2:80").unwrap(), "10.244.1.2 sees 10.244.2.0", "re-attached");
}

#[test]
fn two_clusters_side_by_side() {
    let mut lab = Lab::new("a");
    lab.nodes(1);
    let mut other = lab.cluster.clone();
    other.name = format!("{}-b", lab.cluster.name);
    other.underlay = "172.30.1.0/24".parse().unwrap();
    lab.runtime.block_on(async {
        ensure_host(&other).await.unwrap();
        let n = node(&other, &other.node("n1", 1).unwrap()).await.unwrap();
        n.sync_services(&Services::default()).await.unwrap();
        teardown(&lab.cluster).await.unwrap();
        assert_eq!(n.sync_peers(&[]).await.unwrap(), 0, "untouched");
        assert_eq!(n.sync_services(&Services::default()).await.unwrap(), 0, "untouched");
        assert!(netns::is_namespace(&n.netns_path()));
        n.set_uplink(false).await.unwrap();
        n.set_uplink(true).await.unwrap();
        n.remove().await.unwrap();
        assert!(!n.netns_path().exists());
        assert!(n.sync_peers(&[]).await.is_err(), "is gone");
    });
    lab.cluster = other;
}

#[test]
fn services_from_pods_nodes_and_outside() {
    let lab = Lab::new("v");
    let nodes = lab.nodes(2);
    let (a, b, c) = (lab.pod(&nodes[0], 2), lab.pod(&nodes[1], 2), lab.pod(&nodes[1], 3));
    for pod in [&a, &b, &c] {
        pod.serve(8080);
    }
    let host = Path::new("/proc/thread-self/ns/net");
    let host_file = File::open(host).unwrap();
    let host: PathBuf = format!("/proc/self/fd/{}", host_file.as_raw_fd()).into();
    serve(&host, 6443, "api".into());
    let web = service("d/web:http", "10.96.0.20:80", Some(30080), &[(b.ip, 8080), (c.ip, 8080)]);
    let own = service("d/own:http", "10.96.0.21:80", None, &[(a.ip, 8080)]);
    let none = service("d/none:http", "10.96.0.22:80", Some(30081), &[]);
    let api = service("default/kubernetes:https", "10.96.0.1:443", None, &[(lab.cluster.gateway(), 6443)]);
    let mut local = service("d/local:http", "10.96.0.23:80", Some(30082), &[(a.ip, 8080), (b.ip, 8080)]);
    local.external = Some([Endpoint { ip: a.ip, port: 8080 }].into());
    let mut away = service("d/away:http", "10.96.0.24:80", Some(30083), &[(b.ip, 8080)]);
    away.external = Some([].into());
    let services = Services { ports: vec![web, own, none, api, local, away] };
    for n in &nodes {
        let start = Instant::now();
        assert!(lab.sync(n, &services) > 0);
        println!("six services: {:?}", start.elapsed());
        assert_eq!(lab.sync(n, &services), 0, "a second plan is empty");
    }
    println!("{}", lab.runtime.block_on(nodes[0].ruleset()).unwrap());

    let answers: Vec<_> = (0..4).map(|_| a.ask("10.96.0.20:80").unwrap()).collect();
    assert_eq!(answers[..2], answers[2..], "endpoints take turns");
    assert!(answers.contains(&"10.244.2.2 sees 10.244.1.2".to_string()), "the source is the pod's: {answers:?}");
    assert!(answers.contains(&"10.244.2.3 sees 10.244.1.2".to_string()));
    assert_eq!(a.ask("10.96.0.21:80").unwrap(), "10.244.1.2 sees 10.244.1.1", "hairpin");
    assert_eq!(b.ask("10.96.0.21:80").unwrap(), "10.244.1.2 sees 10.244.2.2");
    assert!(ask(&nodes[0].netns_path(), "10.96.0.20:80").unwrap().starts_with("10.244.2."), "from a node");
    assert_eq!(a.ask("10.96.0.1:443").unwrap(), "api sees 172.30.0.11", "the API outside the pod network");
    for node in ["172.30.0.11:30080", "172.30.0.12:30080"] {
        assert!(ask(&host, node).unwrap().starts_with("10.244.2."), "node port of {node}");
    }
    assert!(a.ask("172.30.0.12:30080").unwrap().starts_with("10.244.2."), "node port from a pod");
    assert_eq!(ask(&host, "172.30.0.11:30082").unwrap(), "10.244.1.2 sees 172.30.0.1", "local policy keeps the source");
    assert_eq!(a.ask("172.30.0.11:30083").unwrap(), "10.244.2.2 sees 10.244.1.2", "a pod, where no endpoint is");
    assert!(ask(&nodes[0].netns_path(), "172.30.0.11:30083").unwrap().starts_with("10.244.2.2 "), "and the node");
    for (who, netns) in [("pod", a.netns()), ("node", nodes[0].netns_path())] {
        for address in ["10.96.0.22:80", "10.96.9.9:80", "172.30.0.11:30081"] {
            let refused = ask(&netns, address).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{address} from a {who}");
        }
    }
    assert_eq!(ask(&host, "172.30.0.11:30081").unwrap_err().kind(), ErrorKind::ConnectionRefused);

    // As after a restart: read back from the kernel instead of from memory.
    let again = lab.runtime.block_on(node(&lab.cluster, nodes[0].net())).unwrap();
    assert_eq!(lab.sync(&again, &services), 0, "what is read is what was written");
    let mut fewer = services.clone();
    fewer.ports[0].endpoints.pop_last();
    fewer.ports.remove(2);
    assert!(lab.sync(&again, &fewer) > 0);
    assert_eq!(lab.sync(&nodes[0], &fewer), 0, "the other handle sees the new generation");
    assert_eq!(a.ask("10.96.0.20:80").unwrap(), a.ask("10.96.0.20:80").unwrap());
}

#[test]
fn session_affinity_stays_until_the_endpoint_goes() {
    let lab = Lab::new("f");
    let nodes = lab.nodes(1);
    let (a, b, c) = (lab.pod(&nodes[0], 2), lab.pod(&nodes[0], 3), lab.pod(&nodes[0], 4));
    b.serve(80);
    c.serve(80);
    let mut sticky = service("d/sticky:http", "10.96.0.30:80", None, &[(b.ip, 80), (c.ip, 80)]);
    sticky.affinity = Some(10_800);
    let mut services = Services { ports: vec![sticky] };
    lab.sync(&nodes[0], &services);
    let first = a.ask("10.96.0.30:80").unwrap();
    for _ in 0..3 {
        assert_eq!(a.ask("10.96.0.30:80").unwrap(), first);
    }
    assert_eq!(lab.sync(&nodes[0], &services), 0, "what packets wrote is left alone");
    let gone = if first.starts_with("10.244.1.3") { b.ip } else { c.ip };
    services.ports[0].endpoints.retain(|e| e.ip != gone);
    lab.sync(&nodes[0], &services);
    assert!(!a.ask("10.96.0.30:80").unwrap().starts_with(&gone.to_string()));
}

#[test]
fn a_change_under_load_loses_no_connection() {
    let lab = Lab::new("l");
    let nodes = lab.nodes(2);
    let client = lab.pod(&nodes[0], 2);
    let servers: Vec<_> = (2..6).map(|k| lab.pod(&nodes[1], k)).collect();
    servers.iter().for_each(|p| p.serve(80));
    let with = |n: usize| Services {
        ports: vec![service(
            "d/web:http",
            "10.96.0.20:80",
            None,
            &servers[..n].iter().map(|p| (p.ip, 80)).collect::<Vec<_>>(),
        )],
    };
    lab.sync(&nodes[0], &with(2));
    let (stop, asked) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    client.ask("10.96.0.20:80").unwrap();
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let (mut changes, start) = (0, Instant::now());
        while asked.load(Ordering::Relaxed) < 1000 && start.elapsed() < 20 * SECOND {
            lab.sync(&nodes[0], &with(1 + changes % 4));
            changes += 1;
        }
        stop.store(true, Ordering::Relaxed);
        println!("{changes} changes, {} connections in {:?}", asked.load(Ordering::Relaxed), start.elapsed());
    });
    assert!(asked.load(Ordering::Relaxed) >= 100);
}

#[test]
fn udp_flows_leave_a_removed_endpoint() {
    let lab = Lab::new("u");
    let nodes = lab.nodes(1);
    let (a, b, c) = (lab.pod(&nodes[0], 2), lab.pod(&nodes[0], 3), lab.pod(&nodes[0], 4));
    for p in [&b, &c] {
        let (ip, socket) = (p.ip.to_string(), inside(&p.netns(), || UdpSocket::bind("0.0.0.0:53").unwrap()).unwrap());
        std::thread::spawn(move || {
            while let Ok((_, from)) = socket.recv_from(&mut [0; 16]) {
                socket.send_to(ip.as_bytes(), from).unwrap();
            }
        });
    }
    let dns = |ip| {
        let mut port = service("kube-system/kube-dns:dns", "10.96.0.10:53", None, &[(ip, 53)]);
        port.protocol = Protocol::Udp;
        Services { ports: vec![port] }
    };
    let socket = inside(&a.netns(), || UdpSocket::bind("0.0.0.0:5000").unwrap()).unwrap();
    socket.connect("10.96.0.10:53").unwrap();
    socket.set_read_timeout(Some(2 * SECOND)).unwrap();
    for pod in [&b, &c, &b] {
        lab.sync(&nodes[0], &dns(pod.ip));
        socket.send(b"?").unwrap();
        let mut answer = [0; 32];
        let n = socket.recv(&mut answer).unwrap();
        assert_eq!(std::str::from_utf8(&answer[..n]).unwrap(), pod.ip.to_string());
    }
}

#[test]
fn attaching_is_quick() {
    let lab = Lab::new("q");
    let nodes = lab.nodes(1);
    let mut times: Vec<_> = (2..52)
        .map(|k| {
            let start = Instant::now();
            let pod = lab.pod(&nodes[0], k);
            (start.elapsed(), pod)
        })
        .collect();
    times.sort_by_key(|t| t.0);
    // A quarter of them, for others want the processor too.
    println!("attach: median {:?}, slowest {:?}", times[25].0, times[49].0);
    assert!(times[12].0 < Duration::from_millis(20).mul_f64(slowness()), "a pod's network is no wait");
    let ports: Vec<_> = (0..1000u32)
        .map(|k| {
            service(
                &format!("d/s{k}:x"),
                &format!("10.96.{}.{}:80", k / 250, k % 250 + 1),
                None,
                &[(times[0].1.ip, 80), (times[1].1.ip, 80)],
            )
        })
        .collect();
    let mut services = Services { ports };
    let start = Instant::now();
    lab.sync(&nodes[0], &services);
    println!("1000 services at once: {:?}", start.elapsed());
    services.ports[500].endpoints.pop_last();
    let start = Instant::now();
    let changes = lab.sync(&nodes[0], &services);
    println!("one endpoint of 1000 services: {:?}, {changes} operations", start.elapsed());
    assert!(changes < 5, "a change is no rewrite");
    let again = lab.runtime.block_on(node(&lab.cluster, nodes[0].net())).unwrap();
    let start = Instant::now();
    assert_eq!(lab.sync(&again, &services), 0);
    println!("reading 1000 services back: {:?}", start.elapsed());
}

#[test]
fn a_flushed_rule_set_gets_our_table_back() {
    let lab = Lab::new("guard");
    lab.runtime.block_on(ensure_host(&lab.cluster)).unwrap();
    let table = crate::net::services::host_table(&lab.cluster);
    let read = || crate::net::nft::Nft::open().unwrap().read(&table.name).unwrap();
    let cluster = lab.cluster.clone();
    let guard = lab.runtime.spawn(async move { crate::net::guard(&cluster).await });
    for _ in 0..3 {
        crate::net::nft::Nft::open().unwrap().delete(&table.name).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while read().as_ref() != Some(&table) {
            assert!(Instant::now() < deadline, "not restored");
            assert!(!guard.is_finished(), "the guard has ended");
            std::thread::yield_now();
        }
    }
    guard.abort();
}

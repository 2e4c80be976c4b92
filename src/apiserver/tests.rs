//! Every verb, through the router, the way a client sends it.
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Request, StatusCode};
use axum::response::Response;
use http_body_util::BodyExt;
use jiff::Timestamp;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;

/// How long a test waits for something that must happen.
const SOON: Duration = Duration::from_secs(10);

/// A node whose API says what it was asked.
struct Echo;

impl NodeConnector for Echo {
    fn connect(&self, node: &str) -> Option<Router> {
        let answer = |request: Request<Body>| async move { request.uri().to_string() };
        (node == "node-1").then(|| Router::new().fallback(answer))
    }
}

struct Cluster {
    server: Arc<ApiServer>,
    _dir: tempfile::TempDir,
}

impl Cluster {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pki = pki::Pki::ensure(&dir.path().join("pki"), &[], Timestamp::now()).unwrap();
        let config = Config {
            service_cidr: "10.96.0.0/16".parse().unwrap(),
            node_ports: (30000, 32767),
            token_key: pki.token_key().to_owned(),
            eviction_seconds: 5,
            address: "127.0.0.1:6443".into(),
            nodes: Arc::new(Echo),
        };
        let store = Store::open(&dir.path().join("store")).unwrap();
        let server = ApiServer::start(store, config).await.unwrap();
        let cluster = Self { server, _dir: dir };
        let account = json!({"metadata": {"name": "default"}});
        cluster.ok("POST", "/api/v1/namespaces/default/serviceaccounts", account).await;
        cluster
    }

    fn request(method: &str, path: &str, who: Option<Identity>, body: &Value) -> Request<Body> {
        let content_type = match (method, path.contains("fieldManager=")) {
            ("PATCH", true) => "application/apply-patch+yaml",
            ("PATCH", _) if body.is_array() => "application/json-patch+json",
            ("PATCH", _) => "application/merge-patch+json",
            _ => "application/json",
        };
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content_type)
            .body(Body::from(text))
            .unwrap();
        if let Some(who) = who {
            request.extensions_mut().insert(who);
        }
        request
    }

    async fn send(&self, request: Request<Body>) -> Response {
        self.server.router().oneshot(request).await.unwrap()
    }

    async fn as_user(&self, who: Option<Identity>, method: &str, path: &str, body: Value) -> (u16, Value) {
        let response = self.send(Self::request(method, path, who, &body)).await;
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let value =
            serde_json::from_slice(&bytes).unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into_owned().into());
        (status, value)
    }

    async fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let admin = Identity::master("admin");
        self.as_user(Some(admin), method, path, body).await
    }

    async fn ok(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, value) = self.call(method, path, body).await;
        assert!(status < 300, "{method} {path}: {status} {value}");
        value
    }

    /// The message of a refusal that has this code.
    async fn refused(&self, code: u16, method: &str, path: &str, body: Value) -> String {
        let (status, value) = self.call(method, path, body).await;
        assert_eq!(status, code, "{method} {path}: {value}");
        assert_eq!(value["kind"], "Status");
        value["message"].as_str().unwrap().to_owned()
    }

    /// A watch; events come out of [`Events::next`].
    async fn watch(&self, path: &str) -> Events {
        let admin = Some(Identity::master("admin"));
        let response = self.send(Self::request("GET", path, admin, &Value::Null)).await;
        assert_eq!(response.status(), StatusCode::OK);
        Events { body: response.into_body(), text: String::new() }
    }
}

struct Events {
    body: Body,
    text: String,
}

impl Events {
    /// Type, name and the whole object of the next event; `None` at the end.
    async fn next(&mut self) -> Option<(String, String, Value)> {
        while !self.text.contains('\n') {
            let frame = tokio::time::timeout(SOON, self.body.frame()).await.expect("an event");
            let data = frame?.unwrap().into_data().ok()?;
            self.text += std::str::from_utf8(&data).unwrap();
        }
        let (line, rest) = self.text.split_once('\n')?;
        let event: Value = serde_json::from_str(line).unwrap();
        self.text = rest.to_owned();
        let name = event["object"]["metadata"]["name"].as_str().unwrap_or("").to_owned();
        Some((event["type"].as_str()?.to_owned(), name, event["object"].clone()))
    }

    async fn expect(&mut self, kind: &str, name: &str) -> Value {
        let (got_kind, got_name, object) = self.next().await.expect("an event");
        assert_eq!((got_kind.as_str(), got_name.as_str()), (kind, name), "{object}");
        object
    }
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn map(name: &str, labels: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels}})
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

#[tokio::test]
async fn objects_are_created_read_changed_and_deleted() {
    let c = Cluster::new().await;
    let made = c.ok("POST", MAPS, map("a", json!({}))).await;
    assert!(made["metadata"]["uid"].is_string() && made["metadata"]["creationTimestamp"].is_string());
    assert_eq!(c.ok("GET", &format!("{MAPS}/a"), Value::Null).await, made);
    let mut changed = made.clone();
    changed["data"] = json!({"k": "v"});
    let updated = c.ok("PUT", &format!("{MAPS}/a"), changed.clone()).await;
    assert_ne!(updated["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    assert_eq!(
        c.refused(409, "PUT", &format!("{MAPS}/a"), changed).await,
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again"
    );
    let same = c.ok("PUT", &format!("{MAPS}/a"), updated.clone()).await;
    assert_eq!(same, updated, "a change of nothing makes no revision");
    let patched = c.ok("PATCH", &format!("{MAPS}/a"), json!({"data": {"k": null, "l": "w"}})).await;
    assert_eq!(patched["data"], json!({"l": "w"}));
    let patch = json!([{"op": "replace", "path": "/data/l", "value": "x"}]);
    assert_eq!(c.ok("PATCH", &format!("{MAPS}/a"), patch).await["data"]["l"], "x");
    let gone = c.ok("DELETE", &format!("{MAPS}/a"), Value::Null).await;
    assert_eq!(gone["status"], "Success");
    assert_eq!(c.refused(404, "GET", &format!("{MAPS}/a"), Value::Null).await, "configmaps \"a\" not found");
}

#[tokio::test]
async fn what_cannot_be_is_refused_in_kubernetes_words() {
    let c = Cluster::new().await;
    c.ok("POST", MAPS, map("a", json!({}))).await;
    assert_eq!(c.refused(409, "POST", MAPS, map("a", json!({}))).await, "configmaps \"a\" already exists");
    let elsewhere = json!({"metadata": {"name": "b", "namespace": "other"}});
    assert!(c.refused(400, "POST", MAPS, elsewhere).await.contains("does not match the namespace"));
    let nowhere = "/api/v1/namespaces/none/configmaps";
    assert_eq!(c.refused(404, "POST", nowhere, map("a", json!({}))).await, "namespaces \"none\" not found");
    c.refused(404, "GET", "/apis/nothing/v1/things", Value::Null).await;
    c.refused(422, "POST", MAPS, map("No_Good", json!({}))).await;
    c.refused(405, "POST", &format!("{MAPS}/a"), map("a", json!({}))).await;
    let big = json!({"metadata": {"name": "big"}, "data": {"k": "x".repeat(4 << 20)}});
    c.refused(413, "POST", MAPS, big).await;
    let stale = json!({"preconditions": {"uid": "other"}});
    assert!(c.refused(409, "DELETE", &format!("{MAPS}/a"), stale).await.contains("UID in precondition"));
}

#[tokio::test]
async fn a_name_too_long_to_store_harms_nobody_else() {
    let c = Cluster::new().await;
    let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    c.refused(413, "POST", roles, json!({"metadata": {"name": "r".repeat(70_000)}})).await;
    c.ok("POST", roles, json!({"metadata": {"name": "r"}})).await;
}

#[tokio::test]
async fn what_is_in_no_namespace_loses_the_one_it_names() {
    let c = Cluster::new().await;
    let named = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n", "namespace": "default"}});
    let path = "/api/v1/namespaces/n";
    for (method, path) in [
        ("POST", "/api/v1/namespaces".to_owned()),
        ("PUT", path.to_owned()),
        ("PATCH", path.to_owned()),
        ("PATCH", format!("{path}?fieldManager=me&force=true")),
        ("PATCH", "/api/v1/namespaces/m?fieldManager=me".to_owned()),
    ] {
        let mut body = named.clone();
        if path.contains("/m?") {
            body["metadata"]["name"] = "m".into();
        }
        assert_eq!(c.ok(method, &path, body).await["metadata"].get("namespace"), None, "{method} {path}");
    }
}

#[tokio::test]
async fn generated_names_and_dry_runs() {
    let c = Cluster::new().await;
    let nameless = json!({"metadata": {"generateName": "x-"}});
    let one = c.ok("POST", MAPS, nameless.clone()).await;
    let two = c.ok("POST", MAPS, nameless).await;
    assert!(one["metadata"]["name"].as_str().unwrap().starts_with("x-"));
    assert_ne!(one["metadata"]["name"], two["metadata"]["name"]);
    c.ok("POST", &format!("{MAPS}?dryRun=All"), map("dry", json!({}))).await;
    c.refused(404, "GET", &format!("{MAPS}/dry"), Value::Null).await;
    let name = one["metadata"]["name"].as_str().unwrap();
    c.ok("DELETE", &format!("{MAPS}/{name}?dryRun=All"), Value::Null).await;
    c.ok("GET", &format!("{MAPS}/{name}"), Value::Null).await;
}

#[tokio::test]
async fn lists_have_pages_selectors_and_a_past() {
    let c = Cluster::new().await;
    for n in 0..5 {
        c.ok("POST", MAPS, map(&format!("m{n}"), json!({"even": (n % 2 == 0).to_string()}))).await;
    }
    let names = |list: &Value| -> Vec<String> {
        let items = list["items"].as_array().unwrap().iter();
        items.map(|i| i["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    let all = c.ok("GET", MAPS, Value::Null).await;
    assert_eq!((all["kind"].as_str(), names(&all).len()), (Some("ConfigMapList"), 5));
    let version = all["metadata"]["resourceVersion"].as_str().unwrap();
    let even = c.ok("GET", &format!("{MAPS}?labelSelector=even%3Dtrue"), Value::Null).await;
    assert_eq!(names(&even), ["m0", "m2", "m4"]);
    let one = c.ok("GET", &format!("{MAPS}?fieldSelector=metadata.name%3Dm3"), Value::Null).await;
    assert_eq!(names(&one), ["m3"]);
    let mut page = c.ok("GET", &format!("{MAPS}?limit=2"), Value::Null).await;
    assert_eq!(page["metadata"]["remainingItemCount"], 3);
    c.ok("DELETE", &format!("{MAPS}/m4"), Value::Null).await;
    let mut seen = names(&page);
    while let Some(token) = page["metadata"]["continue"].as_str() {
        page = c.ok("GET", &format!("{MAPS}?limit=2&continue={token}"), Value::Null).await;
        seen.extend(names(&page));
    }
    assert_eq!(seen, ["m0", "m1", "m2", "m3", "m4"], "pages are of one revision");
    let path = format!("{MAPS}?resourceVersion={version}&resourceVersionMatch=Exact");
    assert_eq!(names(&c.ok("GET", &path, Value::Null).await).len(), 5);
    assert_eq!(names(&c.ok("GET", "/api/v1/configmaps", Value::Null).await).len(), 4);
    c.refused(504, "GET", &format!("{MAPS}?resourceVersion=99999"), Value::Null).await;
    c.refused(400, "GET", &format!("{MAPS}?fieldSelector=data.x%3D1"), Value::Null).await;
    c.ok("DELETE", &format!("{MAPS}?labelSelector=even%3Dtrue"), Value::Null).await;
    assert_eq!(names(&c.ok("GET", MAPS, Value::Null).await), ["m1", "m3"]);
}

#[tokio::test]
async fn a_watch_shows_what_is_there_and_what_happens() {
    let c = Cluster::new().await;
    c.ok("POST", MAPS, map("a", json!({"on": "yes"}))).await;
    let mut all = c.watch(&format!("{MAPS}?watch=true")).await;
    all.expect("ADDED", "a").await;
    let mut on = c.watch(&format!("{MAPS}?watch=true&labelSelector=on%3Dyes&resourceVersion=0")).await;
    on.expect("ADDED", "a").await;
    let off = c.ok("PATCH", &format!("{MAPS}/a"), json!({"metadata": {"labels": {"on": "no"}}})).await;
    all.expect("MODIFIED", "a").await;
    let left = on.expect("DELETED", "a").await;
    assert_eq!(left["metadata"]["labels"]["on"], "yes");
    assert_eq!(left["metadata"]["resourceVersion"], off["metadata"]["resourceVersion"]);
    c.ok("PATCH", &format!("{MAPS}/a"), json!({"metadata": {"labels": {"on": "yes"}}})).await;
    all.expect("MODIFIED", "a").await;
    on.expect("ADDED", "a").await;
    c.ok("DELETE", &format!("{MAPS}/a"), Value::Null).await;
    all.expect("DELETED", "a").await;
    let last = on.expect("DELETED", "a").await;
    let version = off["metadata"]["resourceVersion"].as_str().unwrap();
    let mut again = c.watch(&format!("{MAPS}?watch=true&resourceVersion={version}")).await;
    again.expect("MODIFIED", "a").await;
    assert_eq!(again.expect("DELETED", "a").await, last);
}

#[tokio::test]
async fn a_watch_list_ends_its_beginning_with_a_bookmark() {
    let c = Cluster::new().await;
    c.ok("POST", MAPS, map("a", json!({}))).await;
    let options = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = c.watch(&format!("{MAPS}?{options}")).await;
    watch.expect("ADDED", "a").await;
    let bookmark = watch.expect("BOOKMARK", "").await;
    assert_eq!(bookmark["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert!(bookmark["metadata"]["resourceVersion"].is_string());
    c.ok("POST", MAPS, map("b", json!({}))).await;
    watch.expect("ADDED", "b").await;
    c.refused(400, "GET", &format!("{MAPS}?watch=true&sendInitialEvents=true"), Value::Null).await;
}

#[tokio::test]
async fn a_watch_ends_at_its_time_and_at_shutdown() {
    let c = Cluster::new().await;
    let version = c.ok("GET", MAPS, Value::Null).await["metadata"]["resourceVersion"].clone();
    let version = version.as_str().unwrap();
    let path = format!("{MAPS}?watch=true&resourceVersion={version}");
    assert!(c.watch(&format!("{path}&timeoutSeconds=1")).await.next().await.is_none());
    let mut endless = c.watch(&path).await;
    c.server.shut_down();
    assert!(endless.next().await.is_none());
}

#[tokio::test]
async fn tables_and_partial_objects_on_request() {
    let c = Cluster::new().await;
    c.ok("POST", MAPS, map("a", json!({}))).await;
    let ask = async |accept: &str, path: &str| {
        let mut request = Cluster::request("GET", path, Some(Identity::master("admin")), &Value::Null);
        request.headers_mut().insert("accept", accept.parse().unwrap());
        let response = c.send(request).await;
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    };
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let (_, text) = ask(table, MAPS).await;
    assert_eq!((json(&text)["kind"].as_str(), json(&text)["rows"][0]["cells"][0].as_str()), (Some("Table"), Some("a")));
    let partial = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    assert_eq!(json(&ask(partial, MAPS).await.1)["kind"], "PartialObjectMetadataList");
    let (_, text) = ask("application/yaml", &format!("{MAPS}/a")).await;
    assert!(text.contains("name: a"), "{text}");
    assert_eq!(ask("application/vnd.kubernetes.protobuf", MAPS).await.0, 406);
    assert_eq!(ask("application/vnd.kubernetes.protobuf,application/json", MAPS).await.0, 200);
}

#[tokio::test]
async fn a_bound_pod_gets_time_to_end_and_an_unbound_one_does_not() {
    let c = Cluster::new().await;
    c.ok("POST", PODS, pod("free")).await;
    c.ok("DELETE", &format!("{PODS}/free"), Value::Null).await;
    c.refused(404, "GET", &format!("{PODS}/free"), Value::Null).await;
    c.ok("POST", PODS, pod("bound")).await;
    let binding = json!({"target": {"kind": "Node", "name": "node-1"}});
    c.ok("POST", &format!("{PODS}/bound/binding"), binding.clone()).await;
    assert_eq!(
        c.refused(409, "POST", &format!("{PODS}/bound/binding"), binding).await,
        "Operation cannot be fulfilled on pods/binding \"bound\": pod bound is already assigned to node \"node-1\""
    );
    let bound = c.ok("GET", &format!("{PODS}/bound"), Value::Null).await;
    assert_eq!(bound["spec"]["nodeName"], "node-1");
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    let going = c.ok("DELETE", &format!("{PODS}/bound?gracePeriodSeconds=20"), Value::Null).await;
    assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 20);
    let again = c.ok("DELETE", &format!("{PODS}/bound"), json!({"gracePeriodSeconds": 25})).await;
    assert_eq!(again["metadata"], going["metadata"], "grace only gets shorter");
    let sooner = c.ok("DELETE", &format!("{PODS}/bound"), json!({"gracePeriodSeconds": 2})).await;
    assert_eq!(sooner["metadata"]["deletionGracePeriodSeconds"], 2);
    c.ok("DELETE", &format!("{PODS}/bound"), json!({"gracePeriodSeconds": 0})).await;
    c.refused(404, "GET", &format!("{PODS}/bound"), Value::Null).await;
}

#[tokio::test]
async fn finalizers_hold_what_is_deleted() {
    let c = Cluster::new().await;
    let held = json!({"metadata": {"name": "held", "finalizers": ["example.com/mine"]}});
    c.ok("POST", MAPS, held).await;
    let going = c.ok("DELETE", &format!("{MAPS}/held"), Value::Null).await;
    assert!(going["metadata"]["deletionTimestamp"].is_string());
    c.ok("PATCH", &format!("{MAPS}/held"), json!({"metadata": {"finalizers": null}})).await;
    c.refused(404, "GET", &format!("{MAPS}/held"), Value::Null).await;
    for (policy, finalizer) in [("Foreground", "foregroundDeletion"), ("Orphan", "orphan")] {
        c.ok("POST", MAPS, map("parent", json!({}))).await;
        let path = format!("{MAPS}/parent");
        let going = c.ok("DELETE", &path, json!({"propagationPolicy": policy})).await;
        assert_eq!(going["metadata"]["finalizers"], json!([finalizer]));
        c.ok("PATCH", &path, json!({"metadata": {"finalizers": []}})).await;
        c.refused(404, "GET", &path, Value::Null).await;
    }
}

#[tokio::test]
async fn a_namespace_goes_when_it_is_empty() {
    let c = Cluster::new().await;
    let made = c.ok("POST", "/api/v1/namespaces", json!({"metadata": {"name": "n"}})).await;
    assert_eq!(made["metadata"]["labels"]["kubernetes.io/metadata.name"], "n");
    let going = c.ok("DELETE", "/api/v1/namespaces/n", Value::Null).await;
    assert_eq!(going["status"]["phase"], "Terminating");
    assert_eq!(
        c.refused(403, "POST", "/api/v1/namespaces/n/configmaps", map("a", json!({}))).await,
        "configmaps \"a\" is forbidden: unable to create new content in namespace n because it is being terminated"
    );
    let mut empty = going;
    empty["spec"]["finalizers"] = json!([]);
    c.ok("PUT", "/api/v1/namespaces/n/finalize", empty).await;
    c.refused(404, "GET", "/api/v1/namespaces/n", Value::Null).await;
    c.refused(403, "DELETE", "/api/v1/namespaces/default", Value::Null).await;
}

#[tokio::test]
async fn services_get_addresses_and_give_them_back() {
    let c = Cluster::new().await;
    let services = "/api/v1/namespaces/default/services";
    let service = |name: &str, spec: Value| {
        let mut service = json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80, "protocol": "TCP"}]}});
        service["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        service
    };
    let made = c.ok("POST", services, service("a", json!({}))).await;
    let ip = made["spec"]["clusterIP"].as_str().unwrap().to_owned();
    assert!(ip.starts_with("10.96."));
    let twice = c.refused(422, "POST", services, service("b", json!({"clusterIP": ip}))).await;
    assert!(twice.contains("provided IP is already allocated"), "{twice}");
    c.ok("DELETE", &format!("{services}/a"), Value::Null).await;
    let again = c.ok("POST", services, service("b", json!({"clusterIP": ip, "type": "NodePort"}))).await;
    assert_eq!(again["spec"]["ports"][0]["nodePort"], 30000);
    let many = (0..20).map(|n| {
        let c = &c;
        let body = service(&format!("s{n}"), json!({}));
        async move { c.ok("POST", services, body).await["spec"]["clusterIP"].to_string() }
    });
    let ips: std::collections::BTreeSet<_> = futures::future::join_all(many).await.into_iter().collect();
    assert_eq!(ips.len(), 20, "nobody shares an address");
}

#[tokio::test]
async fn a_scale_changes_replicas_and_nothing_else() {
    let c = Cluster::new().await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let spec = json!({"replicas": 2, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": pod("x")["spec"]}});
    c.ok("POST", deployments, json!({"metadata": {"name": "d"}, "spec": spec})).await;
    let scale = c.ok("GET", &format!("{deployments}/d/scale"), Value::Null).await;
    assert_eq!((scale["spec"]["replicas"].as_i64(), scale["status"]["selector"].as_str()), (Some(2), Some("a=b")));
    c.ok("PATCH", &format!("{deployments}/d/scale"), json!({"spec": {"replicas": 5}})).await;
    let mut stale = scale.clone();
    stale["spec"]["replicas"] = 7.into();
    c.refused(409, "PUT", &format!("{deployments}/d/scale"), stale).await;
    let after = c.ok("GET", &format!("{deployments}/d"), Value::Null).await;
    assert_eq!((after["spec"]["replicas"].as_i64(), after["metadata"]["generation"].as_i64()), (Some(5), Some(2)));
    let path = format!("{deployments}/d/scale");
    for (replicas, wrong) in [
        (json!("5"), "string"),
        (json!(3_000_000_000_u32), "number 3000000000"),
        (json!(1.5), "number 1.5"),
        (json!({}), "object"),
    ] {
        let mut whole = scale.clone();
        whole["spec"]["replicas"] = replicas.clone();
        let patch = json!([{"op": "replace", "path": "/spec/replicas", "value": replicas}]);
        for (method, body) in [("PUT", whole), ("PATCH", json!({"spec": {"replicas": replicas}})), ("PATCH", patch)] {
            assert_eq!(
                c.refused(400, method, &path, body).await,
                format!(
                    "Scale in version \"v1\" cannot be handled as a Scale: json: cannot unmarshal {wrong} into Go struct field ScaleSpec.spec.replicas of type int32"
                )
            );
        }
    }
    assert_eq!(c.ok("GET", &format!("{deployments}/d"), Value::Null).await, after);
    c.ok("PATCH", &path, json!({"spec": {"replicas": null}})).await;
    assert_eq!(c.ok("GET", &path, Value::Null).await["spec"]["replicas"], 0);
}

#[tokio::test]
async fn applying_twice_changes_nothing_and_conflicts_are_told() {
    let c = Cluster::new().await;
    let path = format!("{MAPS}/a?fieldManager=one");
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "1"}});
    let first = c.ok("PATCH", &path, config.clone()).await;
    assert_eq!(c.ok("PATCH", &path, config.clone()).await, first);
    let mut other = config.clone();
    other["data"]["k"] = "2".into();
    let (status, refused) = c.call("PATCH", &format!("{MAPS}/a?fieldManager=two"), other.clone()).await;
    assert_eq!((status, refused["reason"].as_str()), (409, Some("Conflict")));
    let forced = c.ok("PATCH", &format!("{MAPS}/a?fieldManager=two&force=true"), other).await;
    assert_eq!(forced["data"]["k"], "2");
}

#[tokio::test]
async fn patches_that_insist_on_nothing_all_get_through() {
    let c = Cluster::new().await;
    c.ok("POST", MAPS, map("a", json!({}))).await;
    let patches = (0..12).map(|n| {
        let c = &c;
        async move { c.ok("PATCH", &format!("{MAPS}/a"), json!({"data": {(format!("k{n}")): "v"}})).await }
    });
    futures::future::join_all(patches).await;
    let after = c.ok("GET", &format!("{MAPS}/a"), Value::Null).await;
    assert_eq!(after["data"].as_object().unwrap().len(), 12);
}

#[tokio::test]
async fn only_what_a_rule_allows_is_allowed() {
    let c = Cluster::new().await;
    let jane = || Some(Identity::new("jane", &[]));
    let (status, refused) = c.as_user(jane(), "GET", MAPS, Value::Null).await;
    assert_eq!(status, 403);
    assert_eq!(
        refused["message"],
        "configmaps is forbidden: User \"jane\" cannot list resource \"configmaps\" in API group \"\" in the namespace \"default\""
    );
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let role = json!({"metadata": {"name": "r"}, "rules": [{"verbs": ["list"], "apiGroups": [""], "resources": ["configmaps"]}]});
    c.ok("POST", &format!("{rbac}/roles"), role).await;
    let binding = json!({"metadata": {"name": "r"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
        "subjects": [{"kind": "User", "name": "jane", "apiGroup": "rbac.authorization.k8s.io"}]});
    c.ok("POST", &format!("{rbac}/rolebindings"), binding).await;
    assert_eq!(c.as_user(jane(), "GET", MAPS, Value::Null).await.0, 200);
    assert_eq!(c.as_user(jane(), "GET", "/api/v1/configmaps", Value::Null).await.0, 403);
    let ask = |verb: &str| json!({"spec": {"resourceAttributes": {"namespace": "default", "verb": verb, "resource": "configmaps"}}});
    let reviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    assert_eq!(c.as_user(jane(), "POST", reviews, ask("list")).await.1["status"]["allowed"], true);
    assert_eq!(c.as_user(jane(), "POST", reviews, ask("get")).await.1["status"]["allowed"], false);
    let named = json!([{"verbs": ["*"], "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["a"]}]);
    c.ok("PATCH", &format!("{rbac}/roles/r"), json!({"rules": named})).await;
    for (method, query, wanted) in [
        ("GET", "", 403),
        ("GET", "?fieldSelector=metadata.name%3Da", 200),
        ("GET", "?fieldSelector=metadata.name%3Da&watch=true", 200),
        ("GET", "?fieldSelector=metadata.namespace%3Ddefault,metadata.name%3D%3Da", 200),
        ("GET", "?fieldSelector=metadata.name%3Db", 403),
        ("GET", "?fieldSelector=metadata.name%21%3Da", 403),
        ("DELETE", "?fieldSelector=metadata.name%3Da", 403),
    ] {
        let request = Cluster::request(method, &format!("{MAPS}{query}"), jane(), &Value::Null);
        assert_eq!(c.send(request).await.status().as_u16(), wanted, "{method} {query}");
    }
    c.ok("DELETE", &format!("{rbac}/rolebindings/r"), Value::Null).await;
    assert_eq!(c.as_user(jane(), "GET", MAPS, Value::Null).await.0, 403);
    let (status, _) = c.as_user(None, "GET", "/healthz", Value::Null).await;
    assert_eq!(status, 200);
    let (status, refused) = c.as_user(None, "GET", "/metrics", Value::Null).await;
    assert_eq!(
        (status, refused["message"].as_str()),
        (403, Some("forbidden: User \"system:anonymous\" cannot get path \"/metrics\""))
    );
}

#[tokio::test]
async fn impersonation_takes_rights_away_or_is_refused() {
    let c = Cluster::new().await;
    let rules = json!([{"verbs": ["impersonate"], "apiGroups": [""], "resources": ["users", "groups"]},
        {"verbs": ["impersonate"], "apiGroups": ["authentication.k8s.io"], "resources": ["userextras/a/b"], "resourceNames": ["x"]}]);
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    c.ok("POST", &format!("{rbac}/clusterroles"), json!({"metadata": {"name": "i"}, "rules": rules})).await;
    let binding = json!({"metadata": {"name": "i"}, "roleRef": {"kind": "ClusterRole", "name": "i"},
        "subjects": [{"kind": "User", "name": "jane"}]});
    c.ok("POST", &format!("{rbac}/clusterrolebindings"), binding).await;
    let user = ("impersonate-user", "josé".as_bytes());
    for (who, headers, code, said) in [
        ("root", vec![user], 201, "josé"),
        ("root", vec![("impersonate-user", &b"jos\xe9"[..])], 400, "the header \"impersonate-user\" is not UTF-8"),
        ("root", vec![("impersonate-group", &b"g"[..])], 400, "without impersonating a user"),
        ("root", vec![("impersonate-extra-k", &b"g"[..])], 400, "without impersonating a user"),
        ("root", vec![user, ("impersonate-role", &b"g"[..])], 400, "unknown header \"impersonate-role\""),
        ("root", vec![user, ("impersonate-uid", &b"u1"[..])], 201, "u1"),
        ("jane", vec![user, ("impersonate-group", &b"g"[..])], 201, "josé"),
        ("jane", vec![user, ("impersonate-uid", &b"u1"[..])], 403, "cannot impersonate resource \"uids\""),
        ("jane", vec![user, ("impersonate-extra-a%2fb", &b"x"[..])], 201, "a/b"),
        ("jane", vec![user, ("impersonate-extra-a%2fb", &b"y"[..])], 403, "resource \"userextras/a/b\""),
    ] {
        let who = if who == "root" { Identity::master(who) } else { Identity::new(who, &[]) };
        let reviews = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
        let mut request = Cluster::request("POST", reviews, Some(who), &json!({}));
        for (name, value) in &headers {
            request.headers_mut().append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        let response = c.send(request).await;
        assert_eq!(response.status().as_u16(), code, "{headers:?}");
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let answer: Value = serde_json::from_slice(&bytes).unwrap();
        let text = answer["message"].as_str().map_or(answer.to_string(), str::to_owned);
        assert!(text.contains(said), "{headers:?}: {text}");
    }
}

#[tokio::test]
async fn tokens_live_as_long_as_what_they_are_bound_to() {
    let c = Cluster::new().await;
    let uid = c.ok("POST", PODS, pod("p")).await["metadata"]["uid"].clone();
    let bound = json!({"spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": uid}}});
    let accounts = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let token = c.ok("POST", accounts, bound).await["status"]["token"].clone();
    let who = async |token: &str| {
        let mut request =
            Cluster::request("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", None, &json!({}));
        let value = format!("Bearer {token}").parse().unwrap();
        request.headers_mut().insert("authorization", value);
        let response = c.send(request).await;
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        serde_json::from_slice::<Value>(&bytes).unwrap()
    };
    let token = token.as_str().unwrap();
    assert_eq!(who(token).await["status"]["userInfo"]["username"], "system:serviceaccount:default:default");
    assert_eq!(who(&format!("{token}x")).await["code"], 401);
    c.ok("DELETE", &format!("{PODS}/p"), Value::Null).await;
    assert_eq!(who(token).await["code"], 401);
}

#[tokio::test]
async fn pods_find_a_token_and_wait_for_their_node() {
    let c = Cluster::new().await;
    let made = c.ok("POST", PODS, pod("p")).await;
    let spec = &made["spec"];
    assert_eq!((spec["serviceAccountName"].as_str(), spec["priority"].as_i64()), (Some("default"), Some(0)));
    assert_eq!(spec["containers"][0]["volumeMounts"][0]["mountPath"], "/var/run/secrets/kubernetes.io/serviceaccount");
    assert_eq!(spec["tolerations"][0]["tolerationSeconds"], 5);
    let mut quiet = pod("q");
    quiet["spec"]["automountServiceAccountToken"] = false.into();
    assert!(c.ok("POST", PODS, quiet).await["spec"]["volumes"].is_null());
}

#[tokio::test]
async fn a_node_changes_only_what_is_its_own() {
    let c = Cluster::new().await;
    let node = |name: &str| Some(Identity::node(name));
    let nodes = "/api/v1/nodes";
    assert_eq!(c.as_user(node("node-1"), "POST", nodes, json!({"metadata": {"name": "node-1"}})).await.0, 201);
    assert_eq!(c.as_user(node("node-1"), "POST", nodes, json!({"metadata": {"name": "node-2"}})).await.0, 403);
    c.ok("POST", PODS, pod("p")).await;
    c.ok("POST", &format!("{PODS}/p/binding"), json!({"target": {"kind": "Node", "name": "node-1"}})).await;
    let status = json!({"status": {"phase": "Running"}});
    let path = format!("{PODS}/p/status");
    assert_eq!(c.as_user(node("node-2"), "PATCH", &path, status.clone()).await.0, 403);
    assert_eq!(c.as_user(node("node-1"), "PATCH", &path, status).await.0, 200);
}

#[tokio::test]
async fn logs_are_asked_of_the_pods_node() {
    let c = Cluster::new().await;
    c.ok("POST", PODS, pod("p")).await;
    let logs = format!("{PODS}/p/log?follow=true");
    assert_eq!(c.refused(400, "GET", &logs, Value::Null).await, "pod p does not have a host assigned");
    c.ok("POST", &format!("{PODS}/p/binding"), json!({"target": {"kind": "Node", "name": "node-1"}})).await;
    assert_eq!(c.ok("GET", &logs, Value::Null).await, "/containerLogs/default/p/c?follow=true");
    let exec = format!("{PODS}/p/exec?command=sh&stdin=true");
    assert_eq!(c.ok("POST", &exec, Value::Null).await, "/exec/default/p/c?command=sh&input=true");
}

#[tokio::test]
async fn an_event_is_one_object_in_two_forms() {
    let c = Cluster::new().await;
    let core = "/api/v1/namespaces/default/events";
    let event = json!({"metadata": {"name": "e"}, "reason": "Because", "message": "it happened", "type": "Normal",
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}});
    c.ok("POST", core, event).await;
    let other = c.ok("GET", "/apis/events.k8s.io/v1/namespaces/default/events/e", Value::Null).await;
    assert_eq!((other["note"].as_str(), other["regarding"]["name"].as_str()), (Some("it happened"), Some("p")));
    assert_eq!(other["apiVersion"], "events.k8s.io/v1");
}

#[tokio::test]
async fn discovery_health_and_metrics_are_there() {
    let c = Cluster::new().await;
    for path in [
        "/api",
        "/apis",
        "/api/v1",
        "/apis/apps/v1",
        "/apis/apps",
        "/version",
        "/openapi/v2",
        "/openapi/v3",
        "/openapi/v3/apis/apps/v1",
    ] {
        assert!(c.ok("GET", path, Value::Null).await.is_object(), "{path}");
    }
    assert_eq!(c.ok("GET", "/livez", Value::Null).await, "ok");
    let verbose = c.ok("GET", "/readyz?verbose", Value::Null).await;
    assert!(verbose.as_str().unwrap().contains("[+]etcd ok"));
    let metrics = c.ok("GET", "/metrics", Value::Null).await;
    assert!(
        metrics
            .as_str()
            .unwrap()
            .contains("apiserver_request_total{verb=\"create\",group=\"\",resource=\"serviceaccounts\"")
    );
}

#[tokio::test]
async fn a_restarted_server_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let c = Cluster::new().await;
    let config = c.server.config.clone();
    let first = ApiServer::start(store.clone(), config.clone()).await.unwrap();
    let revision = store.revision();
    drop((first, store));
    let store = Store::open(dir.path()).unwrap();
    let _second = ApiServer::start(store.clone(), config).await.unwrap();
    assert_eq!(store.revision(), revision, "nothing was missing");
}

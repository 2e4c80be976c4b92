//! The API as stock kubectl sees it: verbs, formats, patches, refusals.

use crate::harness::{Cluster, slowness, timeout};
use crate::shared;
use libtest_mimic::Trial;
use serde_json::Value;

pub fn trials() -> Vec<Trial> {
    vec![
        shared("api_get_prints_what_kubectl_prints", get),
        shared("api_patches_merge_as_kubernetes_merges", patches),
        shared("api_server_side_apply_knows_owners", server_side_apply),
        shared("api_refuses_bad_manifests_with_field_paths", refusals),
        shared("api_conflicts_are_409", conflicts),
        shared("api_watches_resume", watches),
        shared("api_namespaces_take_their_content_along", namespaces),
        shared("api_discovery_and_explain", discovery),
        shared("api_labels_annotations_and_deletion", labels_and_deletion),
        shared("api_access_is_by_role", access),
        shared("api_every_manifest_applies", manifests),
    ]
}

const CONFIG: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: settings\n  labels: {tier: web}\ndata:\n  color: red\n  size: big\n";

fn get(cluster: &Cluster) {
    let space = cluster.space("api-get");
    assert_eq!(space.apply(CONFIG), "configmap/settings created\n");
    assert_eq!(space.apply(CONFIG), "configmap/settings unchanged\n");
    let table = space.kubectl(&["get", "configmap", "settings"]).good();
    let lines: Vec<Vec<&str>> = table.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(
        (lines[0].as_slice(), &lines[1][..2]),
        (["NAME", "DATA", "AGE"].as_slice(), ["settings", "2"].as_slice())
    );
    assert_eq!(space.kubectl(&["get", "cm", "-l", "tier=web", "-o", "name"]).good(), "configmap/settings\n");
    assert_eq!(space.kubectl(&["get", "cm", "-l", "tier notin (web),tier", "-o", "name"]).good(), "");
    assert_eq!(
        space.kubectl(&["get", "cm", "--field-selector", "metadata.name=settings", "-o", "name"]).good(),
        "configmap/settings\n"
    );
    assert_eq!(space.value("cm/settings", "{.data.color}"), "red");
    let json: Value = serde_json::from_str(&space.kubectl(&["get", "cm", "settings", "-o", "json"]).good()).unwrap();
    assert_eq!(json["data"]["size"], "big");
    assert!(space.kubectl(&["get", "cm", "settings", "-o", "yaml"]).good().contains("color: red"));
    let wide = space.kubectl(&["get", "nodes", "-o", "wide"]).good();
    for column in [
        "NAME",
        "STATUS",
        "ROLES",
        "AGE",
        "VERSION",
        "INTERNAL-IP",
        "EXTERNAL-IP",
        "OS-IMAGE",
        "KERNEL-VERSION",
        "CONTAINER-RUNTIME",
    ] {
        assert!(wide.lines().next().unwrap().contains(column), "{column} in {wide}");
    }
    assert!(
        space
            .kubectl(&["get", "cm", "-A", "--show-labels"])
            .good()
            .lines()
            .any(|l| l.starts_with("api-get") && l.contains("tier=web"))
    );
    let missing = space.kubectl(&["get", "cm", "nope"]).bad();
    assert_eq!(missing, "Error from server (NotFound): configmaps \"nope\" not found\n");
    assert!(space.kubectl(&["describe", "cm", "settings"]).good().contains("color:"));
}

fn patches(cluster: &Cluster) {
    let space = cluster.space("api-patch");
    space.apply(CONFIG);
    let patch = |kind: &str, patch: &str| space.kubectl(&["patch", "cm", "settings", "--type", kind, "-p", patch]);
    patch("merge", r#"{"data":{"color":"blue","size":null}}"#).good();
    patch("json", r#"[{"op":"add","path":"/data/shape","value":"round"}]"#).good();
    patch("strategic", r#"{"metadata":{"labels":{"more":"yes"}}}"#).good();
    assert_eq!(space.value("cm/settings", "{.data}{.metadata.labels.more}"), r#"{"color":"blue","shape":"round"}yes"#);
    assert!(
        patch("json", r#"[{"op":"test","path":"/data/shape","value":"flat"}]"#)
            .bad()
            .contains("the server rejected our request")
    );
    let dry = space
        .kubectl(&["patch", "cm", "settings", "--dry-run=server", "--type=merge", "-p", r#"{"data":{"color":"none"}}"#])
        .good();
    assert!(dry.contains("(server dry run)") || dry.contains("patched"), "{dry}");
    assert_eq!(space.value("cm/settings", "{.data.color}"), "blue");
    let diff = space.kubectl_with(&["diff", "-f", "-"], CONFIG);
    assert_eq!(diff.code, Some(1), "{}", diff.err);
    assert!(diff.out.contains("+  color: red") && diff.out.contains("-  color: blue"), "{}", diff.out);
    // kubectl edit is an editor and a patch.
    let mut edit = cluster.program("kubectl", "api-patch");
    edit.args(["edit", "cm", "settings"]).env("KUBE_EDITOR", "sed -i s/blue/green/");
    assert_eq!(crate::harness::run(&mut edit, "").good(), "configmap/settings edited\n");
    assert_eq!(space.value("cm/settings", "{.data.color}"), "green");
}

fn server_side_apply(cluster: &Cluster) {
    let space = cluster.space("api-ssa");
    let apply = |manager: &str, manifest: &str, more: &[&str]| {
        let mut args = vec!["apply", "--server-side", "--field-manager", manager, "-f", "-"];
        args.extend(more);
        space.kubectl_with(&args, manifest)
    };
    assert_eq!(apply("one", CONFIG, &[]).good(), "configmap/settings serverside-applied\n");
    let other = CONFIG.replace("red", "blue");
    let conflict = apply("two", &other, &[]).bad();
    assert!(
        conflict.contains("Apply failed with 1 conflict: conflict with \"one\"") && conflict.contains(".data.color"),
        "{conflict}"
    );
    apply("two", &other, &["--force-conflicts"]).good();
    assert_eq!(space.value("cm/settings", "{.data.color}"), "blue");
    // `one` no longer names size; `two` still does, so it stays. Then `two` drops it too, and it goes.
    let less = other.replace("  size: big\n", "");
    apply("one", &less, &["--force-conflicts"]).good();
    assert_eq!(space.value("cm/settings", "{.data.size}"), "big");
    apply("two", &less, &[]).good();
    assert_eq!(space.value("cm/settings", "{.data.size}"), "");
    // From client-side apply to server-side apply and back, as kubectl migrates.
    let renamed = CONFIG.replace("settings", "migrated");
    space.apply(&renamed);
    assert_eq!(apply("kubectl", &renamed, &[]).good(), "configmap/migrated serverside-applied\n");
}

fn refusals(cluster: &Cluster) {
    let space = cluster.space("api-bad");
    let refused = |manifest: &str| space.kubectl_with(&["apply", "-f", "-"], manifest).bad();
    for (manifest, complaints) in [
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: Bad_Name}\nspec: {containers: [{name: c, image: i}]}",
            &["metadata.name: Invalid value: \"Bad_Name\": a lowercase RFC 1123 subdomain must consist of"][..],
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c}]}",
            &["Pod \"a\" is invalid: spec.containers[0].image: Required value"],
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: []}",
            &["spec.containers: Required value"],
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {restartPolicy: Sometimes, containers: [{name: c, image: i}]}",
            &[
                "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"Never\", \"OnFailure\"",
            ],
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c, image: i, imaeg: j}]}",
            &["strict decoding error: unknown field \"spec.containers[0].imaeg\""],
        ),
        (
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: c}}, spec: {containers: [{name: c, image: i}]}}}",
            &["spec.template.metadata.labels: Invalid value: ", "`selector` does not match template `labels`"],
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: [{port: 70000}]}",
            &["spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive"],
        ),
        ("apiVersion: v1\nkind: Widget\nmetadata: {name: w}", &["no matches for kind \"Widget\" in version \"v1\""]),
    ] {
        let said = refused(manifest);
        for complaint in complaints {
            assert!(said.contains(complaint), "{complaint:?} is not in {said:?}");
        }
    }
    let none = space.kubectl(&["create", "configmap", "x", "--namespace", "nowhere"]).bad();
    assert_eq!(none, "error: failed to create configmap: namespaces \"nowhere\" not found\n");
}

fn conflicts(cluster: &Cluster) {
    let space = cluster.space("api-conflict");
    space.apply(CONFIG);
    let old = space.kubectl(&["get", "cm", "settings", "-o", "json"]).good();
    space.kubectl(&["patch", "cm", "settings", "--type=merge", "-p", r#"{"data":{"color":"blue"}}"#]).good();
    let stale = space.kubectl_with(&["replace", "-f", "-"], &old.replace("big", "small")).bad();
    assert!(
        stale.contains("Operation cannot be fulfilled on configmaps \"settings\": the object has been modified; please apply your changes to the latest version and try again"),
        "{stale}"
    );
    assert!(
        space.kubectl_with(&["create", "-f", "-"], CONFIG).bad().contains("configmaps \"settings\" already exists")
    );
}

fn watches(cluster: &Cluster) {
    let space = cluster.space("api-watch");
    space.apply(CONFIG);
    let version = space.value("cm/settings", "{.metadata.resourceVersion}");
    for color in ["blue", "green"] {
        space
            .kubectl(&[
                "patch",
                "cm",
                "settings",
                "--type=merge",
                "-p",
                &format!(r#"{{"data":{{"color":"{color}"}}}}"#),
            ])
            .good();
    }
    let seconds = slowness().ceil();
    let path = |from: &str| {
        format!(
            "/api/v1/namespaces/api-watch/configmaps?watch=1&timeoutSeconds={seconds}&fieldSelector=metadata.name%3Dsettings&resourceVersion={from}"
        )
    };
    let events = space.kubectl(&["get", "--raw", &path(&version)]).good();
    let colors: Vec<String> = events
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|e| format!("{} {}", e["type"].as_str().unwrap(), e["object"]["data"]["color"].as_str().unwrap()))
        .collect();
    assert_eq!(colors, ["MODIFIED blue", "MODIFIED green"], "a watch goes on where the version says");
    let ancient = space.kubectl(&["get", "--raw", &path("999999999")]);
    assert!(!ancient.ok || ancient.out.contains("Too large resource version") || ancient.out.is_empty(), "{ancient:?}");
}

fn namespaces(cluster: &Cluster) {
    let space = cluster.space("api-ns");
    space.apply(CONFIG);
    space.kubectl(&["create", "secret", "generic", "s", "--from-literal=a=b"]).good();
    space.kubectl(&["create", "deployment", "d", "--image=busybox:1", "--", "coracle", "guest", "sleep"]).good();
    cluster.kubectl(&["delete", "namespace", "api-ns", &timeout()]).good();
    assert!(cluster.kubectl(&["get", "namespace", "api-ns"]).bad().contains("NotFound"));
    let left = cluster
        .kubectl(&[
            "get",
            "cm,secrets,deploy,rs,pods,sa",
            "-A",
            "-o",
            "name",
            "--field-selector",
            "metadata.namespace=api-ns",
        ])
        .good();
    assert_eq!(left, "");
}

fn discovery(cluster: &Cluster) {
    let resources = cluster.kubectl(&["api-resources"]).good();
    for word in ["deployments", "deploy", "apps/v1", "endpointslices", "leases", "serviceaccounts", "rolebindings"] {
        assert!(resources.contains(word), "{word} in {resources}");
    }
    assert!(cluster.kubectl(&["api-versions"]).good().contains("discovery.k8s.io/v1"));
    let explained = cluster.kubectl(&["explain", "pod.spec.containers.resources"]).good();
    assert!(
        explained.contains("FIELD: resources <ResourceRequirements>") && explained.contains("limits"),
        "{explained}"
    );
    let version = cluster.kubectl(&["version"]).good();
    assert!(version.contains("Server Version: v1.35"), "{version}");
    assert_eq!(cluster.kubectl(&["get", "--raw", "/readyz"]).good(), "ok");
}

fn labels_and_deletion(cluster: &Cluster) {
    let space = cluster.space("api-labels");
    space.apply(CONFIG);
    space.kubectl(&["label", "cm", "settings", "a=1"]).good();
    assert!(space.kubectl(&["label", "cm", "settings", "a=2"]).bad().contains("already has a value"));
    space.kubectl(&["label", "cm", "settings", "a=2", "--overwrite", "tier-"]).good();
    space.kubectl(&["annotate", "cm", "settings", "note=hello"]).good();
    assert_eq!(space.value("cm/settings", "{.metadata.labels}{.metadata.annotations.note}"), r#"{"a":"2"}hello"#);
    space
        .kubectl(&[
            "patch",
            "cm",
            "settings",
            "--type=merge",
            "-p",
            r#"{"metadata":{"finalizers":["example.org/hold"]}}"#,
        ])
        .good();
    space.kubectl(&["delete", "cm", "settings", "--wait=false"]).good();
    assert_ne!(space.value("cm/settings", "{.metadata.deletionTimestamp}"), "");
    space
        .kubectl(&[
            "patch",
            "cm",
            "settings",
            "--type=json",
            "-p",
            r#"[{"op":"remove","path":"/metadata/finalizers"}]"#,
        ])
        .good();
    space.kubectl(&["wait", "--for=delete", "cm/settings", &timeout()]).good();
}

fn access(cluster: &Cluster) {
    let space = cluster.space("api-access");
    let can = |verb: &str, what: &str| {
        let said = space.kubectl(&["auth", "can-i", verb, what, "--as", "system:serviceaccount:api-access:default"]);
        said.out.trim().to_string()
    };
    assert_eq!(can("list", "pods"), "no");
    space.kubectl(&["create", "role", "reader", "--verb=get,list", "--resource=pods"]).good();
    space.kubectl(&["create", "rolebinding", "read", "--role=reader", "--serviceaccount=api-access:default"]).good();
    assert_eq!((can("list", "pods").as_str(), can("delete", "pods").as_str()), ("yes", "no"));
    let refused = space.kubectl(&["get", "secrets", "--as", "system:serviceaccount:api-access:default"]).bad();
    assert!(
        refused.contains("secrets is forbidden: User \"system:serviceaccount:api-access:default\" cannot list resource \"secrets\" in API group \"\" in the namespace \"api-access\""),
        "{refused}"
    );
    // Who may read everything of pods may still not run programs in them.
    space.pod("box", serde_json::json!({}));
    space.kubectl(&["create", "role", "looker", "--verb=get,list", "--resource=pods,pods/exec"]).good();
    space.kubectl(&["create", "rolebinding", "look", "--role=looker", "--serviceaccount=api-access:default"]).good();
    let run = ["exec", "box", "--as", "system:serviceaccount:api-access:default", "--", "true"];
    let refused = space.kubectl(&run).bad();
    assert!(refused.contains("cannot create resource \"pods/exec\""), "{refused}");
    // A service account's token is an identity as good as a certificate.
    let token = space.kubectl(&["create", "token", "default"]).good();
    let server = space.kubectl(&["config", "view", "-o", "jsonpath={.clusters[0].cluster.server}"]).good();
    let mut curl = std::process::Command::new("curl");
    curl.args(["--silent", "--insecure", "--header", &format!("Authorization: Bearer {}", token.trim())]);
    curl.arg(format!("{server}/api/v1/namespaces/api-access/pods"));
    assert!(crate::harness::run(&mut curl, "").good().contains("\"kind\":\"PodList\""));
}

/// Every example manifest is taken by the server, strictly.
fn manifests(cluster: &Cluster) {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests");
    let mut dirs = vec![root];
    let mut count = 0;
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())).flatten() {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == "yaml" || e == "json") {
                let apply = ["apply", "--dry-run=server", "--validate=strict", "-f", path.to_str().unwrap()];
                for said in [cluster.kubectl(&apply), cluster.coracle(&apply)] {
                    assert!(said.ok, "{}: {}", path.display(), said.err);
                }
                count += 1;
            }
        }
    }
    assert!(count > 0, "no manifests");
}

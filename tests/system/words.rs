//! The command line's own verbs print what stock kubectl prints, byte for byte.

use crate::harness::{Said, Space, timeout};
use crate::{harness::Cluster, shared};
use libtest_mimic::Trial;

pub fn trials() -> Vec<Trial> {
    vec![shared("the_command_line_says_what_kubectl_says", all)]
}

/// Ages and heartbeats may change between two calls; they do not change between every two.
const TRIES: usize = 10;

const MANIFEST: &str = r##"
apiVersion: v1
kind: ConfigMap
metadata: {name: awkward, labels: {number: "1", truth: "true"}, annotations: {words: "a: b", none: "", lines: "a\nb"}}
data:
  "yes": "yes"
  "1": "1e3"
  n1: "0x1f"
  n2: "12:30:45"
  n9: "null"
  n10: "~"
  dash: "- a"
  lines: "one\n\n two\n"
  ends: "one\ntwo"
  begins: " one\ntwo\n\n"
  blank: "one \ntwo"
  trailing: "x "
  date: "2026-01-01"
  time: "2026-01-01T10:20:30.5+01:00"
  hash: "#x"
  colon: "a: b"
  unicode: "ünïcödé ☃ 🎉"
  empty: ""
  tab: "a\tb"
  quote: "it's"
  quotes: "'a' \"b\""
  octal: "017"
  float: ".5"
  inf: "-.inf"
  list: "[a]"
  long: "a line that goes on and on, well beyond the eighty columns that an emitter folds at, and even a second time before it ends"
binaryData: {bytes: AAECAw==}
---
apiVersion: v1
kind: Secret
metadata: {name: secret}
stringData: {user: admin, number: "1234"}
---
apiVersion: v1
kind: Pod
metadata: {name: rich, labels: {app: rich}, annotations: {note: "x: y", long: "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890"}}
spec:
  terminationGracePeriodSeconds: 1
  nodeSelector: {kubernetes.io/os: linux}
  tolerations:
  - {key: a, operator: Equal, value: b, effect: NoSchedule}
  - {key: c, operator: Exists, effect: NoExecute, tolerationSeconds: 60}
  initContainers:
  - {name: first, image: "busybox:1", imagePullPolicy: IfNotPresent, command: [sh, -c, echo first]}
  containers:
  - name: main
    image: busybox:1
    imagePullPolicy: IfNotPresent
    command: [coracle, guest, sleep]
    args: ["3600"]
    ports: [{containerPort: 80, name: http}, {containerPort: 53, protocol: UDP}]
    resources: {limits: {cpu: 250m, memory: 64Mi}, requests: {cpu: 100m, memory: 32Mi}}
    env:
    - {name: PLAIN, value: "1"}
    - {name: LINES, value: "a\nb"}
    - {name: KEY, valueFrom: {configMapKeyRef: {name: awkward, key: n1}}}
    - {name: SECRET, valueFrom: {secretKeyRef: {name: secret, key: user, optional: true}}}
    - {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: CPU, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}
    envFrom: [{prefix: P_, secretRef: {name: secret}}, {configMapRef: {name: missing, optional: true}}]
    livenessProbe: {exec: {command: [sh, -c, exit 0]}, initialDelaySeconds: 5}
    readinessProbe: {exec: {command: [sh, -c, exit 0]}}
    startupProbe: {exec: {command: [sh, -c, exit 0]}, failureThreshold: 30}
    volumeMounts:
    - {name: memory, mountPath: /memory}
    - {name: host, mountPath: /host, readOnly: true}
    - {name: secret, mountPath: /user, subPath: user}
  - name: side
    image: busybox:1
    imagePullPolicy: IfNotPresent
    command: [coracle, guest, sleep]
    livenessProbe: {httpGet: {path: /health, port: 80}, initialDelaySeconds: 3600}
  volumes:
  - {name: memory, emptyDir: {medium: Memory, sizeLimit: 16Mi}}
  - {name: host, hostPath: {path: /usr, type: Directory}}
  - {name: config, configMap: {name: awkward, items: [{key: n1, path: n1}]}}
  - {name: secret, secret: {secretName: secret}}
  - {name: labels, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
  - name: all
    projected:
      sources:
      - {secret: {name: secret}}
      - {configMap: {name: awkward, optional: true, items: [{key: n1, path: n1}]}}
      - {downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}
      - {serviceAccountToken: {path: token, expirationSeconds: 7200}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, annotations: {kubernetes.io/change-cause: the first}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}, matchExpressions: [{key: app, operator: In, values: [x, web]}]}
  template:
    metadata: {labels: {app: web}, annotations: {x: z}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: web, image: "busybox:1", imagePullPolicy: IfNotPresent, command: [sh, -c, "echo hello; coracle guest sleep"], env: [{name: A, value: b}]}
      volumes: [{name: config, configMap: {name: awkward}}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}, {name: more, port: 81, targetPort: 8081}]}
"##;

/// For `-f`: what there is already, and a Service that nobody else has.
const FILE: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: one, labels: {app: one}}
data: {a: b}
---
apiVersion: v1
kind: Service
metadata: {name: two}
spec: {selector: {app: web}, ports: [{port: 80}]}
"#;

/// What both say of the objects of [`MANIFEST`], a line each. Words are shell words: what has blanks is in single quotes.
const LINES: &str = r##"
describe pod rich
describe deployment web
describe replicaset
describe service web
describe endpointslices
describe node node-1
describe configmap awkward
describe secret secret
describe serviceaccount default
describe namespace words
describe pod we
describe pods -l app=web --show-events=false
describe pods,configmaps missing
describe pods -l app=missing
describe

get pod rich -o kyaml
get pods,deployments,replicasets,services,secrets,nodes -o kyaml
get configmap awkward -o kyaml
get configmap awkward -o kyaml --show-managed-fields
get configmap missing -o kyaml
get pods -l app=missing -o kyaml
get pods -o camel
get pod rich -o yaml
get pods,deployments,replicasets,services,secrets -o yaml
get configmap awkward -o yaml
get node node-1 -o yaml
get pods -o json
get all
get pods -o wide --show-labels
get pods -o custom-columns=NAME:.metadata.name,LABELS:.metadata.labels,IMAGES:.spec.containers[*].image
get pods -o custom-columns=NAME:.metadata.name,NONE:.none --no-headers
get pods -o name --chunk-size=1
get pods --show-kind --watch=false
get deployments,services --show-kind --no-headers
get deployment/web pod/rich configmap/missing
get configmaps missing awkward other -o json
get configmap missing --ignore-not-found=true
get deployment web --subresource=scale
get deployment web --subresource=scale -o yaml
get deployment web --subresource=status
get deployments --subresource=status
get pods -o 'jsonpath={range .items[*]}{.metadata.name}{"\t"}{.status.phase}{"\n"}{end}'
get pods -o jsonpath --template {.items[*].metadata.name}
get pods -o jsonpath-as-json={.items[*].metadata.labels}
get pods -o 'go-template={{range .items}}{{.metadata.name}} {{.none}} {{len .spec.containers}}{{"\n"}}{{end}}'
get pods --template '{{range $i, $pod := .items}}{{if eq $pod.status.phase "Running"}}{{printf "%d %-20s|" $i $pod.metadata.name}}{{end}}{{end}}'
get secret secret -o 'go-template={{.data.user | base64decode}} {{exists .data "user"}} {{.data}} {{.type}}'
get pods -o go-template={{
get pods -o go-template
get pods -o jsonpath={
get pods -o custom-columns=NAME
get pods rich -l app=rich
get pod/rich -l app=rich
get pod/rich pods
get pod/rich -A

apply -f @ --dry-run=client
apply -f @ --dry-run=client -o name
apply -f @ --dry-run=client -o 'go-template={{range .items}}{{.metadata.namespace}}/{{.metadata.name}} {{end}}'
apply -f @ --dry-run=client --force
apply -f @ --dry-run=server --openapi-patch=false
apply -f @ --dry-run=server --openapi-patch --overwrite=false --wait --timeout=1s --grace-period=1 --cascade=foreground
apply -f @ --dry-run=server --force
apply -f @ --prune --all --prune-allowlist=core/v1/ConfigMap --prune-allowlist=apps/v1/Deployment --dry-run=client
apply -f @ --prune --all --prune-allowlist=core/v1/Pod --prune-allowlist=core/v1/ConfigMap --dry-run=server
apply -f @ --prune --all --prune-allowlist=core/v1/Pod --dry-run=server -o name
apply -f @ --prune -l app=one --prune-allowlist=core/v1/ConfigMap --prune-allowlist=core/v1/Pod --dry-run=server
apply -f @ --prune
apply -f @ --prune --all -l app=one
apply -f @ --all -l app=one
apply -f @ --prune --all --force
apply -f @ --prune --all --server-side
apply -f @ --prune --all --prune-allowlist=ConfigMap
apply -f @ --prune --all --prune-allowlist=core/v1/Missing
apply -f @ --prune-allowlist=ConfigMap --dry-run=client
apply -f @ --force --server-side
apply -f @ --subresource=status --force
apply -f @ --server-side --force-conflicts
apply -f @ --server-side --force-conflicts --dry-run=server
apply -f @ --server-side --force-conflicts -o name
apply -f @ --server-side --force-conflicts -o yaml
apply -f @ --server-side --force-conflicts -o kyaml
apply -f @ --server-side --force-conflicts -o json
apply -f @ --dry-run=client
apply -f @ --dry-run=client -o kyaml
apply -f @ --server-side --force-conflicts -o 'go-template={{range .items}}{{.metadata.name}} {{end}}'
apply -f @ --server-side -l app=missing
apply -f @ --server-side --dry-run=client
apply -f /missing.yaml
apply
get -f @
get -f @ -o name
get -f @ pods
describe -f @

scale deployment web --replicas=2
scale deployment web --replicas=2 -o name --dry-run=server
scale deployment web --replicas=2 -o json --dry-run=client
scale deployment web --replicas=2 -o kyaml --dry-run=client
scale deployment/web deployment/missing --replicas=2 --dry-run=client
scale deployment web --replicas=2 --current-replicas=7
scale deployment web --replicas=2 --resource-version=1
scale deployments --all --replicas=2 --timeout=60s
scale deployments --replicas=2
scale deployment web --replicas=-1
scale --replicas=2

logs deployment/web
logs rich
logs rich --all-containers --prefix
logs rich --all-containers -p --ignore-errors
logs rich -c missing
logs rich -c main --all-containers
logs rich --tail=-2
logs -l app=rich --prefix
logs -l app=web -f --max-log-requests=1
logs configmap/awkward
exec rich -- false
exec rich -c missing -- true
exec -- true
exec rich

rollout history deployment
rollout history deployment/web --revision=1
rollout history deployment/web --revision=1 -o yaml
rollout history deployment/web -o name
rollout history deployments -l app=missing
rollout restart pod/rich
rollout status deployment/web -w=false
rollout status deployment/web --revision=9
rollout undo deployment/web --dry-run=server
rollout undo deployment/web --to-revision=9
rollout resume deployment/web
rollout pause pod/rich
rollout pause
rollout undo deployment/web --to-revision=9 -o kyaml

wait --for=condition=Ready pod/rich
wait --for=condition=Ready pod/missing
wait --for=condition=Ready pods --all -o name
wait --for=jsonpath={.status.phase}=Running pod/rich -o jsonpath={.metadata.name}
wait --for=condition=Missing pod/rich deployment/web --timeout=1s
wait --for=condition=Missing pod/rich --timeout=0
wait --for=condition=Ready pods -l app=missing
wait --for=condition=Ready pods
wait --for=missing pod/rich
wait --for=condition=Ready pod/rich -o kyaml
wait --local --for=create -f @
wait --local --for=create -f @ -o name
wait --local --for=create pod/rich
wait --local --for=create
events --for pod/rich -o jsonpath={.items[*].reason}
events --for deployment/web -o yaml
events --for pod/missing
events --types=Missing

delete configmap missing
delete configmaps missing other
delete configmap awkward --dry-run=client
delete configmap awkward missing --dry-run=server -o name
delete -f @ --dry-run=server
delete configmap awkward -i
delete configmap awkward -o yaml
delete configmaps
delete configmaps --all -l a=b
delete
"##;

/// What neither takes: flags that a word's sisters have.
const REFUSED: &str = r#"
rollout pause deployment/web --to-revision=1
rollout pause deployment/web --dry-run=client
rollout undo deployment/web --field-manager=me
rollout undo deployment/web --revision=1
rollout status deployment/web -o name
rollout history deployment/web --watch
rollout restart deployment --all
rollout resume deployment -A
rollout
"#;

/// Other names and a generated object for what is in a file.
const KUSTOMIZATION: &str = r#"
resources: [file.yaml]
namePrefix: my-
configMapGenerator: [{name: made, literals: [a=b]}]
"#;

/// Applied first, and then [`CHANGED`]: of one object the server refuses the change, the other is not wanted any more.
const FIRST: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: fixed, labels: {app: changes}}
immutable: true
data: {a: b}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: left, labels: {app: changes}}
"#;
const CHANGED: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: fixed, labels: {app: changes}}
immutable: true
data: {a: c}
"#;

/// What both say when they change things, each of them on its own from [`FIRST`] on.
const CHANGES: &str = r#"
apply -f @ --force --dry-run=client
apply -f @
apply -f @ --force
get configmap fixed -o jsonpath={.data.a}
apply -f @ --force
apply -f @ --prune -l app=changes --prune-allowlist=core/v1/ConfigMap
get configmaps -l app=changes -o name
"#;

fn all(cluster: &Cluster) {
    let space = cluster.space("words");
    space.apply(MANIFEST);
    space.ready("rich");
    space.kubectl(&["rollout", "status", "deployment/web", &timeout()]).good();
    let file = cluster.data.join("words.yaml");
    std::fs::write(&file, FILE).unwrap();
    for line in LINES.lines().filter(|line| !line.is_empty()) {
        same(&space, &words(line, &file.display().to_string()));
    }
    let kustomized = cluster.data.join("kustomized");
    std::fs::create_dir(&kustomized).unwrap();
    std::fs::copy(&file, kustomized.join("file.yaml")).unwrap();
    std::fs::write(kustomized.join("kustomization.yaml"), KUSTOMIZATION).unwrap();
    for line in ["apply -k @ --dry-run=server", "apply -k @ -l a=b", "apply -k @ -f x", "get -k @/no -o name"] {
        same(&space, &words(line, &kustomized.display().to_string()));
    }
    for line in ["get pods --nonsense", "delete pod x -Q", "rollout status --nonsense=1 deployment/web"] {
        let [theirs, ours] = both(&space, &words(line, "")).map(|said| (said.err, said.code));
        assert_eq!(ours, (theirs.0.replace("kubectl", "coracle"), theirs.1), "{line}");
    }
    for line in REFUSED.lines().filter(|line| !line.is_empty()) {
        for said in both(&space, &words(line, "")) {
            said.bad();
        }
    }
    let [theirs, ours] = [0, 1].map(|who| {
        let say = |line: &str| {
            let words = words(line, &file.display().to_string());
            let said = if who == 0 { kubectl(&space, &words) } else { coracle(&space, &words) };
            (line.to_owned(), said.out, said.err, said.code)
        };
        std::fs::write(&file, FIRST).unwrap();
        let first = say("apply -f @");
        std::fs::write(&file, CHANGED).unwrap();
        let all: Vec<_> = std::iter::once(first).chain(CHANGES.lines().skip(1).map(say)).collect();
        space.kubectl(&["delete", "configmaps", "-l", "app=changes"]).good();
        all
    });
    assert_eq!(ours, theirs);
}

/// The words of a line; `@` is the file.
fn words(line: &str, file: &str) -> Vec<String> {
    let (mut words, mut quoted) = (vec![String::new()], false);
    for c in line.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            '@' if !quoted => words.last_mut().unwrap().push_str(file),
            c => words.last_mut().unwrap().push(c),
        }
    }
    words
}

fn kubectl(space: &Space<'_>, words: &[String]) -> Said {
    space.kubectl(&words.iter().map(String::as_str).collect::<Vec<_>>())
}

fn coracle(space: &Space<'_>, words: &[String]) -> Said {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    space.cluster.coracle(&[&words[..1], &["--namespace", &space.name], &words[1..]].concat())
}

/// What kubectl says, and what coracle says.
fn both(space: &Space<'_>, words: &[String]) -> [Said; 2] {
    [kubectl(space, words), coracle(space, words)]
}

#[track_caller]
fn same(space: &Space<'_>, words: &[String]) {
    let line = words.join(" ");
    let both = || both(space, words).map(|said| (said.out, said.err, said.code));
    let equal = (0..TRIES).any(|_| {
        let [theirs, ours] = both();
        theirs == ours
    });
    if !equal {
        let [theirs, ours] = both();
        // On a slow machine every two calls are a second apart.
        if ours.2 == theirs.2 && ages_apart(&ours.0, &theirs.0) && ages_apart(&ours.1, &theirs.1) {
            return;
        }
        assert_eq!(ours.0, theirs.0, "{line}: output");
        assert_eq!((ours.1, ours.2), (theirs.1, theirs.2), "{line}: errors and exit code");
    }
}

/// Whether two texts differ in ages and times of day only.
fn ages_apart(ours: &str, theirs: &str) -> bool {
    let age = |word: &str| {
        let word = word.trim_matches(|c| "()".contains(c));
        word.starts_with(|c: char| c.is_ascii_digit())
            && (word.trim_matches(|c: char| c.is_ascii_digit() || "dhms".contains(c)).is_empty()
                || word.len() == 8 && word.trim_matches(|c: char| c.is_ascii_digit() || c == ':').is_empty())
    };
    let (ours, theirs): (Vec<_>, Vec<_>) = (ours.split_whitespace().collect(), theirs.split_whitespace().collect());
    ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(a, b)| *a == b || age(a) && age(b))
}

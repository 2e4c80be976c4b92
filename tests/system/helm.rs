//! Stock helm: install, upgrade, roll back, uninstall a chart.

use crate::harness::{Cluster, run, timeout};
use crate::shared;
use libtest_mimic::Trial;
use std::path::Path;

pub fn trials() -> Vec<Trial> {
    vec![shared("helm_installs_upgrades_rolls_back_and_uninstalls", chart)]
}

const TEMPLATE: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {app: {{ .Release.Name }}}}
  template:
    metadata: {labels: {app: {{ .Release.Name }}}}
    spec:
      containers: [{name: hello, image: 'hello:1', args: [serve, --version, {{ .Values.version }}]}]
---
apiVersion: v1
kind: Service
metadata: {name: {{ .Release.Name }}}
spec: {selector: {app: {{ .Release.Name }}}, ports: [{port: 80, targetPort: 8080}]}
";

fn write_chart(dir: &Path) {
    std::fs::create_dir_all(dir.join("templates")).unwrap();
    std::fs::write(dir.join("Chart.yaml"), "apiVersion: v2\nname: hello\nversion: 0.1.0\n").unwrap();
    std::fs::write(dir.join("values.yaml"), "replicas: 2\nversion: v1\n").unwrap();
    std::fs::write(dir.join("templates/all.yaml"), TEMPLATE).unwrap();
}

fn chart(cluster: &Cluster) {
    let space = cluster.space("helm");
    let dir = cluster.data.join("chart");
    write_chart(&dir);
    let chart = dir.to_str().unwrap();
    let helm = |args: &[&str]| run(cluster.program("helm", "helm").args(args), "").good();
    let version = || space.value("deployment/hi", "{.spec.template.spec.containers[0].args[2]}");
    helm(&["install", "hi", chart, "--wait", &timeout()]);
    assert_eq!(space.value("deployment/hi", "{.status.availableReplicas}"), "2");
    helm(&["upgrade", "hi", chart, "--wait", &timeout(), "--set", "version=v2"]);
    assert_eq!(version(), "v2");
    helm(&["rollback", "hi", "1", "--wait", &timeout()]);
    assert_eq!(version(), "v1");
    assert!(helm(&["list"]).contains("deployed"));
    helm(&["uninstall", "hi", "--wait", &timeout()]);
    assert_eq!(space.value("deployments,services,secrets", "{.items[*].metadata.name}"), "");
}

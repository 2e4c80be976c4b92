//! `coracle logs`: kubectl's logs.
use std::io::{BufWriter, Write};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::Args;
use futures::AsyncBufReadExt;
use serde_json::Value;

use super::door::{Door, status, with_query};
use super::resource::{Discovery, Item};
use super::scope::{Scope, Select, duration};
use super::{print, wait};
use crate::api::meta;

/// Which container `logs` and `exec` mean when nobody says.
pub const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
/// With a selector kubectl shows this many lines of each pod.
const TAIL_OF_MANY: i64 = 10;

/// Flags of `logs`.
#[derive(Args)]
pub struct Logs {
    /// POD or TYPE/NAME, and maybe the container
    words: Vec<String>,
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    select: Select,
    /// Container
    #[arg(short, long)]
    container: Option<String>,
    /// All containers of the pod
    #[arg(long)]
    all_containers: bool,
    /// Go on as the log grows
    #[arg(short, long)]
    follow: bool,
    /// The container's run before this one
    #[arg(short, long)]
    previous: bool,
    /// The last lines only; -1 is all
    #[arg(long, allow_negative_numbers = true)]
    tail: Option<i64>,
    /// Newer than this, as in 5s or 2m
    #[arg(long, value_parser = duration)]
    since: Option<Duration>,
    /// Newer than this time (RFC 3339)
    #[arg(long, default_value = "", hide_default_value = true)]
    since_time: String,
    /// With the time of each line
    #[arg(long)]
    timestamps: bool,
    /// At most this many bytes
    #[arg(long)]
    limit_bytes: Option<u64>,
    /// Say where each line is from
    #[arg(long)]
    prefix: bool,
    /// All pods of the object, with --prefix
    #[arg(long)]
    all_pods: bool,
    /// Go on with the other logs when one cannot be read
    #[arg(long)]
    ignore_errors: bool,
    /// Follow at most this many logs
    #[arg(long, default_value_t = 5)]
    max_log_requests: usize,
    /// How long to wait for an object's first pod
    #[arg(long, default_value = "20s", value_parser = duration)]
    pod_running_timeout: Duration,
    /// Accepted as kubectl's; changes nothing: there is no TLS between the daemon and its nodes
    #[arg(long)]
    insecure_skip_tls_verify_backend: bool,
}

impl Logs {
    /// Runs it.
    pub async fn run(self, door: &Door) -> Result<()> {
        self.check()?;
        let discovery = Discovery::load(door).await?;
        let pods = self.pods(door, &discovery).await?;
        let mut streams = Vec::new();
        for pod in &pods {
            for container in self.containers(pod)? {
                streams.push((pod, container));
            }
        }
        if !self.follow {
            for (pod, container) in streams {
                self.copy(door, pod, &container).await?;
            }
            return Ok(());
        }
        let (count, most) = (streams.len(), self.max_log_requests);
        ensure!(
            count <= most,
            "you are attempting to follow {count} log streams, but maximum allowed concurrency is {most}, use --max-log-requests to increase the limit"
        );
        let all = streams.iter().map(|(pod, container)| self.copy(door, pod, container));
        futures::future::try_join_all(all).await?;
        Ok(())
    }

    /// What cannot be said in one line.
    fn check(&self) -> Result<()> {
        let selected = !self.select.is_empty();
        ensure!(
            (1..=2).contains(&self.words.len()) || (self.words.is_empty() && selected),
            "expected 'logs [-f] [-p] (POD | TYPE/NAME) [-c CONTAINER]'.\nPOD or TYPE/NAME is a required argument for the logs command"
        );
        ensure!(self.words.is_empty() || !selected, "only a selector (-l) or a POD name is allowed");
        if let Some(container) = &self.container {
            ensure!(self.words.len() < 2, "only one of -c or an inline [CONTAINER] arg is allowed");
            ensure!(
                !self.all_containers,
                "--all-containers=true should not be specified with container name {container}"
            );
        }
        ensure!(self.tail.is_none_or(|lines| lines >= -1), "--tail must be greater than or equal to -1");
        ensure!(
            self.since.is_none() || self.since_time.is_empty(),
            "at most one of `sinceTime` or `sinceSeconds` may be specified"
        );
        ensure!(!self.pod_running_timeout.is_zero(), "--pod-running-timeout must be higher than zero");
        Ok(())
    }

    async fn pods(&self, door: &Door, discovery: &Discovery) -> Result<Vec<Value>> {
        let Some(word) = self.words.first() else {
            let path = discovery.find("pods")?.path(self.scope.namespace());
            let list = door.get(&self.select.query(&path)).await?;
            let found = meta::list(&list, &["items"]);
            if found.is_empty() {
                self.scope.say_nothing_found(true);
            }
            return Ok(found.to_vec());
        };
        let namespace = &self.scope.namespace;
        let item = discovery.one(std::slice::from_ref(word), Some("pods"), namespace)?;
        match pods_behind(door, &item, self.pod_running_timeout, "get the logs from").await {
            // kubectl words this one differently for logs.
            Err(error) if status(&error).is_some_and(|status| status.code == 404) => {
                let message = status(&error).map_or("", |status| &status.message);
                bail!("error from server (NotFound): {message} in namespace {namespace:?}")
            }
            Ok(pods) if !self.all_pods => Ok(vec![chosen(pods, true)]),
            pods => pods,
        }
    }

    fn containers(&self, pod: &Value) -> Result<Vec<String>> {
        if self.all_containers {
            return Ok(["initContainers", "containers"].iter().flat_map(|list| names(pod, list)).collect());
        }
        let given = self.container.as_ref().or(self.words.get(1));
        Ok(vec![container(pod, given.map(String::as_str), !self.all_pods)?])
    }

    async fn copy(&self, door: &Door, pod: &Value, container: &str) -> Result<()> {
        let flag = |set: bool| if set { "true" } else { "" };
        let tail = self.tail.or((!self.select.is_empty()).then_some(TAIL_OF_MANY)).filter(|lines| *lines >= 0);
        let text = |number: Option<u64>| number.map(|number| number.to_string()).unwrap_or_default();
        let path = with_query(
            &format!("/api/v1/namespaces/{}/pods/{}/log", meta::namespace(pod), meta::name(pod)),
            &[
                ("container", container),
                ("follow", flag(self.follow)),
                ("previous", flag(self.previous)),
                ("timestamps", flag(self.timestamps)),
                ("tailLines", &tail.map(|lines| lines.to_string()).unwrap_or_default()),
                ("sinceSeconds", &text(self.since.map(|since| since.as_secs().max(1)))),
                ("sinceTime", &self.since_time),
                ("limitBytes", &text(self.limit_bytes)),
            ],
        );
        let prefix = if self.prefix || self.all_pods {
            format!("[pod/{}/{container}] ", meta::name(pod))
        } else {
            String::new()
        };
        let mut stream = match door.stream(&path, "*/*").await {
            Err(error) if self.ignore_errors => {
                println!("error: {}", super::error::plain(&error));
                return Ok(());
            }
            stream => stream?,
        };
        let (mut out, mut line) = (BufWriter::new(std::io::stdout()), Vec::new());
        while stream.read_until(b'\n', &mut line).await? > 0 {
            out.write_all(prefix.as_bytes())?;
            out.write_all(&line)?;
            if self.follow {
                out.flush()?;
            }
            line.clear();
        }
        Ok(out.flush()?)
    }
}

/// The pod that was named, or all that belong to the object that was named: at least one, for which this waits. `doing` is
/// what cannot be done with an object that has no pods.
pub async fn pods_behind(door: &Door, item: &Item, time: Duration, doing: &str) -> Result<Vec<Value>> {
    let (object, resource) = (door.get(&item.path()).await?, &item.resource);
    if resource.plural == "pods" {
        return Ok(vec![object]);
    }
    let labels = meta::map(&object, &["spec", "selector", "matchLabels"]);
    let Some(selector) = labels.or_else(|| meta::map(&object, &["spec", "selector"])) else {
        let kind = format!("*{}.{}", resource.version, resource.kind);
        bail!("cannot {doing} {kind}: selector for {kind} not implemented")
    };
    let path = format!("/api/v1/namespaces/{}/pods", item.namespace);
    let path = with_query(&path, &[("labelSelector", &print::labels(Some(selector), ","))]);
    let some = wait::until_any(door, &path, time, |pod| Ok(pod.is_some()));
    ensure!(some.await?, "timed out waiting for the condition");
    Ok(meta::list(&door.get(&path).await?, &["items"]).to_vec())
}

/// One of several pods; logs say so.
pub fn chosen(mut pods: Vec<Value>, for_logs: bool) -> Value {
    pods.sort_by_key(|pod| preference(pod, for_logs));
    if for_logs && pods.len() > 1 {
        eprintln!("Found {} pods, using pod/{}", pods.len(), meta::name(&pods[0]));
    }
    pods.into_iter().next().unwrap_or_default()
}

/// kubectl's order of pods when one has to be chosen: on a node, running, ready, ready for the longest time. Then
/// `logs` wants the one that was restarted most, `exec` the one that was restarted least; last comes age.
fn preference(pod: &Value, for_logs: bool) -> impl Ord + use<> {
    let phase = match meta::text(pod, &["status", "phase"]) {
        "Unknown" => 1,
        "Pending" => 2,
        _ => 0,
    };
    let mut conditions = meta::list(pod, &["status", "conditions"]).iter();
    let ready = conditions.find(|it| meta::text(it, &["type"]) == "Ready" && meta::text(it, &["status"]) == "True");
    let since = ready.map(|it| meta::text(it, &["lastTransitionTime"]).to_owned());
    let restarts = meta::list(pod, &["status", "containerStatuses"]).iter();
    let restarts = restarts.filter_map(|it| meta::int(it, &["restartCount"])).max().unwrap_or(0);
    (
        meta::text(pod, &["spec", "nodeName"]).is_empty(),
        phase,
        ready.is_none(),
        since,
        if for_logs { -restarts } else { restarts },
        meta::text(pod, &["metadata", "creationTimestamp"]).to_owned(),
    )
}

/// The container that was named, or the pod's default, which is said when there was a choice.
pub fn container(pod: &Value, given: Option<&str>, say: bool) -> Result<String> {
    let all = names(pod, "containers");
    if let Some(given) = given {
        let lists = ["containers", "initContainers", "ephemeralContainers"];
        let known = lists.iter().flat_map(|list| names(pod, list)).any(|name| name == given);
        ensure!(known, "container {given} is not valid for pod {}", meta::name(pod));
        return Ok(given.to_owned());
    }
    if let Some(name) = meta::annotation(pod, DEFAULT_CONTAINER) {
        return Ok(name.to_owned());
    }
    let Some(first) = all.first().cloned() else { bail!("pod {} has no containers", meta::name(pod)) };
    let mut choice = all;
    for (list, kind) in [("ephemeralContainers", "ephem"), ("initContainers", "init")] {
        choice.extend(names(pod, list).iter().map(|name| format!("{name} ({kind})")));
    }
    if choice.len() > 1 && say {
        eprintln!("Defaulted container {first:?} out of: {}", choice.join(", "));
    }
    Ok(first)
}

fn names(pod: &Value, list: &str) -> Vec<String> {
    meta::list(pod, &["spec", list]).iter().map(|container| meta::text(container, &["name"]).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_several_pods_kubectls_choice_is_taken() {
        let pod = |name: &str, phase: &str, ready: Option<&str>, restarts: i64| {
            let conditions = ready.map(|at| json!([{"type": "Ready", "status": "True", "lastTransitionTime": at}]));
            json!({
                "metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
                "spec": {"nodeName": "node-1"},
                "status": {"phase": phase, "conditions": conditions, "containerStatuses": [{"restartCount": restarts}]},
            })
        };
        let order = |for_logs: bool| {
            let mut pods = [
                pod("pending", "Pending", None, 0),
                pod("unready", "Running", None, 0),
                pod("young", "Running", Some("2026-01-01T00:00:09Z"), 9),
                pod("steady", "Running", Some("2026-01-01T00:00:01Z"), 0),
                pod("restarted", "Running", Some("2026-01-01T00:00:01Z"), 3),
            ];
            pods.sort_by_key(|pod| preference(pod, for_logs));
            pods.map(|pod| meta::name(&pod).to_owned())
        };
        assert_eq!(order(true), ["restarted", "steady", "young", "unready", "pending"]);
        assert_eq!(order(false), ["steady", "restarted", "young", "unready", "pending"]);
    }
}

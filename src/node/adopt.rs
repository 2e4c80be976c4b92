//! After a restart of the daemon: what a node knows about its pods is made again from what the runtime finds, the
//! status in the API and the disk. Nothing is restarted because of it.
use super::{
    Node, NodeError,
    entry::Entry,
    exits,
    observed::{ContainerSeen, Exit, ImageSeen, Observed, Probes, Run, SandboxSeen},
    oci,
    probe::ProbeState,
    setup, spec,
};
use crate::runtime::{ContainerState, SandboxState};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerState as ApiState, ContainerStateTerminated, ContainerStatus, Pod};
use std::{collections::BTreeMap, path::Path, sync::Arc};

/// Sandboxes of this node by pod uid.
pub type Found = BTreeMap<String, SandboxState>;

impl Node {
    /// The sandboxes that are here, their addresses taken again.
    pub(super) async fn find(&self) -> Result<Found, NodeError> {
        let all = self.runtime.list().await?;
        let ours = all.into_iter().filter(|s| s.spec.labels.get(setup::NODE) == Some(&self.config.name));
        let found: Found = ours.map(|sandbox| (sandbox.spec.id.clone(), sandbox)).collect();
        let mut ipam = self.ipam.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for sandbox in found.values() {
            if let Some(ip) = sandbox.spec.labels.get(setup::IP).and_then(|ip| ip.parse().ok()) {
                ipam.reserve(ip)?;
            }
        }
        Ok(found)
    }

    /// The entry of a pod that is bound here, given its sandbox if there is one.
    pub(super) async fn adopt(&self, pod: Arc<Pod>, sandbox: Option<&SandboxState>) -> Entry {
        let mut seen = from_status(&pod, Timestamp::now());
        if let Some(sandbox) = sandbox {
            self.adopt_sandbox(&pod, sandbox, &mut seen).await;
        }
        let mut entry = Entry::new(pod, seen);
        entry.wanted = entry.pod.status.clone().filter(|status| status.start_time.is_some());
        entry.written = entry.wanted.clone();
        entry
    }

    async fn adopt_sandbox(&self, pod: &Arc<Pod>, sandbox: &SandboxState, seen: &mut Observed) {
        let labels = &sandbox.spec.labels;
        seen.ip = labels.get(setup::IP).and_then(|ip| ip.parse().ok());
        seen.generation = labels.get(setup::GENERATION).and_then(|n| n.parse().ok()).unwrap_or(0);
        seen.sandbox = if sandbox.pid.is_some() { SandboxSeen::Ready } else { SandboxSeen::Dead };
        // A sandbox is only made of what was admitted. Files are looked at again: they may have changed meanwhile.
        (seen.admitted, seen.volumes, seen.torn_down) = (true, false, false);
        for (_, container) in spec::containers(pod) {
            let attempts = sandbox.containers.iter().filter(|c| c.name == container.name);
            let Some(newest) = attempts.clone().max_by_key(|c| c.attempt) else {
                continue;
            };
            let before = attempts.filter(|c| c.attempt < newest.attempt).max_by_key(|c| c.attempt);
            let known = seen.containers.entry(container.name.clone()).or_default();
            let mut state = ContainerSeen {
                attempt: newest.attempt,
                generation: seen.generation,
                crashes: newest.attempt,
                probes: match known.attempt == newest.attempt {
                    true => std::mem::take(&mut known.probes),
                    false => Probes::default(),
                },
                previous: known.previous.take(),
                image: known.image.take(),
                ..ContainerSeen::default()
            };
            if let Some(record) = before.and_then(|c| c.exit.as_ref()) {
                let words = self.words(&sandbox.spec.id, pod, record).await;
                state.previous = Some(exits::exit(record, words));
            }
            state.run = self.adopt_run(pod, sandbox, newest).await;
            let bundle = sandbox.spec.dir.join("containers").join(&container.name);
            let bundle = bundle.join(newest.attempt.to_string());
            state.image = image_of(&bundle).await.or(state.image);
            *known = state;
        }
    }

    async fn adopt_run(&self, pod: &Arc<Pod>, sandbox: &SandboxState, newest: &ContainerState) -> Run {
        match &newest.exit {
            None if sandbox.pid.is_some() => Run::Running { since: newest.started_at },
            None => Run::Exited(lost(newest.attempt, newest.started_at, Timestamp::now())),
            Some(record) => {
                let words = self.words(&sandbox.spec.id, pod, record).await;
                Run::Exited(exits::exit(record, words))
            }
        }
    }

    /// A sandbox without a pod: it is taken down like that of a deleted pod.
    pub(super) fn orphan(&self, sandbox: &SandboxState) {
        let mut pod = Pod::default();
        pod.metadata.uid = Some(sandbox.spec.id.clone());
        pod.metadata.name = Some(sandbox.spec.name.clone());
        pod.metadata.namespace = Some(sandbox.spec.namespace.clone());
        let ip = sandbox.spec.labels.get(setup::IP).and_then(|ip| ip.parse().ok());
        let seen = Observed { gone: true, ip, ..Observed::default() };
        let entry = Entry::new(Arc::new(pod), seen);
        self.pods.lock().insert(sandbox.spec.id.clone(), entry);
        self.queue.add(sandbox.spec.id.clone());
    }
}

/// What the API remembers of a pod that has no sandbox here (any more). Its containers have ended: they are started
/// again, or not, as their restart policy says; as on a machine that was switched off and on.
fn from_status(pod: &Pod, now: Timestamp) -> Observed {
    let Some(status) = &pod.status else {
        return Observed::default();
    };
    let mut seen = Observed { start_time: status.start_time.as_ref().map(|time| time.0), ..Observed::default() };
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        (seen.settled, seen.torn_down) = (true, true);
    }
    let init = status.init_container_statuses.iter().flatten();
    for known in init.chain(status.container_statuses.iter().flatten()) {
        seen.containers.insert(known.name.clone(), from_container_status(known, now));
    }
    if seen.containers.values().any(|c| c.run != Run::Never) {
        // Those ran in a sandbox that is gone; the next one is another.
        seen.generation = 1;
    }
    seen
}

fn from_container_status(known: &ContainerStatus, now: Timestamp) -> ContainerSeen {
    let attempt = known.restart_count.max(0) as u32;
    let ended = |state: &Option<ApiState>, attempt| {
        state.as_ref().and_then(|s| s.terminated.as_ref()).map(|t| from_terminated(t, attempt, now))
    };
    let last = ended(&known.last_state, attempt.saturating_sub(1));
    let running = known.state.as_ref().and_then(|s| s.running.as_ref());
    let waiting = known.state.as_ref().is_some_and(|s| s.waiting.is_some());
    let (run, previous) = match (running, ended(&known.state, attempt)) {
        (Some(running), _) => {
            let since = running.started_at.as_ref().map_or(now, |t| t.0);
            (Run::Exited(lost(attempt, since, now)), last)
        }
        (_, Some(exit)) => (Run::Exited(exit), last),
        // Waiting to be restarted: the last state is the newest attempt's end.
        _ if waiting && known.container_id.is_some() => match ended(&known.last_state, attempt) {
            Some(exit) => (Run::Exited(exit), None),
            None => (Run::Never, None),
        },
        _ => (Run::Never, last),
    };
    let image =
        (!known.image_id.is_empty()).then(|| ImageSeen { reference: known.image.clone(), id: known.image_id.clone() });
    // What was ready goes on being ready until its probe says otherwise: nobody downstream notices our absence.
    let verdict = |passed: bool| ProbeState { verdict: passed.then_some(true), ..ProbeState::default() };
    let (startup, readiness) = (verdict(known.started == Some(true)), verdict(known.ready));
    let probes = Probes { startup, readiness, ..Probes::default() };
    ContainerSeen { run, attempt, previous, image, probes, crashes: attempt, ..ContainerSeen::default() }
}

fn from_terminated(t: &ContainerStateTerminated, attempt: u32, now: Timestamp) -> Exit {
    Exit {
        attempt,
        code: t.exit_code,
        signal: t.signal,
        reason: t.reason.clone().unwrap_or_else(|| "Error".into()),
        message: t.message.clone(),
        started: t.started_at.as_ref().map_or(now, |t| t.0),
        finished: t.finished_at.as_ref().map_or(now, |t| t.0),
    }
}

/// The end of a container that nobody saw.
fn lost(attempt: u32, started: Timestamp, now: Timestamp) -> Exit {
    Exit {
        attempt,
        code: 137,
        signal: None,
        reason: "ContainerStatusUnknown".into(),
        message: Some("The container could not be located when the pod was terminated".into()),
        started,
        finished: now,
    }
}

/// What an attempt runs from, as its config.json says.
async fn image_of(bundle: &Path) -> Option<ImageSeen> {
    let text = tokio::fs::read(bundle.join("config.json")).await.ok()?;
    let spec: oci_spec::runtime::Spec = serde_json::from_slice(&text).ok()?;
    let notes = spec.annotations().as_ref()?;
    let get = |key: &str| notes.get(key).cloned();
    Some(ImageSeen { reference: get(oci::IMAGE)?, id: get(oci::IMAGE_ID)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_rebooted_node_takes_running_containers_for_ended() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "status": {
            "phase": "Running", "startTime": "2026-01-01T00:00:00Z",
            "containerStatuses": [{"name": "c", "image": "i", "imageID": "x", "ready": true, "restartCount": 2,
                "containerID": "coracle://1", "state": {"running": {"startedAt": "2026-01-01T00:00:01Z"}},
                "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2026-01-01T00:00:00Z"}}}]}}))
        .unwrap();
        let seen = from_status(&pod, Timestamp::UNIX_EPOCH);
        let c = &seen.containers["c"];
        assert_eq!((c.attempt, c.exit().unwrap().code, c.previous.as_ref().unwrap().code), (2, 137, 1));
        assert_eq!((c.probes.readiness.verdict, c.probes.startup.verdict), (Some(true), None));
        assert_eq!(seen.generation, 1);
        let done: Pod = serde_json::from_value(json!({"metadata": {}, "status": {"phase": "Failed"}})).unwrap();
        assert!(from_status(&done, Timestamp::UNIX_EPOCH).settled);
    }
}

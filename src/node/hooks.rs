//! What takes its time and must not hold up the queue: lifecycle hooks, stopping, and probes. Each runs as a task
//! of its own and comes back as an observation.
use super::{
    Node, NodeError,
    observed::{Hook, Stopping},
    plan::AFTER_HOOK,
    probe::{Asker, Kind, Target},
    spec,
    step::Why,
};
use crate::client::Severity;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};
use nix::sys::signal::Signal;
use std::{net::IpAddr, sync::Arc, time::Duration};

/// How long a postStart hook may take; the kubelet would wait for ever.
const POST_START: Duration = Duration::from_secs(600);

impl Node {
    fn asker(&self) -> Asker {
        Asker { net: self.net.clone(), runtime: self.runtime.clone() }
    }

    fn target(&self, uid: &str, pod: &Pod, container: &Container) -> Target {
        let ip = self.pods.seen(uid, |seen| seen.ip).flatten();
        let ip = if spec::host_network(pod) { Some(self.host_ip()) } else { ip };
        Target {
            pod_uid: uid.to_string(),
            ip: ip.map_or(IpAddr::from([127, 0, 0, 1]), IpAddr::from),
            container: container.clone(),
        }
    }

    fn newest(&self, uid: &str, name: &str) -> Option<u32> {
        self.pods.seen(uid, |seen| seen.containers.get(name).map(|s| s.attempt)).flatten()
    }

    /// Asks one probe; the answer comes back through `Observed`.
    pub(super) fn probe(self: &Arc<Self>, uid: &str, pod: &Arc<Pod>, name: &str, kind: Kind, now: Timestamp) {
        let Some((_, container)) = spec::container(pod, name) else {
            return;
        };
        let probe = match kind {
            Kind::Startup => &container.startup_probe,
            Kind::Readiness => &container.readiness_probe,
            Kind::Liveness => &container.liveness_probe,
        };
        let (Some(probe), Some(attempt)) = (probe.clone(), self.newest(uid, name)) else {
            return;
        };
        self.pods.attempt(uid, name, attempt, |seen| {
            let state = state(seen, kind);
            (state.asked, state.in_flight) = (Some(now), true);
        });
        let (node, pod, uid) = (self.clone(), pod.clone(), uid.to_string());
        let (target, name) = (self.target(&uid, &pod, container), name.to_string());
        tokio::spawn(async move {
            let answer = node.asker().ask(&target, &probe).await;
            let told = node.pods.attempt(&uid, &name, attempt, |seen| {
                let since = match kind {
                    Kind::Startup => None,
                    _ => seen.probes.startup.asked,
                };
                let since = since.or(seen.running_since()).unwrap_or(now);
                state(seen, kind).record(kind, &probe, since, answer.is_ok())
            });
            if let (Some(true), Err(why)) = (told, answer) {
                let message = format!("{} probe failed: {why}", kind.word());
                node.note_container(&pod, &name, Severity::Warning, "Unhealthy", message);
            }
            node.queue.add(uid);
        });
    }

    /// Runs the postStart hook of a container that has just started. A hook that fails ends the container.
    pub(super) fn post_start(self: &Arc<Self>, uid: &str, pod: &Arc<Pod>, container: &Container, attempt: u32) {
        let hook = container.lifecycle.as_ref().and_then(|l| l.post_start.clone());
        let Some(hook) = hook else { return };
        let (node, pod, uid) = (self.clone(), pod.clone(), uid.to_string());
        let (target, name) = (self.target(&uid, &pod, container), container.name.clone());
        tokio::spawn(async move {
            let done = tokio::time::timeout(POST_START, run_hook(&node.asker(), &target, &hook)).await;
            let failed = done.unwrap_or_else(|_| Err("timed out".into())).err();
            // One that is stopped already is not stopped again: that may be why the hook failed.
            let stays = node.pods.attempt(&uid, &name, attempt, |seen| {
                seen.post_start = Hook::Done;
                seen.stopping.is_none() && seen.is_running()
            });
            if let Some(why) = failed.filter(|_| stays == Some(true)) {
                let message = format!("PostStartHook failed: {why}");
                node.note_container(&pod, &name, Severity::Warning, "FailedPostStartHook", message);
                let grace = Duration::from_secs(spec::grace(&pod) as u64);
                if let Err(error) = node.stop(&uid, &pod, &name, grace, Why::PostStart, Timestamp::now()).await {
                    tracing::warn!(pod = uid, container = name, %error, "stopping after a failed hook");
                }
            }
            node.queue.add(uid);
        });
    }

    /// Asks a container to end: the preStop hook, then the stop signal. `Kill` follows at the deadline.
    pub(super) async fn stop(
        self: &Arc<Self>,
        uid: &str,
        pod: &Arc<Pod>,
        name: &str,
        grace: Duration,
        why: Why,
        now: Timestamp,
    ) -> Result<(), NodeError> {
        let Some((_, container)) = spec::container(pod, name) else {
            return Ok(());
        };
        let Some(attempt) = self.newest(uid, name) else {
            return Ok(());
        };
        let message = match why {
            Why::PodEnds => format!("Stopping container {name}"),
            Why::PostStart => "FailedPostStartHook".into(),
            Why::Unhealthy(kind) => {
                let word = kind.word().to_lowercase();
                format!("Container {name} failed {word} probe, will be restarted")
            }
        };
        self.note_container(pod, name, Severity::Normal, "Killing", message);
        let hook = container.lifecycle.as_ref().and_then(|l| l.pre_stop.clone());
        let limit = grace + hook.as_ref().map_or(Duration::ZERO, |_| AFTER_HOOK);
        self.pods.attempt(uid, name, attempt, |seen| {
            seen.stopping = Some(Stopping { deadline: now + limit, forced: false });
        });
        let signal = self.stop_signal(uid, container).await;
        let Some(hook) = hook else {
            return Ok(self.runtime.kill(uid, name, signal).await?);
        };
        let (node, pod, uid) = (self.clone(), pod.clone(), uid.to_string());
        let (target, name) = (self.target(&uid, &pod, container), name.to_string());
        tokio::spawn(async move {
            let done = tokio::time::timeout(grace, run_hook(&node.asker(), &target, &hook)).await;
            if let Ok(Err(why)) = &done {
                let message = format!("PreStopHook failed: {why}");
                node.note_container(&pod, &name, Severity::Warning, "FailedPreStopHook", message);
            }
            let deadline = (now + grace).max(Timestamp::now() + AFTER_HOOK);
            node.pods.attempt(&uid, &name, attempt, |seen| {
                seen.stopping.iter_mut().for_each(|stopping| stopping.deadline = deadline);
            });
            if let Err(error) = node.runtime.kill(&uid, &name, signal).await {
                tracing::warn!(pod = uid, container = name, %error, "sending the stop signal");
            }
            node.queue.add(uid);
        });
        Ok(())
    }

    /// The manifest's stop signal, else the image's, else SIGTERM.
    async fn stop_signal(&self, uid: &str, container: &Container) -> i32 {
        let own = container.lifecycle.as_ref().and_then(|l| l.stop_signal.clone());
        let name = match own {
            Some(name) => Some(name),
            None => {
                let (images, name) = (self.images.clone(), container.name.clone());
                let image = self
                    .pods
                    .seen(uid, |seen| seen.containers.get(&name).and_then(|s| s.image.as_ref().map(|i| i.id.clone())));
                super::setup::blocking(move || {
                    let id = image.flatten().unwrap_or_default();
                    let image = images.resolve(&id).map_err(|e| e.to_string())?;
                    Ok(image.config.config().as_ref().and_then(|c| c.stop_signal().clone()))
                })
                .await
                .unwrap_or_default()
            }
        };
        name.and_then(|name| signal(&name)).unwrap_or(libc::SIGTERM)
    }
}

fn state(seen: &mut super::observed::ContainerSeen, kind: Kind) -> &mut super::probe::ProbeState {
    match kind {
        Kind::Startup => &mut seen.probes.startup,
        Kind::Readiness => &mut seen.probes.readiness,
        Kind::Liveness => &mut seen.probes.liveness,
    }
}

/// `SIGTERM`, `TERM` or `15`.
fn signal(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return Some(number).filter(|n| (1..=64).contains(n));
    }
    let full = if name.starts_with("SIG") { name.to_string() } else { format!("SIG{name}") };
    full.parse::<Signal>().ok().map(|signal| signal as i32)
}

async fn run_hook(asker: &Asker, target: &Target, hook: &LifecycleHandler) -> Result<(), String> {
    if let Some(exec) = &hook.exec {
        // The caller's own limit is what ends it.
        asker.exec(target, exec, POST_START).await
    } else if let Some(http) = &hook.http_get {
        // Whatever the answer: a hook has no opinion to give.
        asker.http(target, http, "kube-lifecycle/1.35").await.map(drop)
    } else if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(sleep.seconds.max(0) as u64)).await;
        Ok(())
    } else {
        Err("the hook names nothing to do".into())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn signals_by_name_and_number() {
        assert_eq!(super::signal("SIGQUIT"), Some(libc::SIGQUIT));
        assert_eq!(super::signal("HUP"), Some(libc::SIGHUP));
        assert_eq!(super::signal("10"), Some(10));
        assert_eq!(super::signal("SIGNOTHING"), None);
        assert_eq!(super::signal("0"), None);
    }
}

//! What the runtime tells: containers that ended, sandboxes that died.
use super::{
    Node,
    observed::{Exit, Run, SandboxSeen},
    setup::blocking,
    spec::{self, Restart},
};
use crate::{
    client::Severity,
    runtime::{ContainerState, Event, ExitRecord},
};
use k8s_openapi::api::core::v1::Pod;
use std::{
    fs,
    io::{Read, Seek, SeekFrom},
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio_util::sync::CancellationToken;

/// Bytes of a termination message; the kubelet's limit.
const MAX_MESSAGE: u64 = 4096;
/// Bytes and lines of a log that stand in for a message.
const MAX_LOG_MESSAGE: u64 = 2048;
const MAX_LOG_LINES: usize = 80;

/// An exit record in the words of a container status.
pub fn exit(record: &ExitRecord, message: Option<String>) -> Exit {
    let reason = match record {
        ExitRecord { known: false, .. } => "ContainerStatusUnknown",
        ExitRecord { oom_killed: true, .. } => "OOMKilled",
        ExitRecord { code: 0, .. } => "Completed",
        _ => "Error",
    };
    Exit {
        attempt: record.attempt,
        code: record.code,
        signal: record.signal,
        reason: reason.into(),
        message,
        started: record.started_at,
        finished: record.finished_at,
    }
}

/// The last words of an attempt: its termination message, or the end of its log if it failed and wants that.
pub fn last_words(pod: &Pod, container: &str, failed: bool, message: &Path, log: &Path) -> Option<String> {
    let text = tail(message, MAX_MESSAGE).filter(|text| !text.is_empty());
    let (_, container) = spec::container(pod, container)?;
    let fallback = container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
    if text.is_some() || !failed || !fallback {
        return text;
    }
    // The log's own columns take room too: read more than is kept.
    let lines = tail(log, 2 * MAX_LOG_MESSAGE)?;
    let lines: Vec<&str> = lines.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).collect();
    let kept = lines.len().saturating_sub(MAX_LOG_LINES);
    let text = lines[kept..].join("\n") + "\n";
    let cut = text.len().saturating_sub(MAX_LOG_MESSAGE as usize);
    let start = (cut..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    Some(text[start..].to_string())
}

fn tail(path: &Path, limit: u64) -> Option<String> {
    let mut file = fs::File::open(path).ok()?;
    let size = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(limit))).ok()?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

impl Node {
    /// Takes in the runtime's events until `shutdown`.
    pub(super) async fn follow_runtime(
        self: Arc<Self>,
        mut events: Receiver<(String, Event)>,
        shutdown: CancellationToken,
    ) {
        while let Some(event) = shutdown.run_until_cancelled(events.recv()).await {
            match event {
                Ok((uid, event)) => self.happened(&uid, event).await,
                // Too many at once: what was missed is on disk.
                Err(RecvError::Lagged(_)) => {
                    let all: Vec<String> = self.pods.lock().keys().cloned().collect();
                    for uid in all {
                        self.look(&uid).await;
                    }
                }
                Err(RecvError::Closed) => break,
            }
        }
    }

    async fn happened(self: &Arc<Self>, uid: &str, event: Event) {
        if self.pods.get(uid).is_none() {
            return;
        }
        match event {
            Event::Started { name, attempt, at, .. } => {
                self.pods.attempt(uid, &name, attempt, |seen| {
                    if let Run::Running { since } = &mut seen.run {
                        *since = at;
                    }
                });
            }
            Event::Exited(record) => self.ended(uid, &record).await,
            Event::SandboxDied => {
                self.look(uid).await;
                self.pods.seen(uid, |seen| {
                    if seen.sandbox == SandboxSeen::Ready {
                        seen.sandbox = SandboxSeen::Dead;
                    }
                });
            }
        }
        self.queue.add(uid.to_string());
    }

    /// Compares a pod with what the runtime has of it.
    async fn look(self: &Arc<Self>, uid: &str) {
        match self.runtime.state(uid).await {
            Ok(state) => {
                for ContainerState { exit, .. } in state.containers {
                    if let Some(record) = exit {
                        self.ended(uid, &record).await;
                    }
                }
                self.queue.add(uid.to_string());
            }
            Err(error) => tracing::debug!(pod = uid, %error, "looking at a sandbox"),
        }
    }

    async fn ended(&self, uid: &str, record: &ExitRecord) {
        let Some(pod) = self.pods.with(uid, |entry| entry.pod.clone()) else {
            return;
        };
        let words = self.words(uid, &pod, record).await;
        let policy = self.policy();
        let delay = self.pods.attempt(uid, &record.name, record.attempt, |seen| {
            // A second report of the same end changes nothing.
            if !seen.is_running() {
                return Duration::ZERO;
            }
            seen.run = Run::Exited(exit(record, words));
            seen.stopping = None;
            seen.post_start = super::observed::Hook::None;
            policy.delay(policy.crashes(seen))
        });
        let never = spec::container(&pod, &record.name).is_none_or(|(role, _)| {
            let restart = spec::restart(&pod, role);
            restart == Restart::Never || (restart == Restart::OnFailure && record.code == 0)
        });
        if delay.is_some_and(|delay| !delay.is_zero()) && !never && spec::deletion(&pod).is_none() {
            let (name, full) = (&record.name, spec::full_name(&pod));
            let message = format!("Back-off restarting failed container {name} in pod {full}");
            self.note_container(&pod, name, Severity::Warning, "BackOff", message);
        }
    }

    pub(super) async fn words(&self, uid: &str, pod: &Arc<Pod>, record: &ExitRecord) -> Option<String> {
        let message = self.termination_path(uid, &record.name, record.attempt);
        let log = self.log_path(uid, &record.name, record.attempt);
        let (pod, name, failed) = (pod.clone(), record.name.clone(), record.code != 0);
        let words = blocking(move || Ok(last_words(&pod, &name, failed, &message, &log))).await;
        words.ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_come_from_the_message_or_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let (message, log) = (dir.path().join("m"), dir.path().join("l"));
        fs::write(&log, "t stdout F one\nt stderr F two words\n").unwrap();
        fs::write(&message, "").unwrap();
        let pod = |policy: &str| -> Pod {
            serde_json::from_value(serde_json::json!({"metadata": {}, "spec": {"containers": [
                {"name": "c", "terminationMessagePolicy": policy}]}}))
            .unwrap()
        };
        let of = |policy: &str, failed| last_words(&pod(policy), "c", failed, &message, &log);
        assert_eq!(of("File", true), None);
        assert_eq!(of("FallbackToLogsOnError", false), None);
        assert_eq!(of("FallbackToLogsOnError", true).unwrap(), "one\ntwo words\n");
        fs::write(&message, "bye").unwrap();
        assert_eq!(of("FallbackToLogsOnError", true).unwrap(), "bye");
    }
}

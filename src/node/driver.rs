//! Performs the plan's steps. What fails is taken note of, so that the next plan waits, and told to people.
use super::{
    Node, NodeError,
    observed::{Failure, Observed, SandboxSeen},
    plan::plan,
    spec,
    step::Step,
};
use crate::client::{self, Note, Plan, Reconcile};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::api::{DeleteParams, Preconditions};
use std::{sync::Arc, time::Duration};

/// The first wait after sandbox or volumes failed, and the longest.
const SETUP_FIRST: Duration = Duration::from_millis(500);
const SETUP_MAX: Duration = Duration::from_secs(120);

/// The reconciler of pods.
pub struct Driver(pub Arc<Node>);

impl Reconcile for Driver {
    type Key = String;
    /// None: the pod was forgotten meanwhile.
    type View = Option<(Arc<Pod>, Observed)>;
    type Step = Step;

    fn name(&self) -> &'static str {
        "node"
    }

    async fn observe(&self, uid: &String) -> client::Result<Self::View> {
        Ok(self.0.pods.get(uid).map(|entry| (entry.pod, entry.seen)))
    }

    fn plan(&self, _: &String, view: &Self::View, now: Timestamp) -> Plan<Step> {
        match view {
            Some((pod, seen)) => plan(pod, seen, &self.0.policy(), now),
            None => Plan::default(),
        }
    }

    async fn perform(&self, uid: &String, step: &Step) -> client::Result<()> {
        let Some(pod) = self.0.pods.with(uid, |entry| entry.pod.clone()) else {
            return Ok(());
        };
        let done = match self.0.possible(uid, step) {
            true => self.0.perform(uid, &pod, step).await,
            false => Ok(()),
        };
        // What was done is news: the next plan finds nothing to do, or the next thing.
        self.0.queue.add(uid.clone());
        match done {
            Ok(()) => Ok(()),
            // Taken note of: the next plan waits as long as it must.
            Err(NodeError::Later(why)) => {
                tracing::debug!(pod = uid, why, "waiting");
                Ok(())
            }
            Err(NodeError::Api(error)) => Err(error),
            Err(other) => Err(client::Error::step(other)),
        }
    }

    fn settled(&self, uid: &String, _: Result<(), &client::Error>) {
        self.0.publish(uid, Timestamp::now());
    }
}

impl Node {
    /// Whether what `step` builds upon is there: an earlier step of the same plan may have failed.
    fn possible(&self, uid: &str, step: &Step) -> bool {
        let ready = |seen: &mut Observed| match step {
            Step::CreateSandbox => seen.volumes,
            Step::Start { .. } => seen.volumes && seen.sandbox == SandboxSeen::Ready,
            _ => true,
        };
        self.pods.seen(uid, ready).unwrap_or(false)
    }

    async fn perform(self: &Arc<Self>, uid: &str, pod: &Arc<Pod>, step: &Step) -> Result<(), NodeError> {
        let now = Timestamp::now();
        match step {
            Step::Admit => self.admit(uid, pod, now),
            Step::Mount | Step::Refresh => return self.mount(uid, pod).await,
            Step::CreateSandbox => return self.create_sandbox(uid, pod).await,
            Step::DestroySandbox => return self.destroy_sandbox(uid).await,
            Step::Start { container, attempt } => {
                return self.start(uid, pod, container, *attempt).await;
            }
            Step::Stop { container, grace, why } => self.stop(uid, pod, container, *grace, *why, now).await?,
            Step::Kill { container } => {
                self.runtime.kill(uid, container, libc::SIGKILL).await?;
                self.pods.seen(uid, |seen| {
                    if let Some(seen) = seen.containers.get_mut(container) {
                        let stopping = seen.stopping.take();
                        let deadline = stopping.map_or(now, |s| s.deadline);
                        seen.stopping = Some(super::observed::Stopping { deadline, forced: true });
                    }
                });
            }
            Step::Probe { container, kind } => self.probe(uid, pod, container, *kind, now),
            Step::Fail { reason, message } => {
                self.fail(uid, pod, reason, message);
            }
            Step::Settle => {
                self.publish(uid, now);
                self.write_status(uid).await?;
                self.pods.seen(uid, |seen| seen.settled = true);
            }
            Step::TearDown => self.tear_down(uid, pod).await?,
            Step::Delete => self.delete(uid, pod).await?,
            Step::Forget => self.forget(uid).await?,
        }
        Ok(())
    }

    /// Gives a pod up for good.
    pub(super) fn fail(&self, uid: &str, pod: &Pod, reason: &str, message: &str) {
        let verdict = super::observed::Verdict { reason: reason.into(), message: message.into() };
        self.pods.seen(uid, |seen| seen.failed = Some(verdict));
        let reason = if reason == "DeadlineExceeded" { "DeadlineExceeded" } else { "FailedAdmission" };
        self.note(Note::warning(pod, reason, message));
    }

    /// Finishes the deletion of a pod whose containers have ended.
    async fn delete(&self, uid: &str, pod: &Pod) -> Result<(), NodeError> {
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: Some(uid.to_string()), resource_version: None }),
            ..DeleteParams::default()
        };
        match self.pods_api(pod).delete(spec::name(pod), &params).await {
            Ok(_) => {}
            Err(error) => {
                let error = client::Error::api(format!("delete pod {}", spec::full_name(pod)), error);
                // Not there, or another pod of that name is: this one is gone either way.
                if !error.is_not_found() && !error.is_conflict() {
                    return Err(error.into());
                }
            }
        }
        self.pods.seen(uid, |seen| seen.gone = true);
        Ok(())
    }

    pub(super) fn pods_api(&self, pod: &Pod) -> kube::Api<Pod> {
        kube::Api::namespaced(self.client.clone(), spec::namespace(pod))
    }

    /// Setting the pod up failed: tell people, and wait before the next try.
    pub(super) fn setup_failed(&self, uid: &str, pod: &Pod, reason: &'static str, message: String) -> NodeError {
        self.note(Note::warning(pod, reason, message.clone()));
        self.pods.seen(uid, |seen| {
            let count = seen.setup.as_ref().map_or(0, |failure| failure.count);
            let wait = SETUP_FIRST.saturating_mul(2u32.saturating_pow(count)).min(SETUP_MAX);
            let retry_at = Timestamp::now() + wait;
            let reason = reason.to_string();
            seen.setup = Some(Failure { reason, message: message.clone(), count: count + 1, retry_at });
        });
        NodeError::Later(message)
    }

    pub(super) fn note(&self, note: Note) {
        if let Some(recorder) = self.recorder.get() {
            recorder.record(note);
        }
    }

    /// An event about one container: kubectl shows its field path.
    pub(super) fn note_container(
        &self,
        pod: &Pod,
        container: &str,
        severity: client::Severity,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let init = spec::spec(pod).init_containers.iter().flatten().any(|c| c.name == container);
        let list = if init { "initContainers" } else { "containers" };
        let regarding = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            resource_version: pod.metadata.resource_version.clone(),
            field_path: Some(format!("spec.{list}{{{container}}}")),
        };
        self.note(Note::about(regarding, severity, reason, message));
    }
}

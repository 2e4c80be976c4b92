//! Starting one attempt of one container.
use super::{
    Node, NodeError,
    observed::{Exit, Failure, Hook, ImageSeen, Probes, Run},
    oci::{self, Bind},
    security::Accounts,
    setup::blocking,
    sources::{Refs, Sources},
    spec, volumes,
};
use crate::{
    client::Severity,
    image::{Image, ImageError},
    runtime::{self, ContainerSpec, shim},
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// How long an image error is shown as such before the state says that we back off.
const SHOW_ERROR: Duration = Duration::from_secs(1);
/// The wait after an image was not there and must not be pulled; one that comes in ends it early.
const CONFIG_RETRY: Duration = Duration::from_secs(10);
/// Where a container may leave its last words, unless it says otherwise.
pub const TERMINATION_PATH: &str = "/dev/termination-log";

/// Everything about the attempt that is known before it runs.
struct Made {
    image: Image,
    spec: ContainerSpec,
}

impl Node {
    pub(super) fn log_path(&self, uid: &str, container: &str, attempt: u32) -> PathBuf {
        self.pod_dir(uid).join("logs").join(container).join(format!("{attempt}.log"))
    }

    /// The file behind the container's termination message path.
    pub(super) fn termination_path(&self, uid: &str, container: &str, attempt: u32) -> PathBuf {
        self.pod_dir(uid).join("termination").join(format!("{container}.{attempt}"))
    }

    pub(super) async fn start(
        self: &Arc<Self>,
        uid: &str,
        pod: &Arc<Pod>,
        name: &str,
        attempt: u32,
    ) -> Result<(), NodeError> {
        let Some((_, container)) = spec::container(pod, name) else {
            return Ok(());
        };
        let image = match self.image(pod, container).await {
            Ok(image) => image,
            Err(error) => return Err(self.no_image(uid, pod, container, error)),
        };
        let made = match self.prepare(uid, pod, container, attempt, image).await {
            Ok(made) => made,
            Err(Refused::Config(why)) => {
                return Err(self.cannot(uid, pod, name, "CreateContainerConfigError", why));
            }
            Err(Refused::Node(error)) => return Err(error),
        };
        self.note_container(
            pod,
            name,
            Severity::Normal,
            "Pulled",
            format!(
                "Container image \"{}\" already present on machine",
                container.image.as_deref().unwrap_or_default()
            ),
        );
        self.forget_attempt(uid, name, attempt).await?;
        self.begin(uid, container, attempt, &made);
        self.note_container(pod, name, Severity::Normal, "Created", format!("Created container: {name}"));
        match self.runtime.start(uid, &made.spec).await {
            Ok(_) => {
                let started = format!("Started container {name}");
                self.note_container(pod, name, Severity::Normal, "Started", started);
                self.post_start(uid, pod, container, attempt);
                Ok(())
            }
            Err(error) => self.start_failed(uid, pod, name, attempt, error),
        }
    }

    /// Keeps the last two attempts: the one that is made now and the one whose end and log people ask for.
    async fn forget_attempt(&self, uid: &str, name: &str, attempt: u32) -> Result<(), NodeError> {
        let Some(old) = attempt.checked_sub(2) else {
            return Ok(());
        };
        self.runtime.remove(uid, name, old).await?;
        let log = self.log_path(uid, name, old);
        for path in shim::log_files(&log).chain([self.termination_path(uid, name, old)]) {
            match tokio::fs::remove_file(&path).await {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), error = %e, "removing an old attempt's file");
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The attempt counts as running from here, so that an end that is reported before `start` returns is not lost.
    fn begin(&self, uid: &str, container: &Container, attempt: u32, made: &Made) {
        let policy = self.policy();
        self.pods.seen(uid, |pod| {
            let generation = pod.generation;
            let seen = pod.containers.entry(container.name.clone()).or_default();
            if let Some(exit) = seen.exit().cloned() {
                seen.crashes = policy.crashes(seen) + 1;
                seen.previous = Some(exit);
            }
            let hook = container.lifecycle.as_ref().is_some_and(|l| l.post_start.is_some());
            seen.run = Run::Running { since: Timestamp::now() };
            (seen.attempt, seen.generation) = (attempt, generation);
            (seen.failure, seen.stopping, seen.probes) = (None, None, Probes::default());
            seen.post_start = if hook { Hook::Running } else { Hook::None };
            seen.image = Some(ImageSeen { reference: made.image.reference.clone(), id: made.image.id.clone() });
        });
    }

    fn start_failed(
        &self,
        uid: &str,
        pod: &Pod,
        name: &str,
        attempt: u32,
        error: runtime::Error,
    ) -> Result<(), NodeError> {
        let now = Timestamp::now();
        let (code, reason) = match &error {
            runtime::Error::Start { code, .. } => (*code, "StartError"),
            _ => (128, "ContainerCannotRun"),
        };
        let message = format!("failed to start container: {error}");
        self.note_container(pod, name, Severity::Warning, "Failed", format!("Error: {message}"));
        self.pods.attempt(uid, name, attempt, |seen| {
            seen.run = Run::Exited(Exit {
                attempt,
                code,
                signal: None,
                reason: reason.into(),
                message: Some(message.clone()),
                // The epoch, as the kubelet shows what never ran.
                started: Timestamp::UNIX_EPOCH,
                finished: now,
            });
            seen.post_start = Hook::None;
        });
        match error {
            // The attempt has ended, and the back-off goes by that.
            runtime::Error::Start { .. } | runtime::Error::Invalid(_) => Ok(()),
            other => Err(other.into()),
        }
    }

    async fn image(&self, pod: &Pod, container: &Container) -> Result<Image, ImageError> {
        let (images, uid) = (self.images.clone(), spec::uid(pod).to_string());
        let reference = container.image.clone().unwrap_or_default();
        let found = tokio::task::spawn_blocking(move || {
            let image = images.resolve(&reference)?;
            images.hold(&uid, &image.digest)?;
            Ok(image)
        });
        found.await.unwrap_or_else(|e| Err(ImageError::Format(e.to_string())))
    }

    /// Nothing to run from. The error is shown for a moment, then that we back off; as in Kubernetes both alternate.
    fn no_image(&self, uid: &str, pod: &Pod, container: &Container, error: ImageError) -> NodeError {
        let name = &container.name;
        let image = container.image.as_deref().unwrap_or_default();
        let policy = self.policy();
        let never = container.image_pull_policy.as_deref() == Some("Never");
        let (now, mut events) = (Timestamp::now(), Vec::new());
        self.pods.seen(uid, |pod| {
            let seen = pod.containers.entry(name.clone()).or_default();
            let before = seen.failure.take();
            let count = before.as_ref().map_or(0, |failure| failure.count);
            let shown = before.is_some_and(|failure| failure.reason == "ErrImagePull");
            let (reason, message, retry_at, count) = match &error {
                ImageError::InvalidReference(_) => {
                    let message = format!(
                        "Failed to apply default image tag \"{image}\": couldn't parse image name \"{image}\": {error}"
                    );
                    ("InvalidImageName", message, now + policy.max, count)
                }
                _ if never => {
                    let message = format!("Container image \"{image}\" is not present with pull policy of Never");
                    ("ErrImageNeverPull", message, now + CONFIG_RETRY, count)
                }
                _ if shown => {
                    let wait = policy.delay(count + 1);
                    let message = format!("Back-off pulling image \"{image}\": ErrImagePull: {error}");
                    ("ImagePullBackOff", message, now + wait, count + 1)
                }
                _ => ("ErrImagePull", error.to_string(), now + SHOW_ERROR, count),
            };
            events = match reason {
                "ImagePullBackOff" => vec![
                    (Severity::Normal, "BackOff", format!("Back-off pulling image \"{image}\"")),
                    (Severity::Warning, "Failed", "Error: ImagePullBackOff".into()),
                ],
                "ErrImagePull" => vec![
                    (Severity::Warning, "Failed", format!("Failed to pull image \"{image}\": {message}")),
                    (Severity::Warning, "Failed", "Error: ErrImagePull".into()),
                ],
                "ErrImageNeverPull" => vec![
                    (Severity::Warning, "ErrImageNeverPull", message.clone()),
                    (Severity::Warning, "Failed", "Error: ErrImageNeverPull".into()),
                ],
                _ => vec![(Severity::Warning, "InspectFailed", message.clone())],
            };
            seen.failure = Some(Failure { reason: reason.into(), message, count, retry_at });
        });
        for (severity, reason, message) in events {
            self.note_container(pod, name, severity, reason, message);
        }
        NodeError::Later(error.to_string())
    }

    /// The attempt cannot even be described.
    fn cannot(&self, uid: &str, pod: &Pod, name: &str, reason: &str, why: String) -> NodeError {
        self.note_container(pod, name, Severity::Warning, "Failed", format!("Error: {why}"));
        let policy = self.policy();
        self.pods.seen(uid, |seen| {
            let seen = seen.containers.entry(name.to_string()).or_default();
            let count = seen.failure.as_ref().map_or(0, |f| f.count) + 1;
            let retry_at = Timestamp::now() + policy.delay(count);
            seen.failure = Some(Failure { reason: reason.into(), message: why.clone(), count, retry_at });
        });
        NodeError::Later(why)
    }

    async fn prepare(
        &self,
        uid: &str,
        pod: &Arc<Pod>,
        container: &Container,
        attempt: u32,
        image: Image,
    ) -> Result<Made, Refused> {
        let sources = self.fetch(pod, Refs::of_env(container)).await.map_err(Refused::Node)?;
        let ip = self.pods.seen(uid, |seen| seen.ip).flatten();
        let facts = self.facts(pod, ip);
        let termination = self.termination_path(uid, &container.name, attempt);
        let log = self.log_path(uid, &container.name, attempt);
        let memory_qos = self.config.memory_qos;
        let shim = match volumes::list(pod).iter().any(|volume| volumes::kind(volume) == volumes::Kind::Memory) {
            true => self.runtime.state(uid).await.ok().and_then(|sandbox| sandbox.pid),
            false => None,
        };
        let (pod, container, dir) = (pod.clone(), container.clone(), self.pod_dir(uid));
        blocking(move || {
            let accounts = Accounts {
                passwd: image.text("etc/passwd").unwrap_or_default(),
                group: image.text("etc/group").unwrap_or_default(),
            };
            let binds = binds(&pod, &container, &dir, &termination, &sources, &facts, shim)?;
            let spec = oci::spec(&oci::Inputs {
                pod: &pod,
                container: &container,
                image: &image,
                accounts: &accounts,
                sources: &sources,
                facts: &facts,
                memory_qos,
                binds: &binds,
            })?;
            let spec = ContainerSpec {
                name: container.name.clone(),
                attempt,
                dir: dir.join("containers").join(&container.name).join(attempt.to_string()),
                lower: image.layers.clone(),
                spec,
                log,
                stdin: container.stdin == Some(true),
                tty: container.tty == Some(true),
            };
            Ok(Made { image, spec })
        })
        .await
        .map_err(Refused::Config)
    }
}

/// Why there is no attempt: the manifest cannot be met, or something is wrong with the node.
enum Refused {
    Config(String),
    Node(NodeError),
}

fn real(path: &Path) -> Result<PathBuf, String> {
    path.canonicalize().map_err(|e| format!("{}: {e}", path.display()))
}

/// All bind mounts of a container: the files of /etc, shared memory, the termination message, its volumes.
fn binds(
    pod: &Pod,
    container: &Container,
    dir: &Path,
    termination: &Path,
    sources: &Sources,
    facts: &super::env::Facts,
    shim: Option<i32>,
) -> Result<Vec<Bind>, String> {
    let known = super::env::environment(pod, container, sources, facts)?.into_iter().collect();
    let own = volumes::binds(pod, container, dir, &known, shim)?;
    let made = termination.parent().map_or(Ok(()), std::fs::create_dir_all);
    made.and_then(|()| std::fs::write(termination, b"")).map_err(|e| e.to_string())?;
    // Anybody in the container may leave the last words.
    let anybody = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(termination, anybody).map_err(|e| e.to_string())?;
    // The shim follows no symlink in what it binds.
    let (dir, termination) = (real(dir)?, real(termination)?);
    let bind = |from: PathBuf, to: &str| Bind { from, to: to.to_string(), read_only: false, propagation: "None" };
    let message = container.termination_message_path.as_deref().unwrap_or(TERMINATION_PATH);
    let ours = [
        bind(dir.join("shm"), "/dev/shm"),
        bind(dir.join("etc/hosts"), "/etc/hosts"),
        bind(dir.join("etc/hostname"), "/etc/hostname"),
        bind(dir.join("etc/resolv.conf"), "/etc/resolv.conf"),
        bind(termination, message),
    ];
    // What the manifest mounts at one of these places wins.
    let ours = ours.into_iter().filter(|bind| own.iter().all(|o| o.to != bind.to));
    Ok(ours.chain(own.iter().cloned()).collect())
}

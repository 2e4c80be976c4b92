//! Volumes and sandbox: making them, keeping files up to date, taking everything down.
use super::{
    Node, NodeError,
    env::Facts,
    files,
    observed::{Run, SandboxSeen},
    resources, security,
    sources::{Refs, Sources},
    spec,
    volumes::{self, Kind, TokenKey},
};
use crate::{
    client,
    runtime::{Network, SandboxSpec, Tmpfs},
};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
        core::v1::{ConfigMap, Pod, Secret, ServiceAccount, Volume},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{Api, api::PostParams};
use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// Labels of a sandbox: whose it is, its address, and the how-manieth of its pod.
pub const NODE: &str = "coracle.io/node";
pub const IP: &str = "coracle.io/ip";
pub const GENERATION: &str = "coracle.io/generation";
/// `/dev/shm`, shared by the containers of a pod.
const SHM_BYTES: u64 = 64 << 20;

impl Node {
    pub(super) fn pod_dir(&self, uid: &str) -> PathBuf {
        self.config.dir.join("pods").join(uid)
    }

    pub(super) fn facts(&self, pod: &Pod, ip: Option<Ipv4Addr>) -> Facts {
        let ip = if spec::host_network(pod) { Some(self.host_ip()) } else { ip };
        Facts {
            pod_ip: ip.map(|ip| ip.to_string()).unwrap_or_default(),
            host_ip: self.host_ip().to_string(),
            node_name: self.config.name.clone(),
            cpu_milli: self.config.capacity.cpu_milli,
            memory: self.config.capacity.memory,
        }
    }

    /// Fetches the ConfigMaps and Secrets a pod refers to; fresh, because a cache may not know the newest yet.
    pub(super) async fn fetch(&self, pod: &Pod, refs: Refs) -> Result<Sources, NodeError> {
        let namespace = spec::namespace(pod);
        let mut sources = Sources::default();
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        for name in refs.config_maps {
            let found = maps.get_opt(&name).await;
            let found = found.map_err(|e| client::Error::api(format!("get configmap {name}"), e))?;
            sources.config_maps.insert(name, found);
        }
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        for name in refs.secrets {
            let found = secrets.get_opt(&name).await;
            let found = found.map_err(|e| client::Error::api(format!("get secret {name}"), e))?;
            sources.secrets.insert(name, found);
        }
        if let Some(services) = self.services.get() {
            let here = services.list_in(namespace).into_iter().chain(services.list_in("default"));
            sources.services = here.map(|service| (*service).clone()).collect();
        }
        Ok(sources)
    }

    /// Asks the API for the tokens of a pod's service account; returns them and when to ask again.
    async fn fetch_tokens(&self, pod: &Pod) -> Result<(BTreeMap<TokenKey, String>, Option<Timestamp>), String> {
        let account = spec::spec(pod).service_account_name.as_deref().filter(|name| !name.is_empty());
        let account = account.unwrap_or("default");
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), spec::namespace(pod));
        let (mut tokens, mut renew) = (BTreeMap::new(), None);
        for (audience, seconds) in volumes::tokens(pod) {
            let request = TokenRequest {
                spec: TokenRequestSpec {
                    audiences: Some(audience.clone()).filter(|a| !a.is_empty()).into_iter().collect(),
                    expiration_seconds: Some(seconds),
                    bound_object_ref: Some(BoundObjectReference {
                        api_version: Some("v1".into()),
                        kind: Some("Pod".into()),
                        name: pod.metadata.name.clone(),
                        uid: pod.metadata.uid.clone(),
                    }),
                },
                ..TokenRequest::default()
            };
            let answer = api.create_token_request(account, &PostParams::default(), &request).await;
            let answer = answer.map_err(|e| format!("failed to fetch token: {e}"))?;
            let status = answer.status.ok_or("failed to fetch token: the answer holds none")?;
            // As the kubelet: a new one when a fifth of the lifetime is left.
            let Time(end) = status.expiration_timestamp;
            let at = end - Duration::from_secs(seconds.max(0) as u64 / 5);
            renew = Some(renew.map_or(at, |old: Timestamp| old.min(at)));
            tokens.insert((audience, seconds), status.token);
        }
        Ok((tokens, renew))
    }

    /// Makes the volumes, or brings the files in them up to date.
    pub(super) async fn mount(&self, uid: &str, pod: &Pod) -> Result<(), NodeError> {
        let sources = self.fetch(pod, Refs::of_volumes(pod)).await?;
        let ip = self.pods.seen(uid, |seen| seen.ip).flatten();
        let made = match self.fetch_tokens(pod).await {
            Ok((tokens, renew)) => {
                let (pod, dir, memory) = (pod.clone(), self.pod_dir(uid), self.config.memory.join(uid));
                let facts = self.facts(&pod, ip);
                let make = move || {
                    own_places(&dir, &memory).map_err(|e| format!("making {}: {e}", dir.display()))?;
                    make_volumes(&pod, &dir, &sources, &tokens, &facts)
                };
                blocking(make).await.map(|()| renew)
            }
            Err(why) => Err(why),
        };
        match made {
            Ok(renew) => {
                self.pods.seen(uid, |seen| {
                    (seen.volumes, seen.setup, seen.refresh_at) = (true, None, renew);
                });
                Ok(())
            }
            Err(why) => {
                let error = self.setup_failed(uid, pod, "FailedMount", why);
                // What runs goes on with what it has.
                self.pods.seen(uid, |seen| {
                    seen.refresh_at = seen.setup.as_ref().filter(|_| seen.volumes).map(|failure| failure.retry_at);
                });
                Err(error)
            }
        }
    }

    /// Makes the sandbox, connects it, and writes the files that tell its address.
    pub(super) async fn create_sandbox(&self, uid: &str, pod: &Pod) -> Result<(), NodeError> {
        let host_network = spec::host_network(pod);
        let lock = || self.ipam.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let ip = match host_network {
            true => None,
            false => match lock().allocate() {
                Ok(ip) => Some(ip),
                Err(error) => return Err(self.sandbox_failed(uid, pod, error.into())),
            },
        };
        let made = self.try_sandbox(uid, pod, ip).await;
        if let Err(error) = made {
            // Half a sandbox is none; what cannot be removed now is found by the next attempt.
            let left = self.net.detach(uid).await.map_err(NodeError::from);
            let left = left.and(self.runtime.destroy(uid).await.map_err(NodeError::from));
            if let Err(error) = left {
                tracing::warn!(pod = uid, %error, "removing a half-made sandbox");
            }
            ip.into_iter().for_each(|ip| lock().release(ip));
            return Err(self.sandbox_failed(uid, pod, error));
        }
        self.pods.seen(uid, |seen| {
            (seen.sandbox, seen.ip, seen.setup) = (SandboxSeen::Ready, ip, None);
        });
        Ok(())
    }

    fn sandbox_failed(&self, uid: &str, pod: &Pod, error: NodeError) -> NodeError {
        let message = format!("Failed to create pod sandbox: {error}");
        self.setup_failed(uid, pod, "FailedCreatePodSandBox", message)
    }

    async fn try_sandbox(&self, uid: &str, pod: &Pod, ip: Option<Ipv4Addr>) -> Result<(), NodeError> {
        let dir = self.pod_dir(uid);
        let generation = self.pods.seen(uid, |seen| seen.generation).unwrap_or(0);
        let spec = self.sandbox_spec(uid, pod, ip, generation, &dir);
        let (owned, config) = (pod.clone(), self.config.clone());
        let written = tokio::task::spawn_blocking(move || write_etc(&owned, &config, ip, &dir));
        let sandbox = self.runtime.create(&spec).await?;
        if let Some(ip) = ip {
            self.net.attach(uid, &sandbox.netns, ip).await?;
        }
        let written = written.await.unwrap_or_else(|e| Err(std::io::Error::other(e)));
        written.map_err(NodeError::io("writing files of /etc"))
    }

    fn sandbox_spec(&self, uid: &str, pod: &Pod, ip: Option<Ipv4Addr>, generation: u32, dir: &Path) -> SandboxSpec {
        let base = self.cgroup();
        let shm = Tmpfs { path: dir.join("shm"), size: Some(SHM_BYTES), mode: 0o1777 };
        let memory = volumes::list(pod).iter().filter(|v| volumes::kind(v) == Kind::Memory);
        let memory = memory.map(|volume| {
            let limit = volume.empty_dir.as_ref().and_then(|e| e.size_limit.as_ref());
            let limit = limit.and_then(|q| q.0.parse::<crate::api::quantity::Quantity>().ok());
            let size = limit.filter(|q| !q.is_zero()).map(|q| q.value() as u64);
            Tmpfs { path: volumes::place(volume, dir), size, mode: 0o1777 }
        });
        let mut labels = BTreeMap::from([
            (NODE.to_string(), self.config.name.clone()),
            (GENERATION.to_string(), generation.to_string()),
        ]);
        labels.extend(ip.map(|ip| (IP.to_string(), ip.to_string())));
        let sysctls = security::pod_context(pod).sysctls.unwrap_or_default();
        SandboxSpec {
            id: uid.to_string(),
            name: spec::name(pod).to_string(),
            namespace: spec::namespace(pod).to_string(),
            dir: dir.to_path_buf(),
            hostname: match spec::host_network(pod) {
                true => String::new(),
                false => spec::hostname(pod),
            },
            network: match spec::host_network(pod) {
                true => Network::Join(self.net.netns_path()),
                false => Network::New,
            },
            cgroup: format!("{base}/kubepods/{}pod{uid}", resources::qos_dir(pod)),
            shim_cgroup: format!("{base}/shims"),
            resources: Some(resources::pod(pod, self.config.memory_qos)),
            sysctls: sysctls.into_iter().map(|s| (s.name, s.value)).collect(),
            tmpfs: [shm].into_iter().chain(memory).collect(),
            labels,
        }
    }

    /// Removes a dead sandbox; its containers are history, and will be started again in a new one.
    pub(super) async fn destroy_sandbox(&self, uid: &str) -> Result<(), NodeError> {
        self.net.detach(uid).await?;
        self.runtime.destroy(uid).await?;
        let ip = self.pods.seen(uid, |seen| {
            seen.sandbox = SandboxSeen::Absent;
            seen.generation += 1;
            seen.ip.take()
        });
        self.release(ip.flatten());
        Ok(())
    }

    fn release(&self, ip: Option<Ipv4Addr>) {
        let mut ipam = self.ipam.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        ip.into_iter().for_each(|ip| ipam.release(ip));
    }

    /// Removes everything that runs or is held for a pod. Logs and volumes stay until it is forgotten.
    pub(super) async fn tear_down(&self, uid: &str, pod: &Pod) -> Result<(), NodeError> {
        let link = self.net.detach(uid).await;
        self.runtime.destroy(uid).await?;
        link?;
        let ip = self.pods.seen(uid, |seen| {
            (seen.sandbox, seen.torn_down) = (SandboxSeen::Absent, true);
            for container in seen.containers.values_mut() {
                // Only a pod that was never told of any end gets here with something running.
                if container.is_running() {
                    container.run = Run::Never;
                }
            }
            // The status still shows the address the pod had.
            seen.ip
        });
        self.release(ip.flatten());
        let (images, uid, name) = (self.images.clone(), uid.to_string(), spec::full_name(pod));
        blocking(move || images.release(&uid).map_err(|e| e.to_string()))
            .await
            .map_err(|why| NodeError::Later(format!("releasing the images of {name}: {why}")))
    }

    /// Removes the last of a pod: its directory, and our memory of it.
    pub(super) async fn forget(&self, uid: &str) -> Result<(), NodeError> {
        let places = [self.config.memory.join(uid), self.pod_dir(uid)];
        let removed = blocking(move || {
            places.iter().try_for_each(|dir| match std::fs::remove_dir_all(dir) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(format!("removing {}: {e}", dir.display())),
                _ => Ok(()),
            })
        });
        removed.await.map_err(NodeError::Later)?;
        self.pods.lock().remove(uid);
        Ok(())
    }
}

/// Runs blocking work beside the async tasks; errors as text for people.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(e.to_string()))
}

/// The pod's directory and its part of the tmpfs; nobody but root enters either.
fn own_places(dir: &Path, memory: &Path) -> std::io::Result<()> {
    let private = |dir: &Path| std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    private(&dir.join("volumes"))?;
    private(memory)?;
    let link = dir.join(volumes::MEMORY);
    match std::fs::read_link(&link) {
        Ok(to) if to == memory => return Ok(()),
        Ok(_) => std::fs::remove_file(&link)?,
        Err(_) => {}
    }
    std::os::unix::fs::symlink(memory, &link)
}

fn make_volumes(
    pod: &Pod,
    dir: &Path,
    sources: &Sources,
    tokens: &BTreeMap<TokenKey, String>,
    facts: &Facts,
) -> Result<(), String> {
    let group = security::pod_context(pod).fs_group.map(|gid| gid as u32);
    // All of them, even when one cannot be: a pod that runs needs the others brought up to date.
    let make = |volume: &Volume| {
        let at = volumes::place(volume, dir);
        let made = match volumes::kind(volume) {
            Kind::Empty if at.is_dir() => Ok(()),
            Kind::Empty => volumes::make_empty(&at, group).map_err(|e| e.to_string()),
            Kind::Host => {
                let kind = volume.host_path.as_ref().and_then(|h| h.type_.as_deref());
                volumes::host_path(&at.to_string_lossy(), kind.unwrap_or(""))
            }
            Kind::Files => volumes::payload(pod, volume, sources, tokens, facts)
                .and_then(|files| volumes::write(&at, &files, group).map_err(|e| e.to_string())),
            Kind::Memory | Kind::Unsupported => Ok(()),
        };
        made.map_err(|why| format!("MountVolume.SetUp failed for volume \"{}\" : {why}", volume.name))
    };
    volumes::list(pod).iter().map(make).fold(Ok(()), Result::and)
}

/// Writes what a container sees as /etc/hosts, /etc/hostname and /etc/resolv.conf.
fn write_etc(pod: &Pod, config: &super::NodeConfig, ip: Option<Ipv4Addr>, dir: &Path) -> std::io::Result<()> {
    let etc = dir.join("etc");
    std::fs::create_dir_all(&etc)?;
    // A host without these files has nothing to say in them.
    let host = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let hostname = match spec::host_network(pod) {
        true => host("/etc/hostname"),
        false => spec::hostname(pod) + "\n",
    };
    std::fs::write(etc.join("hostname"), hostname)?;
    std::fs::write(etc.join("hosts"), files::hosts(pod, config, ip, &host("/etc/hosts")))?;
    let resolv = files::resolv_conf(pod, config, &host("/etc/resolv.conf"));
    std::fs::write(etc.join("resolv.conf"), resolv)
}

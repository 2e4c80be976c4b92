//! What wakes a node: its pods in the API, the runtime, and the objects that volumes show.
use super::{
    Node, NodeError, adopt::Found, changes::Changes, entry::Entry, observed::Observed, setup::blocking, spec, volumes,
};
use crate::{
    client::{Change, Informer, Informers},
    image::Images,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Node as ApiNode, Pod, Secret, Service};
use kube::{Api, api::ApiResource, runtime::watcher};
use nix::sys::inotify::AddWatchFlags;
use std::{collections::BTreeSet, path::Path, sync::Arc};
use tokio_util::sync::CancellationToken;

impl Node {
    /// Finds what runs, then follows the API and the runtime until `shutdown`.
    pub(super) async fn watch(self: &Arc<Self>, shutdown: CancellationToken) -> Result<(), NodeError> {
        // First the ear, then the look: what happens between them is heard.
        let events = self.runtime.subscribe();
        let found = self.find().await?;
        let mine = watcher::Config::default().fields(&format!("spec.nodeName={}", self.config.name));
        let pods = Informer::<Pod>::start(Api::all(self.client.clone()), mine, shutdown.clone());
        let everywhere = watcher::Config::default();
        let services = Informer::<Service>::start(Api::all(self.client.clone()), everywhere, shutdown.clone());
        self.services.get_or_init(|| services.clone());
        let synced = async { tokio::join!(pods.wait_synced(), services.wait_synced()) };
        if shutdown.run_until_cancelled(synced).await.is_none() {
            return Ok(());
        }
        self.take_over(pods.list(), found).await;
        let node = Arc::downgrade(self);
        pods.subscribe(move |change| {
            if let Some(node) = node.upgrade() {
                node.changed(change);
            }
        });
        self.watch_objects(&shutdown);
        self.watch_self(&shutdown);
        tokio::spawn(self.clone().watch_images(shutdown.clone()));
        tokio::spawn(self.clone().follow_runtime(events, shutdown));
        Ok(())
    }

    /// Everything that was here before: pods with their sandboxes, sandboxes without a pod.
    async fn take_over(self: &Arc<Self>, pods: Vec<Arc<Pod>>, mut found: Found) {
        for pod in pods {
            let uid = spec::uid(&pod).to_string();
            let entry = self.adopt(pod, found.remove(&uid).as_ref()).await;
            self.pods.lock().insert(uid.clone(), entry);
            self.queue.add(uid);
        }
        for sandbox in found.values() {
            self.orphan(sandbox);
        }
        let known: BTreeSet<String> = self.pods.lock().keys().cloned().collect();
        let (places, images) = ([self.config.dir.join("pods"), self.config.memory.clone()], self.images.clone());
        let sweep = move || places.iter().try_for_each(|dir| sweep(dir, &known, &images)).map_err(|e| e.to_string());
        let swept = blocking(sweep).await;
        if let Err(error) = swept {
            tracing::warn!(node = self.config.name, error, "removing what deleted pods left");
        }
    }

    /// A pod of ours changed in the API.
    fn changed(&self, change: &Change<Pod>) {
        if change.old.as_deref().map(spec::phase) != change.new.as_deref().map(spec::phase) {
            self.limits.add(());
        }
        if let (Some(old), None) = (&change.old, &change.new) {
            self.removed(spec::uid(old));
        }
        let Some(new) = &change.new else { return };
        // Deleted and made again under the same name, and the watch saw only the result.
        if let Some(old) = change.old.as_ref().filter(|old| spec::uid(old) != spec::uid(new)) {
            self.removed(spec::uid(old));
        }
        let uid = spec::uid(new);
        {
            let mut pods = self.pods.lock();
            let entry = pods.entry(uid.to_string());
            let entry = entry.or_insert_with(|| Entry::new(new.clone(), Observed::default()));
            entry.pod = new.clone();
            let shown = |pod: &Pod| (pod.metadata.labels.clone(), pod.metadata.annotations.clone());
            if volumes::show_metadata(new) && change.old.as_deref().is_some_and(|old| shown(old) != shown(new)) {
                entry.refresh(Timestamp::now());
            }
            self.write_again_if_overwritten(uid, entry);
        }
        self.queue.add(uid.to_string());
    }

    fn removed(&self, uid: &str) {
        self.pods.seen(uid, |seen| seen.gone = true);
        self.queue.add(uid.to_string());
    }

    /// Follows ConfigMaps and Secrets, metadata only: pods that show one look at it again when it changes.
    fn watch_objects(self: &Arc<Self>, shutdown: &CancellationToken) {
        let informers = Informers::new(self.client.clone(), shutdown.clone());
        for (kind, secret) in [(ApiResource::erase::<ConfigMap>(&()), false), (ApiResource::erase::<Secret>(&()), true)]
        {
            let node = Arc::downgrade(self);
            informers.subscribe_meta(
                &kind,
                Box::new(move |old, new| {
                    let Some(node) = node.upgrade() else { return };
                    let version = |m: Option<&_>| {
                        m.and_then(|m: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta| {
                            m.resource_version.clone()
                        })
                    };
                    if let Some(meta) = new.or(old)
                        && version(old) != version(new)
                    {
                        let namespace = meta.namespace.as_deref().unwrap_or_default();
                        node.object_changed(namespace, meta.name.as_deref().unwrap_or_default(), secret);
                    }
                }),
            );
        }
    }

    /// Follows the node's own object: whoever took the node for lost is told that it lives.
    fn watch_self(self: &Arc<Self>, shutdown: &CancellationToken) {
        let only = watcher::Config::default().fields(&format!("metadata.name={}", self.config.name));
        let api = Api::<ApiNode>::all(self.client.clone());
        let node = Arc::downgrade(self);
        Informer::start(api, only, shutdown.clone()).subscribe(move |change| {
            let status = change.new.as_ref().and_then(|new| new.status.as_ref());
            let mut conditions = status.and_then(|s| s.conditions.as_ref()).into_iter().flatten();
            let lost = conditions.any(|c| c.type_ == "Ready" && c.status == "Unknown");
            if let Some(node) = node.upgrade().filter(|_| lost) {
                tokio::spawn(async move {
                    if let Err(error) = node.register().await {
                        tracing::warn!(node = node.config.name, %error, "registering again");
                    }
                });
            }
        });
    }

    /// Follows the image store: who waits for an image tries again when one comes in.
    async fn watch_images(self: Arc<Self>, shutdown: CancellationToken) {
        let changes = Changes::of(self.images.root(), AddWatchFlags::IN_MOVED_TO);
        let mut changes = match changes {
            Ok(changes) => changes,
            Err(error) => return tracing::warn!(%error, "watching the image store"),
        };
        while let Some(Ok(())) = shutdown.run_until_cancelled(changes.wait()).await {
            self.wake_waiting(|reason| reason.starts_with("ErrImage") || reason == "ImagePullBackOff");
        }
    }

    /// Lets containers that wait for one of these reasons try again now.
    fn wake_waiting(&self, reason: impl Fn(&str) -> bool) {
        let now = Timestamp::now();
        let mut woken = Vec::new();
        for (uid, entry) in self.pods.lock().iter_mut() {
            let failures = entry.seen.containers.values_mut().filter_map(|c| c.failure.as_mut());
            for failure in failures.filter(|failure| reason(&failure.reason)) {
                failure.retry_at = now;
                woken.push(uid.clone());
            }
        }
        woken.into_iter().for_each(|uid| self.queue.add(uid));
    }

    /// A ConfigMap or Secret changed: files are brought up to date, and who waits for it tries again now.
    fn object_changed(&self, namespace: &str, name: &str, secret: bool) {
        let now = Timestamp::now();
        let mut woken = Vec::new();
        for (uid, entry) in self.pods.lock().iter_mut() {
            if spec::namespace(&entry.pod) != namespace {
                continue;
            }
            let refs = if secret { &entry.refs.secrets } else { &entry.refs.config_maps };
            if refs.contains(name) {
                entry.refresh(now);
                woken.push(uid.clone());
            }
        }
        woken.into_iter().for_each(|uid| self.queue.add(uid));
        self.wake_waiting(|reason| reason == "CreateContainerConfigError");
    }
}

/// Removes the directories of pods that are no more, and lets go of their images. Blocking.
fn sweep(dir: &Path, known: &BTreeSet<String>, images: &Images) -> Result<(), NodeError> {
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(NodeError::io("reading the pods' directory"))?,
    };
    for entry in entries.flatten() {
        let uid = entry.file_name().to_string_lossy().into_owned();
        if !known.contains(&uid) {
            std::fs::remove_dir_all(entry.path()).map_err(NodeError::io(format!("removing pod {uid}")))?;
            images.release(&uid)?;
        }
    }
    Ok(())
}

//! The objects a pod's manifest refers to, as fetched just before they are used.
use super::spec;
use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret, Service};
use std::collections::{BTreeMap, BTreeSet};

/// ConfigMaps and Secrets of the pod's namespace by name (none: they do not exist), and the Services it may know.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    pub config_maps: BTreeMap<String, Option<ConfigMap>>,
    pub secrets: BTreeMap<String, Option<Secret>>,
    pub services: Vec<Service>,
}

/// Names of what a manifest refers to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refs {
    pub config_maps: BTreeSet<String>,
    pub secrets: BTreeSet<String>,
}

impl Refs {
    /// What a container's environment needs.
    pub fn of_env(container: &Container) -> Refs {
        let mut refs = Refs::default();
        for source in container.env_from.iter().flatten() {
            refs.config_maps.extend(source.config_map_ref.as_ref().map(|r| r.name.clone()));
            refs.secrets.extend(source.secret_ref.as_ref().map(|r| r.name.clone()));
        }
        let from = container.env.iter().flatten().filter_map(|env| env.value_from.as_ref());
        for source in from {
            refs.config_maps.extend(source.config_map_key_ref.as_ref().map(|r| r.name.clone()));
            refs.secrets.extend(source.secret_key_ref.as_ref().map(|r| r.name.clone()));
        }
        refs
    }

    /// What the pod's volumes need.
    pub fn of_volumes(pod: &Pod) -> Refs {
        let mut refs = Refs::default();
        for volume in spec::spec(pod).volumes.iter().flatten() {
            refs.config_maps.extend(volume.config_map.as_ref().map(|c| c.name.clone()));
            refs.secrets.extend(volume.secret.as_ref().and_then(|s| s.secret_name.clone()));
            let projected = volume.projected.iter().flat_map(|p| p.sources.iter().flatten());
            for source in projected {
                refs.config_maps.extend(source.config_map.as_ref().map(|c| c.name.clone()));
                refs.secrets.extend(source.secret.as_ref().map(|s| s.name.clone()));
            }
        }
        refs
    }
}

/// Keys and bytes.
pub type Data = BTreeMap<String, Vec<u8>>;

impl Sources {
    /// The bytes of a ConfigMap: its text and its binary data are one set of keys. Errors are the kubelet's.
    pub fn config_map(&self, name: &str) -> Result<Data, String> {
        let map = self.config_maps.get(name).and_then(Option::as_ref);
        let map = map.ok_or_else(|| format!("configmap \"{name}\" not found"))?;
        let text = map.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone().into_bytes()));
        let binary = map.binary_data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone()));
        Ok(text.chain(binary).collect())
    }

    /// The bytes of a Secret.
    pub fn secret(&self, name: &str) -> Result<Data, String> {
        let secret = self.secrets.get(name).and_then(Option::as_ref);
        let secret = secret.ok_or_else(|| format!("secret \"{name}\" not found"))?;
        Ok(secret.data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone())).collect())
    }
}

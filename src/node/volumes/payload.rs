//! Which files a configMap, secret, downwardAPI or projected volume holds: pure.
use crate::node::{
    downward,
    env::Facts,
    sources::{Data, Sources},
};
use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, Pod, Volume, VolumeProjection};
use std::{
    collections::BTreeMap,
    path::{Component, Path},
};

/// Relative path -> content and permissions.
pub type Files = BTreeMap<String, (Vec<u8>, u32)>;

/// What identifies a service account token: audience (empty: the API's own) and lifetime in seconds.
pub type TokenKey = (String, i64);

const DEFAULT_MODE: i32 = 0o644;
/// Lifetime of a projected token, as the API defaults it.
const TOKEN_SECONDS: i64 = 3600;

/// The tokens a pod's volumes need.
pub fn tokens(pod: &Pod) -> Vec<TokenKey> {
    let sources = super::list(pod).iter().filter_map(|v| v.projected.as_ref()).flat_map(|p| p.sources.iter().flatten());
    let mut keys: Vec<_> = sources.filter_map(token_key).collect();
    keys.sort();
    keys.dedup();
    keys
}

fn token_key(source: &VolumeProjection) -> Option<TokenKey> {
    let token = source.service_account_token.as_ref()?;
    let seconds = token.expiration_seconds.unwrap_or(TOKEN_SECONDS);
    Some((token.audience.clone().unwrap_or_default(), seconds))
}

/// The files of one volume. Errors are worded as the kubelet's FailedMount.
pub fn payload(
    pod: &Pod,
    volume: &Volume,
    sources: &Sources,
    tokens: &BTreeMap<TokenKey, String>,
    facts: &Facts,
) -> Result<Files, String> {
    let mut files = Files::new();
    let inputs = Inputs { pod, sources, tokens, facts };
    if let Some(map) = &volume.config_map {
        let mode = map.default_mode.unwrap_or(DEFAULT_MODE);
        select(sources.config_map(&map.name), &map.items, map.optional, mode, "config", &mut files)?;
    } else if let Some(secret) = &volume.secret {
        let name = secret.secret_name.clone().unwrap_or_default();
        let mode = secret.default_mode.unwrap_or(DEFAULT_MODE);
        select(sources.secret(&name), &secret.items, secret.optional, mode, "secret", &mut files)?;
    } else if let Some(downward) = &volume.downward_api {
        let mode = downward.default_mode.unwrap_or(DEFAULT_MODE);
        inputs.downward(&downward.items, mode, &mut files)?;
    } else if let Some(projected) = &volume.projected {
        let mode = projected.default_mode.unwrap_or(DEFAULT_MODE);
        for source in projected.sources.iter().flatten() {
            inputs.projection(source, mode, &mut files)?;
        }
    }
    match files.keys().find(|path| !is_inside(path)) {
        Some(path) => Err(format!("invalid path: {path:?}")),
        None => Ok(files),
    }
}

/// The API refuses such paths; this is the second lock on the same door.
fn is_inside(path: &str) -> bool {
    let path = Path::new(path);
    !path.as_os_str().is_empty()
        && path.components().all(|part| matches!(part, Component::Normal(_)))
        && !path.to_string_lossy().starts_with("..")
}

struct Inputs<'a> {
    pod: &'a Pod,
    sources: &'a Sources,
    tokens: &'a BTreeMap<TokenKey, String>,
    facts: &'a Facts,
}

type Items = Option<Vec<KeyToPath>>;

impl Inputs<'_> {
    fn downward(&self, items: &Option<Vec<DownwardAPIVolumeFile>>, mode: i32, files: &mut Files) -> Result<(), String> {
        for item in items.iter().flatten() {
            let text = match (&item.field_ref, &item.resource_field_ref) {
                (Some(field), _) => downward::field(self.pod, &field.field_path, self.facts)?,
                (_, Some(field)) => downward::resource(self.pod, None, field, self.facts)?,
                _ => return Err(format!("downwardAPI item {:?} names no source", item.path)),
            };
            let mode = item.mode.unwrap_or(mode) as u32;
            files.insert(item.path.clone(), (text.into_bytes(), mode));
        }
        Ok(())
    }

    fn projection(&self, source: &VolumeProjection, mode: i32, files: &mut Files) -> Result<(), String> {
        if let Some(map) = &source.config_map {
            select(self.sources.config_map(&map.name), &map.items, map.optional, mode, "config", files)?;
        }
        if let Some(secret) = &source.secret {
            select(self.sources.secret(&secret.name), &secret.items, secret.optional, mode, "secret", files)?;
        }
        if let Some(downward) = &source.downward_api {
            self.downward(&downward.items, mode, files)?;
        }
        if let (Some(token), Some(key)) = (&source.service_account_token, token_key(source)) {
            let text = self.tokens.get(&key).ok_or("failed to fetch token")?;
            files.insert(token.path.clone(), (text.clone().into_bytes(), mode as u32));
        }
        Ok(())
    }
}

/// All keys, or those that `items` names.
fn select(
    data: Result<Data, String>,
    items: &Items,
    optional: Option<bool>,
    mode: i32,
    what: &str,
    files: &mut Files,
) -> Result<(), String> {
    let data = if optional == Some(true) { data.unwrap_or_default() } else { data? };
    let Some(items) = items.as_ref().filter(|items| !items.is_empty()) else {
        files.extend(data.into_iter().map(|(key, bytes)| (key, (bytes, mode as u32))));
        return Ok(());
    };
    for item in items {
        match data.get(&item.key) {
            Some(bytes) => {
                let mode = item.mode.unwrap_or(mode) as u32;
                files.insert(item.path.clone(), (bytes.clone(), mode));
            }
            None if optional == Some(true) => {}
            None => return Err(format!("references non-existent {what} key: {}", item.key)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_modes_and_missing_things() {
        let volume = |v: serde_json::Value| serde_json::from_value::<Volume>(v).unwrap();
        let pod = Pod::default();
        let map = serde_json::from_value(json!({"data": {"a": "1", "b": "2"}})).unwrap();
        let mut sources = Sources::default();
        sources.config_maps.insert("m".into(), Some(map));
        let of = |v: &Volume| payload(&pod, v, &sources, &BTreeMap::new(), &Facts::default());
        let all = volume(json!({"name": "v", "configMap": {"name": "m"}}));
        assert_eq!(of(&all).unwrap()["b"], (b"2".to_vec(), 0o644));
        let some = volume(
            json!({"name": "v", "configMap": {"name": "m", "items": [{"key": "a", "path": "x/y", "mode": 256}]}}),
        );
        assert_eq!(of(&some).unwrap(), BTreeMap::from([("x/y".into(), (b"1".to_vec(), 0o400))]));
        let key = volume(json!({"name": "v", "configMap": {"name": "m", "items": [{"key": "z", "path": "z"}]}}));
        assert_eq!(of(&key).unwrap_err(), "references non-existent config key: z");
        let none = volume(json!({"name": "v", "secret": {"secretName": "s"}}));
        assert_eq!(of(&none).unwrap_err(), "secret \"s\" not found");
        let maybe = volume(json!({"name": "v", "secret": {"secretName": "s", "optional": true}}));
        assert_eq!(of(&maybe).unwrap(), Files::new());
        let out = volume(json!({"name": "v", "configMap": {"name": "m", "items": [{"key": "a", "path": "../x"}]}}));
        assert!(of(&out).is_err());
    }
}

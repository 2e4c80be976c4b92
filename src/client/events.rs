//! Events: what loops tell people about objects; repeated ones counted, chatty ones limited.
use http::Method;
use indexmap::IndexMap;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    ObjectKey,
    doer::{JSON, MERGE, send},
};

/// Notes that may wait to be written. More are dropped (and counted in a log line): events are for people, and must
/// never hold up a loop or eat memory.
const QUEUE_LIMIT: usize = 1000;
/// Remembered event series and objects; the oldest is forgotten first. As in Kubernetes' recorder.
const REMEMBERED: usize = 4096;
/// Events an object may cause at once from one source, and the time that gives back one of them. As in Kubernetes'
/// recorder: a crash loop does not flood the store.
const BURST: f64 = 25.0;
const REFILL: SignedDuration = SignedDuration::from_secs(300);
/// Different messages of one reason within this time that are written as they are; further ones are combined.
const SIMILAR_LIMIT: usize = 10;
const SIMILAR_WINDOW: SignedDuration = SignedDuration::from_secs(600);

/// Normal or Warning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum Severity {
    /// For information.
    Normal,
    /// Something may be wrong.
    Warning,
}

/// One thing to tell about an object.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Note {
    /// What it is about.
    pub regarding: ObjectReference,
    /// Normal or Warning.
    #[serde(rename = "type")]
    pub severity: Severity,
    /// A word in CamelCase.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
}

impl Note {
    /// Normal news about `object`.
    pub fn normal<K: Resource<DynamicType = ()>>(object: &K, reason: &'static str, message: impl Into<String>) -> Self {
        Self::about(reference(object), Severity::Normal, reason, message)
    }

    /// A warning about `object`.
    pub fn warning<K: Resource<DynamicType = ()>>(
        object: &K,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self::about(reference(object), Severity::Warning, reason, message)
    }

    /// A note about an object known by reference only (with a fieldPath, for containers).
    pub fn about(
        regarding: ObjectReference,
        severity: Severity,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self { regarding, severity, reason, message: message.into() }
    }

    /// The note with every `placeholder` in its message replaced.
    pub(super) fn filled(mut self, placeholder: &str, by: &str) -> Self {
        self.message = self.message.replace(placeholder, by);
        self
    }
}

/// A reference to `object` as events carry it.
fn reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    let meta = object.meta();
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

/// Where loops put their notes. Cheap to clone; recording never waits.
#[derive(Clone)]
pub struct Recorder {
    notes: mpsc::Sender<Note>,
}

impl Recorder {
    /// Starts the task that writes the events of `component` ("deployment-controller") on `host` (a node's name, or
    /// empty) until `shutdown`. Must be called in a tokio runtime.
    pub fn start(client: kube::Client, component: &'static str, host: &str, shutdown: CancellationToken) -> Self {
        let (notes, mut inbox) = mpsc::channel::<Note>(QUEUE_LIMIT);
        let mut correlator = Correlator::new(component, host);
        tokio::spawn(async move {
            while let Some(Some(note)) = shutdown.run_until_cancelled(inbox.recv()).await {
                if let Some(write) = correlator.correlate(note, Timestamp::now()) {
                    perform(&client, write).await;
                }
            }
        });
        Self { notes }
    }

    /// A recorder that drops everything; for tests.
    pub fn silent() -> Self {
        Self { notes: mpsc::channel(1).0 }
    }

    /// Takes a note. When the writer cannot keep up, the note is dropped.
    pub fn record(&self, note: Note) {
        if let Err(mpsc::error::TrySendError::Full(note)) = self.notes.try_send(note) {
            tracing::warn!(reason = note.reason, message = note.message, "too many events, this one is dropped");
        }
    }
}

async fn perform(client: &kube::Client, write: Write) {
    let collection = format!("/api/v1/namespaces/{}/events", write.namespace);
    let (event, patch) = (write.event, write.patch);
    if let Some(patch) = patch {
        let path = format!("{collection}/{}", event["metadata"]["name"].as_str().unwrap_or_default());
        match send(client, &Method::PATCH, path, MERGE, &patch).await {
            Ok(_) => return,
            // The old event has expired: tell it anew.
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return tracing::debug!(%error, "event not counted"),
        }
    }
    if let Err(error) = send(client, &Method::POST, collection, JSON, &event).await {
        // A namespace that is going away takes no more events; that is no trouble to anybody.
        tracing::debug!(%error, "event not written");
    }
}

/// What to write for a note: a patch of the event that says the same already, or else the event.
struct Write {
    namespace: String,
    event: Value,
    patch: Option<Value>,
}

/// Decides what becomes of a note. Pure but for its memory.
struct Correlator {
    component: &'static str,
    host: String,
    /// Event series by everything that must be equal to be counted as one.
    series: IndexMap<String, Series>,
    /// Different messages of one object and reason.
    similar: IndexMap<String, Similar>,
    /// How much an object may still say.
    budget: IndexMap<String, Bucket>,
}

struct Series {
    name: String,
    count: u64,
    first: Timestamp,
}

struct Similar {
    messages: Vec<String>,
    last: Timestamp,
}

struct Bucket {
    tokens: f64,
    at: Timestamp,
}

impl Correlator {
    fn new(component: &'static str, host: &str) -> Self {
        Self {
            component,
            host: host.to_owned(),
            series: IndexMap::new(),
            similar: IndexMap::new(),
            budget: IndexMap::new(),
        }
    }

    fn correlate(&mut self, mut note: Note, now: Timestamp) -> Option<Write> {
        let regarding = &note.regarding;
        let part = |part: &Option<String>| part.clone().unwrap_or_default();
        let object = [&regarding.kind, &regarding.namespace, &regarding.name, &regarding.uid, &regarding.field_path]
            .map(part)
            .join("/");
        if !self.allowed(object.clone(), now) {
            return None;
        }
        let reason = format!("{object}/{:?}/{}", note.severity, note.reason);
        let key = if self.combined(&reason, &note.message, now) {
            note.message = format!("(combined from similar events): {}", note.message);
            format!("{reason}/combined")
        } else {
            format!("{reason}/{}", note.message)
        };
        Some(self.write(key, &note, now))
    }

    fn allowed(&mut self, object: String, now: Timestamp) -> bool {
        let bucket = remembered(&mut self.budget, object, || Bucket { tokens: BURST, at: now });
        let earned = now.duration_since(bucket.at).as_secs_f64() / REFILL.as_secs_f64();
        bucket.tokens = (bucket.tokens + earned.max(0.0)).min(BURST);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }

    fn combined(&mut self, reason: &str, message: &str, now: Timestamp) -> bool {
        let similar = remembered(&mut self.similar, reason.to_owned(), || Similar { messages: Vec::new(), last: now });
        if now.duration_since(similar.last) > SIMILAR_WINDOW {
            similar.messages.clear();
        }
        similar.last = now;
        if similar.messages.iter().any(|known| known == message) {
            return false;
        }
        if similar.messages.len() >= SIMILAR_LIMIT {
            return true;
        }
        similar.messages.push(message.to_owned());
        false
    }

    fn write(&mut self, key: String, note: &Note, now: Timestamp) -> Write {
        let object = ObjectKey::new(
            note.regarding.namespace.clone().unwrap_or_default(),
            note.regarding.name.clone().unwrap_or_default(),
        );
        let name = format!("{}.{:x}", object.name, now.as_nanosecond());
        let series = remembered(&mut self.series, key, || Series { name, count: 0, first: now });
        series.count += 1;
        // Events about cluster-scoped objects live in "default", as in Kubernetes.
        let namespace = if object.namespace.is_empty() { "default".to_owned() } else { object.namespace };
        let seconds = |at: Timestamp| format!("{at:.0}");
        let event = json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": { "name": series.name, "namespace": namespace },
            "involvedObject": note.regarding,
            "type": note.severity,
            "reason": note.reason,
            "message": note.message,
            "source": if self.host.is_empty() {
                json!({ "component": self.component })
            } else {
                json!({ "component": self.component, "host": self.host })
            },
            "firstTimestamp": seconds(series.first),
            "lastTimestamp": seconds(now),
            "count": series.count,
            "reportingComponent": self.component,
            "reportingInstance": self.host,
        });
        let repeated = series.count > 1;
        let patch =
            repeated.then(|| json!({ "count": series.count, "lastTimestamp": seconds(now), "message": note.message }));
        Write { namespace, event, patch }
    }
}

/// The entry of a key in a map that forgets its oldest entry when it is full.
fn remembered<V>(map: &mut IndexMap<String, V>, key: String, make: impl FnOnce() -> V) -> &mut V {
    if map.len() >= REMEMBERED && !map.contains_key(&key) {
        map.shift_remove_index(0);
    }
    map.entry(key).or_insert_with(make)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(message: &str) -> Note {
        let pod = ObjectReference {
            kind: Some("Pod".into()),
            namespace: Some("ns".into()),
            name: Some("web".into()),
            ..ObjectReference::default()
        };
        Note::about(pod, Severity::Warning, "BackOff", message)
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    #[test]
    fn the_same_note_again_counts_up_the_first_event() {
        let mut correlator = Correlator::new("kubelet", "node-1");
        let first = correlator.correlate(note("no"), at(0)).unwrap();
        assert!(first.patch.is_none());
        assert_eq!(first.event["count"], 1);
        assert_eq!(first.event["source"], json!({"component": "kubelet", "host": "node-1"}));
        let second = correlator.correlate(note("no"), at(9)).unwrap();
        assert_eq!(second.event["metadata"]["name"], first.event["metadata"]["name"]);
        let patch = second.patch.unwrap();
        assert_eq!((&patch["count"], &patch["lastTimestamp"]), (&json!(2), &json!("2023-11-14T22:13:29Z")));
        assert_eq!(second.event["firstTimestamp"], "2023-11-14T22:13:20Z");
    }

    #[test]
    fn many_different_messages_of_one_reason_become_one_event() {
        let mut correlator = Correlator::new("kubelet", "");
        for i in 0..10 {
            assert!(correlator.correlate(note(&format!("m{i}")), at(i)).unwrap().patch.is_none());
        }
        let write = correlator.correlate(note("m10"), at(11)).unwrap();
        assert_eq!(write.event["message"], "(combined from similar events): m10");
        let write = correlator.correlate(note("m11"), at(12)).unwrap();
        assert_eq!(write.patch.unwrap()["count"], 2);
    }

    #[test]
    fn an_object_that_says_too_much_is_not_heard_for_a_while() {
        let mut correlator = Correlator::new("kubelet", "");
        let heard = (0..100).filter(|_| correlator.correlate(note("x"), at(0)).is_some()).count();
        assert_eq!(heard, 25);
        assert!(correlator.correlate(note("x"), at(299)).is_none());
        assert!(correlator.correlate(note("x"), at(301)).is_some());
    }
}

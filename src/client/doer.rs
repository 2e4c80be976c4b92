//! The one place that performs actions against the API.
use std::sync::Arc;

use http::{Method, Request};
use serde_json::Value;

use super::{Action, Error, Informers, Note, Recorder, Result, Target, action::DeleteOptions};

pub(super) const JSON: &str = "application/json";
pub(super) const MERGE: &str = "application/merge-patch+json";

/// Performs actions, and lets the caches see what it wrote before anybody plans again.
#[derive(Clone)]
pub struct Doer {
    client: kube::Client,
    informers: Arc<Informers>,
    recorder: Recorder,
}

impl Doer {
    /// `informers` are the caches that shall read these writes.
    pub fn new(client: kube::Client, informers: Arc<Informers>, recorder: Recorder) -> Self {
        Self { client, informers, recorder }
    }

    /// The client it writes with.
    pub fn client(&self) -> &kube::Client {
        &self.client
    }

    /// The recorder it announces with.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Does `action`; returns the API's answer (`Null` for an event, or when there was nothing left to delete).
    ///
    /// # Errors
    /// [`Error::Api`] as the API refused; the action's `failed` note has been recorded then.
    pub async fn perform(&self, action: &Action) -> Result<Value> {
        match action {
            Action::Create { target, object, done, failed } => {
                let answer = self.send(&Method::POST, JSON, target, object).await;
                self.announce(target, &answer, done.as_ref(), failed.as_ref());
                self.saw(target, answer)
            }
            Action::Replace { target, object } => self.saw(target, self.send(&Method::PUT, JSON, target, object).await),
            Action::Patch { target, patch } => self.saw(target, self.send(&Method::PATCH, MERGE, target, patch).await),
            Action::Delete { target, options, done, failed } => {
                let answer = self.send(&Method::DELETE, JSON, target, &options.body()).await;
                let uid = options.uid.as_deref();
                if answer.as_ref().is_err_and(Error::is_not_found) {
                    self.informers.gone(target, uid, &Value::Null);
                    return Ok(Value::Null);
                }
                self.announce(target, &answer, done.as_ref(), failed.as_ref());
                let answer = answer?;
                self.informers.gone(target, uid, &answer);
                Ok(answer)
            }
            Action::DeleteAll { target } => {
                self.send(&Method::DELETE, JSON, target, &DeleteOptions::default().body()).await
            }
            Action::Event(note) => {
                self.recorder.record(note.clone());
                Ok(Value::Null)
            }
        }
    }

    /// The caches read what was written, if it was written.
    fn saw(&self, target: &Target, answer: Result<Value>) -> Result<Value> {
        let answer = answer?;
        if matches!(target.subresource, "" | "status") {
            self.informers.saw(target, &answer);
        }
        Ok(answer)
    }

    fn announce(&self, target: &Target, answer: &Result<Value>, done: Option<&Note>, failed: Option<&Note>) {
        let note = match answer {
            Ok(answer) => done.map(|note| {
                let name = answer["metadata"]["name"].as_str().unwrap_or(&target.name);
                note.clone().filled("{name}", name)
            }),
            Err(error) if error.is_namespace_terminating() || error.is_conflict() => None,
            Err(error) => failed.map(|note| note.clone().filled("{error}", &error.message())),
        };
        if let Some(note) = note {
            self.recorder.record(note);
        }
    }

    async fn send(&self, method: &Method, content: &'static str, target: &Target, body: &Value) -> Result<Value> {
        let is_new = method == Method::POST && target.subresource.is_empty();
        let path = if is_new { target.collection() } else { target.path() };
        let sent = send(&self.client, method, path, content, body).await;
        sent.map_err(|e| Error::api(format!("{method} {target}"), e))
    }
}

/// Sends a body of a media type; the answer.
pub(super) async fn send(
    client: &kube::Client,
    method: &Method,
    path: String,
    content: &'static str,
    body: &Value,
) -> Result<Value, kube::Error> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::CONTENT_TYPE, content)
        .body(body.to_string().into_bytes())
        .map_err(kube::Error::HttpError)?;
    client.request(request).await
}

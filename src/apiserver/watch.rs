//! watch: what is there, then what happens, as a stream of JSON lines.
use std::collections::VecDeque;
use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use bytes::{BufMut, Bytes, BytesMut};
use jiff::Timestamp;
use rand::Rng;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ApiServer;
use super::registry::{self, parse, prefix, store_error, to_bytes};
use super::respond::{Reply, json_response};
use super::route::{Operation, Shape, WatchOptions};
use crate::api::{ApiError, Kind, meta, table};
use crate::store::{Entry, Event, Revision, Store, StoreError, Watch, WatchError};

/// A watch without a time-out of its own ends after this long and up to as long again, so that watchers that started
/// together do not come back together.
const TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// How often a quiet watcher learns that it has missed nothing, so that it can resume later than its last event.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// Events are gathered into pieces of about this many bytes when several are waiting.
const PIECE: usize = 32 * 1024;

impl ApiServer {
    pub(super) fn watch(&self, op: &Operation, options: &WatchOptions, now: Timestamp) -> Result<Reply, ApiError> {
        let timeout = options.timeout.unwrap_or_else(|| TIMEOUT + TIMEOUT.mul_f64(rand::rng().random_range(0.0..1.0)));
        let start = Instant::now();
        let mut stream = Stream {
            lines: Lines::new(op, options, now),
            pending: VecDeque::new(),
            source: None,
            store: self.store.clone(),
            bookmark: options.bookmarks.then(|| start + BOOKMARK_EVERY),
            deadline: start + timeout,
            shutdown: self.shutdown.clone(),
        };
        stream.open(op, options)?;
        let body = futures::stream::unfold(stream, |mut stream| async move {
            let piece = stream.next().await?;
            Some((Ok::<_, std::convert::Infallible>(piece), stream))
        });
        // YAML has no stream of lines: such a watch is JSON too.
        let response = json_response(StatusCode::OK, Body::from_stream(body));
        Ok(Reply::Raw(response))
    }
}

/// A watch in progress.
struct Stream {
    lines: Lines,
    /// Entries that are there already and have not been sent.
    pending: VecDeque<Pending>,
    /// `None`: the stream ends once nothing is pending.
    source: Option<Watch>,
    store: Store,
    /// When the next bookmark is due, if any is wanted.
    bookmark: Option<Instant>,
    deadline: Instant,
    shutdown: CancellationToken,
}

/// What waits to be sent before anything that happens.
enum Pending {
    There(Entry),
    InitialEnd(Revision),
    Failed(ApiError),
}

/// What happened while waiting.
enum Woken {
    Event(Result<Event, WatchError>),
    Bookmark,
    Over,
}

impl Stream {
    /// Finds where to begin. A revision that is gone is told inside the stream: there every client understands it.
    fn open(&mut self, op: &Operation, options: &WatchOptions) -> Result<(), ApiError> {
        let prefix = prefix(op.kind, &op.namespace);
        let newest = self.store.revision();
        if let Some(from) = options.from.filter(|from| *from > newest) {
            return Err(ApiError::too_large_version(from, newest));
        }
        if !options.initial {
            return match self.store.watch(&prefix, options.from.unwrap_or(newest)) {
                Ok(watch) => {
                    self.source = Some(watch);
                    Ok(())
                }
                Err(error @ StoreError::TooOld { .. }) => {
                    let error = store_error(op.kind, "", error);
                    self.pending.push_back(Pending::Failed(error));
                    Ok(())
                }
                Err(error) => Err(store_error(op.kind, "", error)),
            };
        }
        let (range, watch) = self.store.range_and_watch(&prefix).map_err(|error| store_error(op.kind, "", error))?;
        let selected = range.entries.into_iter().filter(|entry| self.lines.selects(entry));
        self.pending = selected.map(Pending::There).collect();
        if options.initial_end {
            self.pending.push_back(Pending::InitialEnd(range.revision));
        }
        self.source = Some(watch);
        Ok(())
    }

    /// The next piece of the body: everything that is waiting, up to [`PIECE`].
    async fn next(&mut self) -> Option<Bytes> {
        let mut out = BytesMut::new();
        while out.is_empty() {
            self.drain_pending(&mut out);
            if !out.is_empty() {
                break;
            }
            match self.wait().await? {
                Woken::Event(Ok(event)) => {
                    self.lines.event(&mut out, &event);
                    self.drain_events(&mut out);
                }
                Woken::Event(Err(WatchError::Lagged)) => {
                    self.source = None;
                    let gone = ApiError::expired("the watcher fell behind; list again");
                    self.lines.error(&mut out, &gone);
                }
                Woken::Bookmark => {
                    // Read first: everything up to it is then in the queue, or has been sent.
                    let revision = self.store.revision();
                    if self.drain_events(&mut out) {
                        self.lines.bookmark(&mut out, revision, false);
                        self.bookmark = Some(Instant::now() + BOOKMARK_EVERY);
                    }
                }
                Woken::Over => return None,
            }
        }
        Some(out.freeze())
    }

    fn drain_pending(&mut self, out: &mut BytesMut) {
        while out.len() < PIECE
            && let Some(pending) = self.pending.pop_front()
        {
            match pending {
                Pending::There(entry) => self.lines.line(out, "ADDED", entry.value()),
                Pending::InitialEnd(revision) => self.lines.bookmark(out, revision, true),
                Pending::Failed(error) => self.lines.error(out, &error),
            }
        }
    }

    /// Takes events that are there already; false if it stopped before the last.
    fn drain_events(&mut self, out: &mut BytesMut) -> bool {
        while let Some(Ok(Some(event))) = self.source.as_mut().map(Watch::try_next) {
            self.lines.event(out, &event);
            if out.len() >= PIECE {
                return false;
            }
        }
        true
    }

    async fn wait(&mut self) -> Option<Woken> {
        let source = self.source.as_mut()?;
        let bookmark = self.bookmark;
        Some(tokio::select! {
            event = source.next() => Woken::Event(event),
            () = at(bookmark) => Woken::Bookmark,
            () = tokio::time::sleep_until(self.deadline) => Woken::Over,
            () = self.shutdown.cancelled() => Woken::Over,
        })
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// Writes events as lines, in the form the client asked for.
struct Lines {
    kind: &'static Kind,
    options: WatchOptions,
    shape: Shape,
    /// Time of the request; ages in tables are told from the clock's now.
    now: Timestamp,
    /// Tables carry their columns in the first line only.
    headed: bool,
}

impl Lines {
    fn new(op: &Operation, options: &WatchOptions, now: Timestamp) -> Self {
        Self { kind: op.kind, options: options.clone(), shape: op.shape, now, headed: false }
    }

    fn selects(&self, entry: &Entry) -> bool {
        self.options.selection.selects(self.kind, entry)
    }

    /// A change: what the selection makes of it.
    fn event(&mut self, out: &mut BytesMut, event: &Event) {
        let before = event.previous.as_ref().is_some_and(|p| self.selects(p));
        let after = !event.deleted && self.selects(&event.entry);
        match (before, after) {
            (false, false) => {}
            (false, true) => self.line(out, "ADDED", event.entry.value()),
            (true, true) => self.line(out, "MODIFIED", event.entry.value()),
            (true, false) if event.deleted => self.line(out, "DELETED", event.entry.value()),
            // It went out of the selection: shown as it last was inside, at the revision it left.
            (true, false) => {
                let last = event.previous.as_ref().map(|p| parse(p.value()));
                if let Some(Ok(object)) = last {
                    let bytes = registry::encode(object, event.revision());
                    self.line(out, "DELETED", &bytes);
                }
            }
        }
    }

    /// One line with an object in storage form.
    fn line(&mut self, out: &mut BytesMut, name: &str, stored: &Bytes) {
        if self.shape == Shape::Whole && !self.kind.converts() {
            return put(out, name, stored);
        }
        let object = match parse(stored) {
            Ok(object) => self.kind.from_storage(object),
            Err(error) => return self.error(out, &error),
        };
        let shaped = match self.shape {
            Shape::Whole => object,
            Shape::Partial => table::partial(&object),
            Shape::Table(include) => {
                let list_meta = json!({"resourceVersion": meta::resource_version(&object)});
                // Not older than the request, not younger than now: the clock may be set back.
                let now = Timestamp::now().max(self.now);
                let rows = [&object];
                self.unhead(table::table(self.kind, rows, list_meta, include, now))
            }
        };
        put(out, name, &to_bytes(&shaped));
    }

    fn unhead(&mut self, mut table: Value) -> Value {
        if self.headed {
            table["columnDefinitions"] = json!([]);
        }
        self.headed = true;
        table
    }

    fn bookmark(&mut self, out: &mut BytesMut, revision: Revision, initial_end: bool) {
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.shape {
            Shape::Whole => {
                json!({"kind": self.kind.kind, "apiVersion": self.kind.api_version(), "metadata": metadata})
            }
            Shape::Partial => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
            }
            Shape::Table(include) => {
                let none: [&Value; 0] = [];
                let table = table::table(self.kind, none, metadata, include, self.now);
                self.unhead(table)
            }
        };
        put(out, "BOOKMARK", &to_bytes(&object));
    }

    fn error(&mut self, out: &mut BytesMut, error: &ApiError) {
        put(out, "ERROR", &to_bytes(&error.to_status()));
    }
}

/// `{"type":"…","object":…}` and a newline.
fn put(out: &mut BytesMut, name: &str, object: &Bytes) {
    out.reserve(object.len() + name.len() + 24);
    out.put_slice(b"{\"type\":\"");
    out.put_slice(name.as_bytes());
    out.put_slice(b"\",\"object\":");
    out.put_slice(object);
    out.put_slice(b"}\n");
}

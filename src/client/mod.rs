//! The only door to the API.
//!
//! Everything below this room (controllers, scheduler, nodes, proxy, DNS, the command line) knows the API and nothing
//! else, so each of them could run against another Kubernetes, or be replaced by the real component. Two ways in, one
//! type out: [`in_process`] hands the API server's router to a `kube::Client` together with an [`Identity`], so the
//! daemon's own loops are authenticated, authorised and admitted like anyone; [`over_unix`] is for people.
//!
//! What a loop needs is here once:
//! - [`Informers`]: one watch and one cache a kind, shared by all who read it, without `managedFields`. The cache reads
//!   its own writes: what [`Doer`] wrote is in the cache before the next plan, so that no controller counts pods that
//!   it created a moment ago as missing. (Others call the same problem "expectations".)
//! - [`WorkQueue`]: keys, not events; each at most once in it, never run twice at a time, delayed or backed off.
//! - [`Reconcile`] and [`drive`]: observe, plan, perform. The plan is pure; the driver is the only place that does IO,
//!   retries and tracing.
//! - [`Recorder`]: Events, with the counting and limits that keep a crash loop from flooding the store.
//!
//! Left out: leader election (one daemon holds the data directory's lock) and resyncs by the clock (the store's watch
//! does not lose events, and an idle cluster must cost nothing).

mod action;
mod cache;
mod connect;
mod doer;
mod driver;
mod events;
mod informer;
mod informers;
mod meta;
mod queue;

pub use crate::apiserver::Identity;
pub use action::{Action, DeleteOptions, Target, merge_diff};
pub use connect::{in_process, over_unix};
pub use doer::Doer;
pub use driver::{Plan, Reconcile, drive};
pub use events::{Note, Recorder, Severity};
pub use informer::{Change, Informer};
pub use informers::{Informers, MetaSubscriber};
pub use meta::{
    ObjectKey, controller_of, is_owned_by, meta_labels, owner_reference, set_condition, time, version_number,
};
pub use queue::{Backoff, WorkQueue};

/// What can go wrong at this door.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API said no, or could not be reached.
    #[error("{doing}: {source}")]
    Api {
        /// What was being done, as in "create pods default/web-".
        doing: String,
        /// kube's error; `kube::Error::Api` carries the Status.
        #[source]
        source: Box<kube::Error>,
    },
    /// A step of a room's own (a mount, a socket) failed; worded by that room.
    #[error("{0}")]
    Step(Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// Wraps a kube error with what was being done.
    pub fn api(doing: impl Into<String>, source: kube::Error) -> Self {
        Self::Api { doing: doing.into(), source: Box::new(source) }
    }

    /// Wraps an error of a room's own.
    pub fn step(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Step(source.into())
    }

    /// The HTTP status of the API's answer, if there was one.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Api { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            _ => None,
        }
    }

    /// The message of the API's Status, or the whole error in words.
    pub fn message(&self) -> String {
        match self {
            Self::Api { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => status.message.clone(),
                other => other.to_string(),
            },
            other => other.to_string(),
        }
    }

    /// 404.
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// 409: somebody else was first. The next plan sees a fresher view; nothing is wrong.
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(409)
    }

    /// The namespace is going away; creating in it will never work.
    pub fn is_namespace_terminating(&self) -> bool {
        self.code() == Some(403) && self.message().contains("because it is being terminated")
    }
}

/// The result of this room.
pub type Result<T, E = Error> = std::result::Result<T, E>;

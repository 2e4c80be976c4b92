//! The composition root: the one place that knows every room, and in what order they come to life.
//!
//! ```text
//! lock ── settings ── underlay ─┬─ store ── API server ─┬─ listeners (TLS on loopback and underlay, unix socket)
//!                    host net ──┘      │                ├─ namespaces' own objects (kube-dns)
//!                                      │                ├─ controllers, scheduler, proxy, dns      } each an API client
//!                                      └── in-process ──┴─ nodes, all at once                      } with its own identity
//! ```
//!
//! The daemon owns no pod. Ending it — by Ctrl-C, SIGTERM, a crash or kill -9 — ends the API and the loops and nothing else:
//! containers run on under their shims, their traffic flows on through the kernel, and the next `up` adopts them. What ends a
//! cluster is [`down::down`], which needs no daemon: everything made on the host has a name that follows from the cluster's
//! name, so it can be swept after any accident. It keeps the data directory (objects, images, logs), so that the next `up`
//! brings the same pods back, unless it is told to purge that too.
//!
//! Two clusters never meet: names differ by cluster, the underlay is the first network that nobody uses, and a lock keeps a
//! second daemon of the same name out.
mod bootstrap;
mod cable;
pub mod control;
pub mod down;
mod fleet;
mod ground;
mod images;
mod lock;
mod paths;
mod run;
mod settings;
mod underlay;

pub use ground::own_directory;
pub use images::build as build_image;
pub use paths::{Paths, check_name};
pub use run::{Event, run};
pub use settings::{NodeSetting, Options, Resize, Settings, Size};

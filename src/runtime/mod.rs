//! The OCI runtime and its shim: from a spec to a running, watched, recorded process.
//!
//! ```text
//!   daemon (async)                     shim, one a pod (one thread)          container
//!   Runtime ── plan(spec): Vec<Step> ─▶ clone3 ──────────────────────────▶ perform(steps) ─▶ execve
//!      ▲       as a memory file           │ keeps: net+ipc+uts namespaces,
//!      └──── answers, events ◀────────────┘ stdio → CRI log, exit records
//! ```
//!
//! **Decide, then do.** `plan` turns an OCI runtime spec into steps without touching anything; they can be printed. The daemon
//! plans, the shim clones, and the fresh process performs the steps on itself through the door of `sys`. The shim never
//! parses a plan: the child does, in its own copy of memory, and takes that with it when it becomes its program.
//!
//! **The host is taken hold of before it is out of sight.** Everything that comes from the host is opened as a detached mount
//! first; then the root is changed; then the trees are attached. Mount points are therefore looked up inside the container,
//! where a symlink planted by an image leads nowhere else.
//!
//! **Nothing is mounted on the host.** Container mounts live in the container's namespace, the pod's memory volumes in the
//! shim's: who dies takes them along. A dead shim takes its containers along as well (parent-death signal).
//!
//! **Truth is on disk.** `<run dir>/pods/<id>.json` is written before a sandbox exists and removed after all else; a
//! container's record in `<pod dir>/exits/` is written before anybody hears of its end. So `list` finds everything again,
//! whoever made it, and `destroy` can be called at any time, twice, or on half a sandbox.
//!
//! Fast paths, in order of what they save: entering v1 cgroups by `tasks` (see [`cgroup`]); overlay mounts that are
//! `volatile`; seccomp programs compiled once and passed by descriptor; a shim that is linked at a fixed address.
//!
//! Left out: user namespaces, checkpoints, OCI hooks, AppArmor and SELinux labels, several conditional actions in one seccomp
//! profile, pid namespaces shared by a pod, and attaching to a container's
//! output other than by its log.
mod bundle;
pub mod cgroup;
mod client;
mod conn;
mod devices;
mod mounts;
mod perform;
mod plan;
mod records;
pub mod scope;
pub mod seccomp;
mod session;
pub mod shim;
mod step;
mod syscalls;
mod types;
mod wire;

pub use client::Runtime;
pub use plan::{Plan, plan};
pub use session::{Attached, Exec, ExecOutput, Resizer};
pub use step::Step;
pub use types::*;

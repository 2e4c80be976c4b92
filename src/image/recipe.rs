//! Recipes: a few lines of YAML that say what is in an image made from files at hand.
//!
//! ```yaml
//! name: demo                 # -> docker.io/library/demo:1
//! tag: "1"                   # default: latest
//! base: scratch              # or a reference to an image in the store
//! files:                     # later entries win; parents are made as needed, root-owned 0755
//!   - self: /coracle         # the running coracle binary, at this path
//!   - host: busybox          # a file of the host: an absolute path, else (and as fallback) its name on PATH
//!     to: /bin/busybox       # default: the path given in `host`
//!     applets: [sh, ls]      # symlinks beside it; `applets: [default]` stands for a usual set
//!   - copy: www              # a file or directory beside the recipe
//!     to: /srv/www
//!     owner: "1000:1000"
//!   - dir: /tmp
//!     mode: "1777"
//!   - text: "hello\n"
//!     to: /etc/motd
//!   - link: busybox          # a symlink: its target …
//!     to: /bin/sh            # … and where it is
//! users:                     # make /etc/passwd and /etc/group, root included
//!   - {name: app, uid: 1000}
//! entrypoint: [/coracle, guest]
//! cmd: [serve]
//! env: {VERSION: "1"}
//! workdir: /
//! user: app
//! ports: [8080/tcp]
//! volumes: [/data]
//! labels: {app: demo}
//! stopSignal: SIGTERM
//! ```
use serde::Deserialize;
use std::collections::BTreeMap;

/// A parsed recipe.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Recipe {
    pub name: String,
    #[serde(default = "latest")]
    pub tag: String,
    #[serde(default = "scratch")]
    pub base: String,
    #[serde(default)]
    pub files: Vec<FileEntry>,
    #[serde(default)]
    pub users: Vec<UserEntry>,
    pub entrypoint: Option<Vec<String>>,
    pub cmd: Option<Vec<String>>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    pub workdir: Option<String>,
    pub user: Option<String>,
    #[serde(default)]
    pub ports: Vec<String>,
    #[serde(default)]
    pub volumes: Vec<String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    pub stop_signal: Option<String>,
}

/// One entry of `files`: exactly one of `self`, `host`, `copy`, `dir`, `text`, `link`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FileEntry {
    #[serde(rename = "self")]
    pub this: Option<String>,
    pub host: Option<String>,
    pub copy: Option<String>,
    pub dir: Option<String>,
    pub text: Option<String>,
    pub link: Option<String>,
    pub to: Option<String>,
    /// Octal, as a string; default 0755 for directories and programs, else the source's own permissions.
    pub mode: Option<String>,
    /// `uid` or `uid:gid`, numeric.
    pub owner: Option<String>,
    #[serde(default)]
    pub applets: Vec<String>,
}

/// A line of /etc/passwd and one of /etc/group.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UserEntry {
    pub name: String,
    pub uid: u32,
    /// Default: the uid.
    pub gid: Option<u32>,
    pub home: Option<String>,
    pub shell: Option<String>,
    /// Further groups, made if they do not exist: name -> gid.
    #[serde(default)]
    pub groups: BTreeMap<String, u32>,
}

fn latest() -> String {
    "latest".into()
}

fn scratch() -> String {
    "scratch".into()
}

//! Pod and container cgroups on v1, hybrid and v2 hosts.
//!
//! Limits are written by libcgroups. Directories are made and entered by us: a process enters a v1 cgroup by writing `0`
//! to `tasks`, which moves one thread and needs no global lock; `cgroup.procs`, which libcgroups uses, waits for a grace
//! period of the whole machine each time (5 ms here, twenty times the rest). On v2 the process is cloned into its cgroup.
mod apply;
mod stats;

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oci_spec::runtime::LinuxResources;

use super::devices;
use super::types::{Error, Result};
use crate::sys;

use apply::apply;
pub(super) use stats::keyed;
pub use stats::{Stats, stats};

/// What we limit and account; other v1 hierarchies are left alone.
const CONTROLLERS: &[&str] = &["cpu", "cpuacct", "memory", "devices", "pids"];
/// The same on v2, where `devices` is not a controller and `cpuacct` is part of `cpu`; of these, what the kernel has.
const CONTROLLERS_V2: &[&str] = &["cpu", "cpuset", "hugetlb", "io", "memory", "pids"];
/// Making a cgroup is tried this often again while parents vanish.
const MAKE_TRIES: usize = 5;
/// Killed processes may take this long to be gone (they have memory to free) before removal is given up.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// One mounted v1 hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Its controllers, `cpu` or `cpu` and `cpuacct` together.
    pub controllers: Vec<String>,
    /// Where it is mounted.
    pub root: PathBuf,
}

/// How this host does cgroups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// v1 or hybrid: a tree for each controller.
    V1(Vec<Hierarchy>),
    /// One tree; ours begins at `root`, which is the mount or a part of it (see [`super::scope`]).
    V2 { root: PathBuf },
}

/// Where the one tree is mounted.
const MOUNT_V2: &str = "/sys/fs/cgroup";
/// Below the mount: the part that was handed to us.
static BEGIN: OnceLock<PathBuf> = OnceLock::new();

/// Makes our part of the one tree begin below its mount. The first word counts.
pub(super) fn begin_at(path: PathBuf) {
    if BEGIN.set(path).is_err() {
        tracing::trace!("where our cgroups begin was settled before");
    }
}

/// Whether this is cgroup v2, which can do more.
pub fn unified() -> Result<bool> {
    Ok(matches!(layout()?, Layout::V2 { .. }))
}

/// The host's layout, read once.
pub fn layout() -> Result<&'static Layout> {
    static LAYOUT: OnceLock<Layout> = OnceLock::new();
    if let Some(known) = LAYOUT.get() {
        return Ok(known);
    }
    let text = fs::read_to_string("/proc/self/mountinfo").map_err(Error::io("reading mounts"))?;
    Ok(LAYOUT.get_or_init(|| {
        let mut layout = layout_of(&text);
        if let (Layout::V2 { root }, Some(begin)) = (&mut layout, BEGIN.get()) {
            root.push(begin);
        }
        layout
    }))
}

/// Pure part of [`layout`]: the text is `/proc/self/mountinfo`.
fn layout_of(mountinfo: &str) -> Layout {
    let mut hierarchies: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        // id parent dev root MOUNT-POINT options [tags] - FSTYPE source SUPER-OPTIONS
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let point = left.split(' ').nth(4).unwrap_or_default();
        let mut right = right.split(' ');
        let (fstype, options) = (right.next(), right.nth(1).unwrap_or_default());
        if fstype == Some("cgroup2") && point == MOUNT_V2 {
            return Layout::V2 { root: point.into() };
        }
        let controllers: Vec<String> =
            options.split(',').filter(|o| CONTROLLERS.contains(o)).map(str::to_owned).collect();
        let known = |h: &Hierarchy| h.controllers == controllers;
        if fstype == Some("cgroup") && !controllers.is_empty() && !hierarchies.iter().any(known) {
            hierarchies.push(Hierarchy { controllers, root: point.into() });
        }
    }
    hierarchies.sort_by(|a, b| a.root.cmp(&b.root));
    Layout::V1(hierarchies)
}

impl Layout {
    /// The directories that are this cgroup.
    pub fn dirs(&self, path: &str) -> Vec<PathBuf> {
        let path = path.trim_start_matches('/');
        match self {
            Layout::V1(hierarchies) => hierarchies.iter().map(|h| h.root.join(path)).collect(),
            Layout::V2 { root } => vec![root.join(path)],
        }
    }

    /// A cgroup's path below the mounts, as `/proc/<pid>/cgroup` has it but for the slash.
    pub fn name(&self, path: &str) -> PathBuf {
        match self {
            Layout::V1(_) => path.into(),
            Layout::V2 { root } => root.strip_prefix(MOUNT_V2).unwrap_or(root).join(path),
        }
    }

    /// The directory of one controller's cgroup.
    pub fn dir(&self, controller: &str, path: &str) -> Option<PathBuf> {
        let path = path.trim_start_matches('/');
        match self {
            Layout::V1(hierarchies) => {
                hierarchies.iter().find(|h| h.controllers.iter().any(|c| c == controller)).map(|h| h.root.join(path))
            }
            Layout::V2 { root } => Some(root.join(path)),
        }
    }

    /// The files a process writes `0` into to enter.
    pub fn entrances(&self, path: &str) -> Vec<PathBuf> {
        let file = match self {
            Layout::V1(_) => "tasks",
            Layout::V2 { .. } => "cgroup.procs",
        };
        self.dirs(path).iter().map(|d| d.join(file)).collect()
    }

    /// The directory to clone a process into, where the kernel can do that.
    pub fn clone_into(&self, path: &str) -> Option<PathBuf> {
        match self {
            Layout::V1(_) => None,
            Layout::V2 { .. } => self.dirs(path).pop(),
        }
    }

    /// The file whose `oom_kill` line counts what the kernel killed for want of memory.
    pub fn oom_file(&self, path: &str) -> Option<PathBuf> {
        let file = match self {
            Layout::V1(_) => "memory.oom_control",
            Layout::V2 { .. } => "memory.events",
        };
        self.dir("memory", path).map(|d| d.join(file))
    }
}

/// The processors that our part of the one tree may use.
pub fn processors() -> Result<Vec<u32>> {
    let Layout::V2 { root } = layout()? else { return Ok(Vec::new()) };
    // A tree without the controller is not narrowed.
    let file = root.join("cpuset.cpus.effective");
    let text = fs::read_to_string(file).or_else(|_| fs::read_to_string("/sys/devices/system/cpu/online"));
    let text = text.map_err(Error::io("reading which processors there are"))?;
    let ranges = text.trim().split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse::<u32>().ok()?..=last.parse::<u32>().ok()?)
    });
    Ok(ranges.flatten().collect())
}

fn error(path: &str, reason: impl ToString) -> Error {
    Error::Cgroup { path: path.to_owned(), reason: reason.to_string() }
}

/// Make a cgroup (path relative to every controller's mount) and its ancestors, and set its limits.
/// A second call changes only the limits.
pub fn ensure(path: &str, resources: Option<&LinuxResources>) -> Result<()> {
    let layout = layout()?;
    let path = path.trim_matches('/');
    below_root(path)?;
    let mut made = make(layout, path);
    for _ in 0..MAKE_TRIES {
        match made {
            // Somebody else, who is done with it, removed a parent that had become empty.
            Err(e) if e.kind() == io::ErrorKind::NotFound => made = make(layout, path),
            _ => break,
        }
    }
    made.map_err(|e| error(path, e))?;
    match resources {
        Some(resources) => apply(path, resources),
        None => Ok(()),
    }
}

fn make(layout: &Layout, path: &str) -> io::Result<()> {
    match layout {
        Layout::V1(_) => layout.dirs(path).iter().try_for_each(fs::create_dir_all),
        Layout::V2 { root } => make_v2(root, path),
    }
}

/// Makes the cgroup of one container. On v2 the kernel kills all of it when one of its processes is out of memory, as the
/// kubelet has it (half a container is no use), and devices are guarded by a program.
pub fn ensure_container(path: &str, resources: Option<&LinuxResources>) -> Result<()> {
    ensure(path, resources)?;
    match layout()? {
        Layout::V1(_) => Ok(()),
        layout @ Layout::V2 { .. } => layout.dirs(path).iter().try_for_each(|dir| {
            fs::write(dir.join("memory.oom.group"), "1").map_err(|e| error(path, format!("memory.oom.group: {e}")))?;
            let rules = resources.and_then(|r| r.devices().clone()).unwrap_or_default();
            sys::attach_device_program(dir, &devices::program(&rules))
                .map_err(|e| error(path, format!("device rules (CONFIG_CGROUP_BPF): {e}")))
        }),
    }
}

/// On v2 a controller must be handed down by every ancestor. The last one hands nothing down: it is for processes.
///
/// Only a parent that gets a new child is written to.
fn make_v2(root: &Path, path: &str) -> io::Result<()> {
    let mut dir = root.to_path_buf();
    for part in path.split('/') {
        let child = dir.join(part);
        if !child.is_dir() {
            let known = fs::read_to_string(dir.join("cgroup.controllers"))?;
            fs::write(dir.join("cgroup.subtree_control"), handed_down(&known))?;
            match fs::create_dir(&child) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                other => other?,
            }
        }
        dir = child;
    }
    Ok(())
}

/// Of the controllers a cgroup has, those its children get, as `cgroup.subtree_control` takes them.
fn handed_down(known: &str) -> String {
    let ours = known.split_whitespace();
    let ours = ours.filter(|controller| CONTROLLERS_V2.contains(controller));
    ours.map(|controller| format!("+{controller} ")).collect()
}

fn below_root(path: &str) -> Result<()> {
    match path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        true => Err(error(path, "not a path below the root")),
        false => Ok(()),
    }
}

/// Kill what lives in a cgroup and below, and remove them all. Gone already is fine.
pub fn remove(path: &str) -> Result<()> {
    let path = path.trim_matches('/');
    below_root(path)?;
    let dirs = layout()?.dirs(path);
    let deadline = Instant::now() + KILL_PATIENCE;
    for dir in &dirs {
        kill_at_once(dir).map_err(|e| error(path, e))?;
        kill_all(dir, deadline).map_err(|e| error(path, e))?;
    }
    for dir in &dirs {
        remove_tree(dir, deadline).map_err(|e| error(path, e))?;
    }
    Ok(())
}

/// Remove what several may share, if nobody does any more. Not empty or gone already is fine.
pub fn remove_empty(path: &str) -> Result<()> {
    for dir in layout()?.dirs(path) {
        match fs::remove_dir(&dir) {
            Err(e) if !matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EBUSY | libc::ENOTEMPTY)) => {
                return Err(error(path, e));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Where the kernel can (v2, since 5.14), nobody escapes by forking. Whoever is left is seen to one by one.
fn kill_at_once(dir: &Path) -> io::Result<()> {
    match fs::OpenOptions::new().write(true).open(dir.join("cgroup.kill")) {
        Ok(mut file) => match io::Write::write_all(&mut file, b"1") {
            // Removed between opening and writing.
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            written => written,
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

/// Kill and wait, again and again while there is somebody: who forks fast may be missed once.
fn kill_all(dir: &Path, deadline: Instant) -> io::Result<()> {
    loop {
        let mut pids = Vec::new();
        collect(dir, &mut pids)?;
        // Opened before the kill, so that the number cannot have got a new owner in between.
        let victims: Vec<OwnedFd> =
            pids.iter().filter(|pid| **pid > 1).filter_map(|pid| sys::pidfd_open(*pid).ok()).collect();
        if victims.is_empty() {
            return Ok(());
        }
        for victim in &victims {
            match sys::pidfd_signal(victim.as_fd(), libc::SIGKILL) {
                Err(e) if e.raw_os_error() != Some(libc::ESRCH) => return Err(e),
                _ => {}
            }
        }
        for victim in &victims {
            wait_gone(victim, deadline)?;
        }
    }
}

fn wait_gone(pidfd: &OwnedFd, deadline: Instant) -> io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
    match poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], timeout) {
        Ok(0) => Err(io::ErrorKind::TimedOut.into()),
        Err(nix::Error::EINTR) => wait_gone(pidfd, deadline),
        other => other.map(drop).map_err(Into::into),
    }
}

fn children(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut dirs = Vec::new();
    for entry in entries {
        match entry.and_then(|entry| Ok((entry.file_type()?.is_dir(), entry.path()))) {
            Ok((true, path)) => dirs.push(path),
            Ok((false, _)) => {}
            // Removed meanwhile, by whoever else tidies up here: systemd does when a scope has become empty.
            Err(e) if e.kind() == io::ErrorKind::NotFound => break,
            Err(e) => return Err(e),
        }
    }
    Ok(dirs)
}

fn collect(dir: &Path, pids: &mut Vec<i32>) -> io::Result<()> {
    match fs::read_to_string(dir.join("cgroup.procs")) {
        Ok(text) => pids.extend(text.lines().filter_map(|l| l.parse::<i32>().ok())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        // Removed between opening and reading.
        Err(e) if e.raw_os_error() == Some(libc::ENODEV) => return Ok(()),
        Err(e) => return Err(e),
    }
    children(dir)?.iter().try_for_each(|d| collect(d, pids))
}

/// Remove a cgroup and all below, with whoever comes in meanwhile. Gone already is fine.
pub(super) fn remove_tree(dir: &Path, deadline: Instant) -> io::Result<()> {
    for child in children(dir)? {
        remove_tree(&child, deadline)?;
    }
    loop {
        match fs::remove_dir(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            // A process counts until it has left the processor for the last time, a moment after it was reaped; and a
            // shim that was being started may have come in after the killing.
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                kill_all(dir, deadline)?;
                std::thread::yield_now();
            }
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResourcesBuilder};

    #[test]
    fn layouts_are_told_apart() {
        let v1 = "36 32 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                  37 32 0:32 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
                  38 32 0:33 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                  39 32 0:34 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let layout = layout_of(v1);
        assert_eq!(
            layout.entrances("a/b"),
            [PathBuf::from("/sys/fs/cgroup/cpu,cpuacct/a/b/tasks"), PathBuf::from("/sys/fs/cgroup/memory/a/b/tasks")]
        );
        assert_eq!(layout.clone_into("a"), None);
        let v2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        let layout = layout_of(v2);
        assert_eq!(layout.clone_into("a"), Some("/sys/fs/cgroup/a".into()));
        assert_eq!(layout.oom_file("a"), Some("/sys/fs/cgroup/a/memory.events".into()));
    }

    #[test]
    fn nothing_above_is_removed() {
        for path in ["", "/", "..", "coracle/..", "coracle//a", "coracle/./a"] {
            assert!(remove(path).unwrap_err().to_string().contains("not a path below the root"), "{path}");
        }
    }

    #[test]
    fn limits_are_set_read_and_removed() {
        let path = format!("coracle/test-{}/a", std::process::id());
        let memory = LinuxMemoryBuilder::default().limit(64 << 20).build().unwrap();
        let pids = LinuxPidsBuilder::default().limit(10).build().unwrap();
        let resources = LinuxResourcesBuilder::default().memory(memory).pids(pids).build().unwrap();
        let began = Instant::now();
        ensure(&path, Some(&resources)).unwrap();
        eprintln!("ensure took {:?}", began.elapsed());
        ensure(&path, Some(&resources)).unwrap();
        let dir = layout().unwrap().dir("pids", &path).unwrap();
        assert_eq!(fs::read_to_string(dir.join("pids.max")).unwrap().trim(), "10");
        assert_eq!(stats(&path).unwrap().pids, 0);
        let parent = path.rsplit_once('/').unwrap().0;
        remove(parent).unwrap();
        remove(parent).unwrap();
        assert!(!dir.exists());
        assert!(ensure("a/../b", None).is_err());
    }
}

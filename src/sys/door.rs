//! The door: everything a container's set-up asks of the kernel, as a trait.
use std::ffi::CString;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;
use nix::sys::resource::Resource;

use super::MountAttr;

/// What kind of special file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum DeviceKind {
    Char,
    Block,
    Fifo,
}

/// A special file to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Device {
    pub kind: DeviceKind,
    pub major: u64,
    pub minor: u64,
    /// Permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// The five capability sets of a process, each a mask with bit n for capability number n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CapSets {
    pub bounding: u64,
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
    pub ambient: u64,
}

/// What the set-up of a container asks of the kernel, one method a request. [`super::Linux`] performs,
/// [`super::Recorder`] writes down.
pub trait Sys {
    /// Give what is mounted at `/` and everywhere below to us alone: later mounts outside are seen, ours are not.
    fn slave_mounts(&mut self) -> io::Result<()>;
    /// `mount(2)`.
    fn mount(&mut self, source: &Path, target: &Path, fstype: &str, flags: MsFlags, data: &str) -> io::Result<()>;
    /// Mount an overlay of the directories `lower`, top first; `data` is the rest of its options.
    fn overlay(&mut self, lower: &[PathBuf], data: &str, root: &Path) -> io::Result<()>;
    /// Copy the tree at `source` and keep it under a number until [`Sys::attach`].
    fn bind_tree(&mut self, slot: usize, source: &Path, recursive: bool) -> io::Result<()>;
    /// Flags of a kept tree.
    fn tree_attr(&mut self, slot: usize, attr: MountAttr) -> io::Result<()>;
    /// Is a kept tree a directory, not a single file?
    fn tree_is_dir(&mut self, slot: usize) -> io::Result<bool>;
    /// Attach a kept tree. It is not kept any longer.
    fn attach(&mut self, slot: usize, target: &Path) -> io::Result<()>;
    /// Flags of what is mounted at `path`.
    fn mount_attr(&mut self, path: &Path, attr: MountAttr) -> io::Result<()>;
    /// Make `root` this process' `/` and let go of everything that was mounted before.
    fn pivot_root(&mut self, root: &Path) -> io::Result<()>;
    /// Make a directory and those above it; existing ones are fine. Magic links on the way are not, here and below.
    fn make_dir(&mut self, path: &Path, mode: u32) -> io::Result<()>;
    /// Make an empty file (and the directories above it) unless there is something.
    fn make_file(&mut self, path: &Path) -> io::Result<()>;
    /// Make a special file with exactly these permissions and owner.
    fn make_node(&mut self, path: &Path, device: Device) -> io::Result<()>;
    /// Make a symlink; an existing one is fine.
    fn symlink(&mut self, target: &Path, path: &Path) -> io::Result<()>;
    /// Write text into an existing file.
    fn write_file(&mut self, path: &Path, text: &str) -> io::Result<()>;
    /// New namespaces for this process (`CLONE_NEW*`).
    fn unshare(&mut self, flags: i32) -> io::Result<()>;
    /// Enter these namespaces (`CLONE_NEW*`) of the container a program is executed in.
    fn join(&mut self, flags: i32) -> io::Result<()>;
    /// A resource limit.
    fn set_rlimit(&mut self, resource: Resource, soft: u64, hard: u64) -> io::Result<()>;
    /// A session of its own.
    fn new_session(&mut self) -> io::Result<()>;
    /// A terminal as controlling terminal and standard streams; the returned descriptor is the side to watch.
    fn open_terminal(&mut self, uid: u32) -> io::Result<Option<std::os::fd::OwnedFd>>;
    /// Give the standard streams to this user, who may want to open `/dev/stdout` anew.
    fn own_stdio(&mut self, uid: u32) -> io::Result<()>;
    /// Working directory, made like [`Sys::make_dir`] does.
    fn change_dir(&mut self, path: &Path, mode: u32) -> io::Result<()>;
    /// File mode creation mask.
    fn set_umask(&mut self, mask: u32) -> io::Result<()>;
    /// User, group and supplementary groups; capabilities that are permitted stay so.
    fn set_user(&mut self, uid: u32, gid: u32, groups: &[u32]) -> io::Result<()>;
    /// Remove capabilities from the bounding set; returns the set we really can have.
    fn limit_caps(&mut self, bounding: u64) -> io::Result<u64>;
    /// The other four sets.
    fn set_caps(&mut self, caps: CapSets) -> io::Result<()>;
    /// Exec gives nothing (setuid, file capabilities) from now on.
    fn no_new_privs(&mut self) -> io::Result<()>;
    /// A seccomp program.
    fn load_seccomp(&mut self, program: &[u8]) -> io::Result<()>;
    /// Die with the shim.
    fn die_with_parent(&mut self) -> io::Result<()>;
    /// The home directory this user has in the `/etc/passwd` this process sees, else `/`.
    fn home(&mut self) -> String;
    /// Replace this process; only returns on failure.
    fn exec(&mut self, path: &Path, args: &[CString], env: &[CString]) -> io::Result<()>;
}

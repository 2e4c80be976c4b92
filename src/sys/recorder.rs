//! The door that writes down what would have been asked.
use std::ffi::CString;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;
use nix::sys::resource::Resource;

use super::{CapSets, Device, MountAttr, Sys};

/// Every call becomes one line; all succeed. Trees are directories.
#[derive(Default)]
pub struct Recorder {
    /// In the order asked.
    pub lines: Vec<String>,
}

impl Recorder {
    fn note(&mut self, line: String) -> io::Result<()> {
        self.lines.push(line);
        Ok(())
    }
}

impl Sys for Recorder {
    fn slave_mounts(&mut self) -> io::Result<()> {
        self.note("slave_mounts".into())
    }
    fn mount(&mut self, source: &Path, target: &Path, fstype: &str, flags: MsFlags, data: &str) -> io::Result<()> {
        self.note(format!("mount {fstype} {} on {} {flags:?} {data:?}", source.display(), target.display()))
    }
    fn overlay(&mut self, lower: &[PathBuf], data: &str, root: &Path) -> io::Result<()> {
        self.note(format!("mount overlay of {lower:?} on {} {data:?}", root.display()))
    }
    fn bind_tree(&mut self, slot: usize, source: &Path, recursive: bool) -> io::Result<()> {
        let recursive = if recursive { " recursive" } else { "" };
        self.note(format!("open_tree #{slot} {}{recursive}", source.display()))
    }
    fn tree_attr(&mut self, slot: usize, attr: MountAttr) -> io::Result<()> {
        self.note(format!("mount_setattr #{slot} {attr:?}"))
    }
    fn tree_is_dir(&mut self, _slot: usize) -> io::Result<bool> {
        Ok(true)
    }
    fn attach(&mut self, slot: usize, target: &Path) -> io::Result<()> {
        self.note(format!("move_mount #{slot} {}", target.display()))
    }
    fn mount_attr(&mut self, path: &Path, attr: MountAttr) -> io::Result<()> {
        self.note(format!("mount_setattr {} {attr:?}", path.display()))
    }
    fn pivot_root(&mut self, root: &Path) -> io::Result<()> {
        self.note(format!("pivot_root {}", root.display()))
    }
    fn make_dir(&mut self, path: &Path, mode: u32) -> io::Result<()> {
        self.note(format!("mkdir {} {mode:o}", path.display()))
    }
    fn make_file(&mut self, path: &Path) -> io::Result<()> {
        self.note(format!("touch {}", path.display()))
    }
    fn make_node(&mut self, path: &Path, d: Device) -> io::Result<()> {
        self.note(format!(
            "mknod {} {:?} {}:{} {:o} {}:{}",
            path.display(),
            d.kind,
            d.major,
            d.minor,
            d.mode,
            d.uid,
            d.gid
        ))
    }
    fn symlink(&mut self, target: &Path, path: &Path) -> io::Result<()> {
        self.note(format!("symlink {} -> {}", path.display(), target.display()))
    }
    fn write_file(&mut self, path: &Path, text: &str) -> io::Result<()> {
        self.note(format!("write {} {text:?}", path.display()))
    }
    fn unshare(&mut self, flags: i32) -> io::Result<()> {
        let flags = nix::sched::CloneFlags::from_bits_truncate(flags);
        self.note(format!("unshare {flags:?}"))
    }
    fn join(&mut self, flags: i32) -> io::Result<()> {
        let flags = nix::sched::CloneFlags::from_bits_truncate(flags);
        self.note(format!("setns {flags:?}"))
    }
    fn set_rlimit(&mut self, resource: Resource, soft: u64, hard: u64) -> io::Result<()> {
        self.note(format!("setrlimit {resource:?} {soft} {hard}"))
    }
    fn new_session(&mut self) -> io::Result<()> {
        self.note("setsid".into())
    }
    fn open_terminal(&mut self, uid: u32) -> io::Result<Option<std::os::fd::OwnedFd>> {
        self.note(format!("terminal of {uid}")).map(|()| None)
    }
    fn own_stdio(&mut self, uid: u32) -> io::Result<()> {
        self.note(format!("fchown 0,1,2 to {uid}"))
    }
    fn change_dir(&mut self, path: &Path, mode: u32) -> io::Result<()> {
        self.note(format!("chdir {} {mode:o}", path.display()))
    }
    fn set_umask(&mut self, mask: u32) -> io::Result<()> {
        self.note(format!("umask {mask:o}"))
    }
    fn set_user(&mut self, uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
        self.note(format!("setgroups {groups:?}; setresgid {gid}; setresuid {uid}"))
    }
    fn limit_caps(&mut self, bounding: u64) -> io::Result<u64> {
        self.note(format!("capbset_drop all but {bounding:#x}"))?;
        Ok(bounding)
    }
    fn set_caps(&mut self, c: CapSets) -> io::Result<()> {
        self.note(format!(
            "capset effective {:#x} permitted {:#x} inheritable {:#x} ambient {:#x}",
            c.effective, c.permitted, c.inheritable, c.ambient
        ))
    }
    fn no_new_privs(&mut self) -> io::Result<()> {
        self.note("no_new_privs".into())
    }
    fn load_seccomp(&mut self, program: &[u8]) -> io::Result<()> {
        self.note(format!("seccomp, {} instructions", program.len() / 8))
    }
    fn die_with_parent(&mut self) -> io::Result<()> {
        self.note("die_with_parent".into())
    }
    fn home(&mut self) -> String {
        "/".into()
    }
    fn exec(&mut self, path: &Path, args: &[CString], env: &[CString]) -> io::Result<()> {
        self.note(format!("execve {} {args:?} {env:?}", path.display()))
    }
}

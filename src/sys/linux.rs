//! The real door.
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use caps::{CapSet, CapsHashSet};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::{Mode, SFlag, fstat, makedev, mknod, umask};
use nix::unistd::{Gid, Uid, dup2, execve, fchdir, fchown, pivot_root, setgroups, setresgid, setresuid, setsid};

use super::{CapSets, Device, DeviceKind, MountAttr, Sys};

/// Performs on the kernel we run on, in this process. Every change is to this process or its mount namespace.
#[derive(Default)]
pub struct Linux {
    /// Trees copied and not attached yet.
    trees: BTreeMap<usize, OwnedFd>,
    /// The process whose namespaces [`Sys::join`] enters.
    target: Option<OwnedFd>,
}

impl Linux {
    /// One that can join the namespaces of the process behind this pidfd.
    pub fn with_target(pidfd: OwnedFd) -> Linux {
        Linux { target: Some(pidfd), ..Linux::default() }
    }

    fn tree(&self, slot: usize) -> io::Result<&OwnedFd> {
        self.trees.get(&slot).ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }
}

impl Sys for Linux {
    fn slave_mounts(&mut self) -> io::Result<()> {
        let flags = MsFlags::MS_SLAVE | MsFlags::MS_REC;
        Ok(mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)?)
    }

    fn mount(&mut self, source: &Path, target: &Path, fstype: &str, flags: MsFlags, data: &str) -> io::Result<()> {
        let data = (!data.is_empty()).then_some(data);
        Ok(mount(Some(source), target, Some(fstype), flags, data)?)
    }

    fn overlay(&mut self, lower: &[PathBuf], data: &str, root: &Path) -> io::Result<()> {
        // Options have one page: few dozens of layers fit in as paths, as many as the kernel allows as numbers here.
        let layers = lower.iter().map(File::open).collect::<io::Result<Vec<_>>>()?;
        let names: Vec<String> = layers.iter().map(|layer| layer.as_raw_fd().to_string()).collect();
        std::env::set_current_dir("/proc/self/fd")?;
        let data = format!("lowerdir={},{data}", names.join(":"));
        self.mount(Path::new("overlay"), root, "overlay", MsFlags::empty(), &data)?;
        std::env::set_current_dir("/")
    }

    fn bind_tree(&mut self, slot: usize, source: &Path, recursive: bool) -> io::Result<()> {
        self.trees.insert(slot, super::bind_tree(source, recursive)?);
        Ok(())
    }

    fn tree_attr(&mut self, slot: usize, attr: MountAttr) -> io::Result<()> {
        super::set_tree_attr(self.tree(slot)?.as_fd(), attr)
    }

    fn tree_is_dir(&mut self, slot: usize) -> io::Result<bool> {
        super::is_dir(self.tree(slot)?.as_fd())
    }

    fn attach(&mut self, slot: usize, target: &Path) -> io::Result<()> {
        super::move_tree(self.tree(slot)?.as_fd(), target)?;
        self.trees.remove(&slot);
        Ok(())
    }

    fn mount_attr(&mut self, path: &Path, attr: MountAttr) -> io::Result<()> {
        super::set_attr(path, attr)
    }

    fn pivot_root(&mut self, root: &Path) -> io::Result<()> {
        // With both arguments "." the old root ends up on top of the new one, to be taken off at once: no directory in
        // the image is needed to put it, and there is no moment at which it has a name.
        std::env::set_current_dir(root)?;
        pivot_root(".", ".")?;
        umount2(".", MntFlags::MNT_DETACH)?;
        std::env::set_current_dir("/")
    }

    fn make_dir(&mut self, path: &Path, mode: u32) -> io::Result<()> {
        super::make_dirs(path, mode).map(drop)
    }

    fn make_file(&mut self, path: &Path) -> io::Result<()> {
        if path.exists() {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.make_dir(parent, 0o755)?;
        }
        super::make_file(path)
    }

    fn make_node(&mut self, path: &Path, device: Device) -> io::Result<()> {
        let kind = match device.kind {
            DeviceKind::Char => SFlag::S_IFCHR,
            DeviceKind::Block => SFlag::S_IFBLK,
            DeviceKind::Fifo => SFlag::S_IFIFO,
        };
        let number = makedev(device.major, device.minor);
        mknod(path, kind, Mode::from_bits_truncate(device.mode), number)?;
        // mknod's mode went through the umask.
        fs::set_permissions(path, fs::Permissions::from_mode(device.mode))?;
        if (device.uid, device.gid) != (0, 0) {
            chown(path, Some(device.uid), Some(device.gid))?;
        }
        Ok(())
    }

    fn symlink(&mut self, target: &Path, path: &Path) -> io::Result<()> {
        match std::os::unix::fs::symlink(target, path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }

    fn write_file(&mut self, path: &Path, text: &str) -> io::Result<()> {
        OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes())
    }

    fn unshare(&mut self, flags: i32) -> io::Result<()> {
        Ok(unshare(CloneFlags::from_bits_truncate(flags))?)
    }

    fn join(&mut self, flags: i32) -> io::Result<()> {
        let target = self.target.as_ref().ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
        Ok(setns(target, CloneFlags::from_bits_truncate(flags))?)
    }

    fn set_rlimit(&mut self, resource: Resource, soft: u64, hard: u64) -> io::Result<()> {
        Ok(setrlimit(resource, soft, hard)?)
    }

    fn new_session(&mut self) -> io::Result<()> {
        Ok(setsid().map(drop)?)
    }

    fn open_terminal(&mut self, uid: u32) -> io::Result<Option<OwnedFd>> {
        let (master, slave, _) = super::open_pty()?;
        fchown(slave.as_raw_fd(), Some(Uid::from_raw(uid)), None)?;
        super::make_controlling(slave.as_fd())?;
        for stream in 0..=2 {
            dup2(slave.as_raw_fd(), stream)?;
        }
        Ok(Some(master))
    }

    fn own_stdio(&mut self, uid: u32) -> io::Result<()> {
        for stream in 0..=2 {
            // Only what was made for this process: /dev/null belongs to everybody.
            let kind = fstat(stream)?.st_mode & libc::S_IFMT;
            if kind == libc::S_IFIFO || kind == libc::S_IFSOCK {
                fchown(stream, Some(Uid::from_raw(uid)), None)?;
            }
        }
        Ok(())
    }

    fn change_dir(&mut self, path: &Path, mode: u32) -> io::Result<()> {
        Ok(fchdir(super::make_dirs(path, mode)?.as_raw_fd())?)
    }

    fn set_umask(&mut self, mask: u32) -> io::Result<()> {
        umask(Mode::from_bits_truncate(mask));
        Ok(())
    }

    fn set_user(&mut self, uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
        let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
        prctl::set_keepcaps(true)?;
        setgroups(&groups)?;
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)?;
        Ok(prctl::set_keepcaps(false)?)
    }

    fn limit_caps(&mut self, bounding: u64) -> io::Result<u64> {
        let mut have = 0;
        for cap in caps::all() {
            if !caps::has_cap(None, CapSet::Bounding, cap).unwrap_or(false) {
                continue; // not known to this kernel, or gone already
            }
            if bounding & cap.bitmask() == 0 {
                caps::drop(None, CapSet::Bounding, cap).map_err(io::Error::other)?;
            } else {
                have |= cap.bitmask();
            }
        }
        Ok(have)
    }

    fn set_caps(&mut self, sets: CapSets) -> io::Result<()> {
        let of = |mask: u64| -> CapsHashSet { caps::all().into_iter().filter(|c| mask & c.bitmask() != 0).collect() };
        // Inheritable and permitted first: ambient must be within both, effective within permitted; and permitted
        // cannot go below effective.
        let effective_first = sets.permitted & sets.effective;
        caps::set(None, CapSet::Inheritable, &of(sets.inheritable)).map_err(io::Error::other)?;
        caps::set(None, CapSet::Effective, &of(effective_first)).map_err(io::Error::other)?;
        caps::set(None, CapSet::Permitted, &of(sets.permitted)).map_err(io::Error::other)?;
        caps::set(None, CapSet::Ambient, &of(sets.ambient & sets.permitted & sets.inheritable))
            .map_err(io::Error::other)
    }

    fn no_new_privs(&mut self) -> io::Result<()> {
        Ok(prctl::set_no_new_privs()?)
    }

    fn load_seccomp(&mut self, program: &[u8]) -> io::Result<()> {
        super::load_seccomp(program)
    }

    fn die_with_parent(&mut self) -> io::Result<()> {
        super::die_with_parent()
    }

    fn home(&mut self) -> String {
        // Not by libc: a static one would load libraries from the image to look users up.
        let uid = nix::unistd::geteuid().to_string();
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let mut rows = users.lines().map(|l| l.split(':').collect::<Vec<_>>());
        let home = rows.find(|r| r.get(2) == Some(&uid.as_str()));
        home.and_then(|r| r.get(5).map(|h| h.to_string())).filter(|h| !h.is_empty()).unwrap_or_else(|| "/".into())
    }

    fn exec(&mut self, path: &Path, args: &[CString], env: &[CString]) -> io::Result<()> {
        let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        Ok(execve(&path, args, env).map(drop)?)
    }
}

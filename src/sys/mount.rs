//! The mount calls that work on descriptors: a tree is cloned, given its flags, and attached where it belongs.
//! `mount(2)` would need three steps and would follow a symlink planted by an image.
use std::ffi::CString;
use std::fs::{File, Permissions};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, mkdirat};

/// Bits of [`MountAttr::set`] and `clear`, from <linux/mount.h>.
pub mod attr {
    pub const RDONLY: u64 = 0x1;
    pub const NOSUID: u64 = 0x2;
    pub const NODEV: u64 = 0x4;
    pub const NOEXEC: u64 = 0x8;
    pub const NOATIME: u64 = 0x10;
    /// The bits that say how access times are kept; to be cleared whenever one of them is set.
    pub const ATIME: u64 = 0x70;
    pub const NODIRATIME: u64 = 0x80;
}

// From <linux/mount.h>; libc has them for other systems only.
const OPEN_TREE_CLONE: libc::c_uint = 1;
const OPEN_TREE_CLOEXEC: libc::c_uint = libc::O_CLOEXEC as libc::c_uint;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 0x4;
const MOVE_MOUNT_T_SYMLINKS: libc::c_uint = 0x10;

/// `struct mount_attr` of <linux/mount.h>.
#[repr(C)]
struct RawAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Flags of a mount, as `mount_setattr` takes them (`MOUNT_ATTR_*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct MountAttr {
    /// Bits to set.
    pub set: u64,
    /// Bits to clear.
    pub clear: u64,
    /// `MS_PRIVATE`, `MS_SLAVE` or 0 for unchanged.
    pub propagation: u64,
    /// Apply to everything mounted below as well.
    pub recursive: bool,
}

fn path_arg(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

fn open_at(dir: RawFd, path: &Path, flags: OFlag, resolve: ResolveFlag) -> io::Result<File> {
    let mode = if flags.contains(OFlag::O_CREAT) { 0o644 } else { 0 };
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).mode(Mode::from_bits_truncate(mode)).resolve(resolve);
    let fd = openat2(dir, path, how)?;
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Finds (`O_PATH`) what is at `path` below `dir`. Symlinks may lead anywhere below `dir`, else `EXDEV`.
pub fn open_beneath(dir: &File, path: &Path) -> io::Result<File> {
    open_at(dir.as_raw_fd(), path, OFlag::O_PATH, ResolveFlag::RESOLVE_BENEATH)
}

/// Makes a directory in `dir`, with this mode whatever the umask is, and opens it.
pub fn make_beneath(dir: &File, name: &Path, mode: u32) -> io::Result<File> {
    mkdirat(Some(dir.as_raw_fd()), name, Mode::from_bits_truncate(mode))?;
    let made = open_at(dir.as_raw_fd(), name, OFlag::O_DIRECTORY, ResolveFlag::RESOLVE_NO_SYMLINKS)?;
    made.set_permissions(Permissions::from_mode(mode))?;
    Ok(made)
}

/// Finds (`O_PATH`) the directory at `path`; it and those above it are made where missing. No part of the path may be a
/// magic link (`ELOOP`), as `/proc/<pid>/root` is one: those lead out of the container.
pub fn make_dirs(path: &Path, mode: u32) -> io::Result<File> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    let open = || open_at(libc::AT_FDCWD, path, flags, ResolveFlag::RESOLVE_NO_MAGICLINKS);
    match (open(), path.parent()) {
        (Err(e), Some(parent)) if e.kind() == io::ErrorKind::NotFound => {
            let parent = make_dirs(parent, mode)?;
            let mode = Mode::from_bits_truncate(mode);
            match path.file_name().map(|name| mkdirat(Some(parent.as_raw_fd()), name, mode)) {
                Some(Err(e)) if e != Errno::EEXIST => Err(e.into()),
                _ => open(),
            }
        }
        (opened, _) => opened,
    }
}

/// Makes an empty file unless there is one. As for [`make_dirs`], no part of the path may be a magic link.
pub fn make_file(path: &Path) -> io::Result<()> {
    open_at(libc::AT_FDCWD, path, OFlag::O_WRONLY | OFlag::O_CREAT, ResolveFlag::RESOLVE_NO_MAGICLINKS).map(drop)
}

/// A private copy of what is mounted at `source` (a directory or a single file), attached nowhere yet. No part of the
/// path may be a symlink (`ELOOP`): whoever shares a volume could plant one that leads out of it.
pub fn bind_tree(source: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let source = open_at(libc::AT_FDCWD, source, OFlag::O_PATH, ResolveFlag::RESOLVE_NO_SYMLINKS)?;
    let mut flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH as u32;
    if recursive {
        flags |= libc::AT_RECURSIVE as u32;
    }
    // SAFETY: a live descriptor with an empty path (allowed by the flag); the rest are integers.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, source.as_raw_fd(), c"".as_ptr(), flags) };
    let fd = Errno::result(fd)?;
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Attach a tree from [`bind_tree`] on top of `target`.
pub fn move_tree(tree: BorrowedFd<'_>, target: &Path) -> io::Result<()> {
    let target = path_arg(target)?;
    // SAFETY: a live descriptor with an empty path (allowed by the flag), a NUL-terminated string, integers.
    let done = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_SYMLINKS,
        )
    };
    Ok(Errno::result(done).map(drop)?)
}

/// Change the flags of a tree from [`bind_tree`].
pub fn set_tree_attr(tree: BorrowedFd<'_>, attr: MountAttr) -> io::Result<()> {
    mount_setattr(tree.as_raw_fd(), c"", libc::AT_EMPTY_PATH, attr)
}

/// Change the flags of what is mounted at `path`.
pub fn set_attr(path: &Path, attr: MountAttr) -> io::Result<()> {
    mount_setattr(libc::AT_FDCWD, &path_arg(path)?, 0, attr)
}

fn mount_setattr(dir: i32, path: &std::ffi::CStr, mut flags: i32, attr: MountAttr) -> io::Result<()> {
    if attr.recursive {
        flags |= libc::AT_RECURSIVE;
    }
    let arg = RawAttr { set: attr.set, clear: attr.clear, propagation: attr.propagation, userns_fd: 0 };
    // SAFETY: `path` is NUL-terminated and `arg` is as long as is said; both outlive the call.
    let done = unsafe {
        libc::syscall(libc::SYS_mount_setattr, dir, path.as_ptr(), flags, &raw const arg, size_of::<RawAttr>())
    };
    Ok(Errno::result(done).map(drop)?)
}

/// Is the root of a tree a directory (and not a single file)?
pub fn is_dir(tree: BorrowedFd<'_>) -> io::Result<bool> {
    let stat = nix::sys::stat::fstat(tree.as_raw_fd())?;
    Ok(stat.st_mode & libc::S_IFMT == libc::S_IFDIR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_made_through_symlinks_but_not_through_magic_ones() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
        make_dirs(&dir.path().join("real/a"), 0o755).unwrap();
        make_dirs(&dir.path().join("link/b/../c"), 0o755).unwrap();
        make_file(&dir.path().join("link/b/file")).unwrap();
        assert!(dir.path().join("real/c").is_dir() && dir.path().join("real/b/file").is_file());
        let magic = Path::new("/proc/self/root").join(dir.path().strip_prefix("/").unwrap());
        for path in [Path::new("/proc/self/cwd"), &magic.join("d")] {
            assert_eq!(make_dirs(path, 0o755).unwrap_err().raw_os_error(), Some(libc::ELOOP));
        }
        assert_eq!(make_file(&magic.join("e")).unwrap_err().raw_os_error(), Some(libc::ELOOP));
        assert!(!dir.path().join("d").exists() && !dir.path().join("e").exists());
    }

    #[test]
    fn the_source_of_a_bind_is_no_symlink() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        std::os::unix::fs::symlink("/etc", real.join("out")).unwrap();
        for path in ["out", "out/ssl"] {
            assert_eq!(bind_tree(&real.join(path), true).unwrap_err().raw_os_error(), Some(libc::ELOOP));
        }
    }
}

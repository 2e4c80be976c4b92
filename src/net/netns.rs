//! Named network namespaces as `ip netns` keeps them, and doing things inside one.
//!
//! A namespace lives as long as a process, a socket or a mount holds it. Ours are held by a bind mount of a thread's
//! `ns/net` on a file under `/run/netns`. iproute2 makes that directory a shared mount of its own, so that unmounting
//! reaches copies in other mount namespaces; where it did, ours take part in that. We do not make one (it would stay
//! behind): since Linux 3.18 removing the file detaches the copies too.
use super::{Error, Result};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};
use std::{
    collections::BTreeMap,
    fs::{self, File, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// Where named network namespaces are mounted; iproute2 uses the same directory.
pub fn dir() -> PathBuf {
    PathBuf::from("/run/netns")
}

/// The mode of the directory when we made it. iproute2 makes it without the sticky bit, so this is how
/// [`remove`] knows that the directory is ours to remove.
const OURS: u32 = 0o1755;

/// Makes a named namespace; `prepare` runs inside before anybody can see it. Returns false when it existed.
pub fn create(path: &Path, prepare: impl FnOnce() -> Result<()> + Send) -> Result<bool> {
    if is_namespace(path) {
        return Ok(false);
    }
    let failed = |what| move |source| Error::File { what, path: path.to_path_buf(), source };
    if let Some(dir) = path.parent().filter(|d| !d.exists()) {
        fs::create_dir_all(dir).map_err(failed("making the directory of"))?;
        fs::set_permissions(dir, Permissions::from_mode(OURS)).map_err(failed("making the directory of"))?;
    }
    File::options().create(true).truncate(false).write(true).open(path).map_err(failed("creating"))?;
    let target = path.to_path_buf();
    helper(move || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        prepare().map_err(io::Error::other)?;
        mount(Some("/proc/thread-self/ns/net"), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        Ok(())
    })
    .map_err(failed("making the network namespace"))?;
    Ok(true)
}

/// Removes a named namespace; what lives in it goes with it once no process is left inside. Fine if there is none.
pub fn remove(path: &Path) -> Result<()> {
    let failed = |what| move |source| Error::File { what, path: path.to_path_buf(), source };
    match umount2(path, MntFlags::MNT_DETACH) {
        // EINVAL: a file without a mount, left by a crash between the two.
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        Err(e) => return Err(failed("unmounting")(e.into())),
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed("removing")(e)),
        _ => {}
    }
    if let Some(dir) = path.parent() {
        let ours = fs::metadata(dir).is_ok_and(|m| m.permissions().mode() & 0o7777 == OURS);
        // Refused while somebody's namespace is in it; the last one out removes it.
        if ours && fs::remove_dir(dir).is_err_and(|e| e.kind() != io::ErrorKind::DirectoryNotEmpty) {
            tracing::debug!(dir = %dir.display(), "left in place");
        }
    }
    Ok(())
}

/// Whether a namespace is mounted there (a plain file is what a crash leaves).
pub fn is_namespace(path: &Path) -> bool {
    nix::sys::statfs::statfs(path).is_ok_and(|s| s.filesystem_type().0 == libc::NSFS_MAGIC)
}

/// Runs `f` on a thread that is inside the network namespace at `path`. Sockets opened there stay there.
pub fn inside<T: Send>(path: &Path, f: impl FnOnce() -> T + Send) -> Result<T> {
    let failed = |source| Error::File { what: "entering the network namespace", path: path.to_path_buf(), source };
    let file = File::open(path).map_err(failed)?;
    helper(|| {
        setns(&file, CloneFlags::CLONE_NEWNET)?;
        Ok(f())
    })
    .map_err(failed)
}

/// A thread of its own, because a namespace belongs to a thread and must not leak into a pool's.
fn helper<T: Send>(f: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, f)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Reads sysctls of the calling thread's network namespace; those the kernel does not have are left out.
pub fn read_sysctls<'a>(paths: impl Iterator<Item = &'a String>) -> Result<BTreeMap<String, String>> {
    let mut out = BTreeMap::new();
    for name in paths {
        let path = Path::new("/proc/sys").join(name);
        match fs::read_to_string(&path) {
            Ok(value) => drop(out.insert(name.clone(), value.trim().to_string())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(source) => {
                return Err(Error::File { what: "reading", path, source });
            }
        }
    }
    Ok(out)
}

/// Writes a sysctl of the calling thread's network namespace.
pub fn write_sysctl(name: &str, value: &str) -> Result<()> {
    let path = Path::new("/proc/sys").join(name);
    fs::write(&path, value).map_err(|source| Error::File { what: "writing", path, source })
}

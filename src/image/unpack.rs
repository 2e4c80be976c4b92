//! Unpacking one layer's tar into a directory that overlayfs can use as a lower.
//!
//! The archive is hostile: every parent directory is opened with `openat2(RESOLVE_IN_ROOT)`, so neither `..` nor a
//! symlink planted by an earlier entry leads out of the directory, and the last component is never followed.
use super::ImageError;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, makedev, mknod, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::close;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::RawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, lchown, symlink};
use std::path::{Component, Path, PathBuf};
use tar::EntryType;

/// Bytes one unpacked layer may have: stops a compression bomb before it fills the disk.
const MAX_LAYER_BYTES: u64 = 16 << 30;
/// Entries one layer may have; real ones have some ten thousand.
const MAX_ENTRIES: u64 = 2_000_000;
/// Prefix of the names that say "deleted here" in a layer.
const WHITEOUT: &[u8] = b".wh.";
/// The name that says "nothing of the lower directories shows through".
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Unpacks `tar` (uncompressed) into the existing directory `root`; returns the bytes of its files.
pub fn unpack(tar: impl Read, root: &Path) -> Result<u64, ImageError> {
    let root_fd = Dir::open_root(root)?;
    let mut layer = Layer { root: root_fd, parent: None, dirs: BTreeMap::new(), bytes: 0 };
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().map_err(ImageError::io("reading layer into", root))?;
    for (count, entry) in entries.enumerate() {
        let mut entry = entry.map_err(ImageError::io("reading layer into", root))?;
        if count as u64 > MAX_ENTRIES {
            return Err(ImageError::Layer(format!("more than {MAX_ENTRIES} entries")));
        }
        layer.entry(&mut entry)?;
    }
    layer.finish()?;
    Ok(layer.bytes)
}

/// An open directory; paths below it go through `/proc/self/fd`, so they cannot be redirected.
struct Dir(RawFd);

impl Drop for Dir {
    fn drop(&mut self) {
        // Nothing to do about a failing close of a directory that was only a path.
        close(self.0).ok();
    }
}

impl Dir {
    fn open_root(path: &Path) -> Result<Dir, ImageError> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_PATH | OFlag::O_CLOEXEC;
        nix::fcntl::open(path, flags, Mode::empty()).map(Dir).map_err(|e| ImageError::io("opening", path)(e.into()))
    }

    /// Opens a directory below.
    fn open(&self, path: &Path) -> nix::Result<Dir> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        self.resolve(path, OFlag::O_DIRECTORY).map(Dir)
    }

    /// Finds something below, resolving symlinks as if this directory were `/`.
    fn resolve(&self, path: &Path, flags: OFlag) -> nix::Result<RawFd> {
        let how = OpenHow::new().flags(flags | OFlag::O_PATH | OFlag::O_CLOEXEC);
        openat2(self.0, path, how.resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS))
    }

    fn join(&self, name: &Path) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0)).join(name)
    }
}

/// The layer being unpacked.
struct Layer {
    root: Dir,
    /// The directory of the last entry: archives come directory by directory.
    parent: Option<(PathBuf, Dir)>,
    /// Modification times of directories, set last because filling a directory changes them.
    dirs: BTreeMap<PathBuf, i64>,
    bytes: u64,
}

impl Layer {
    fn entry(&mut self, entry: &mut tar::Entry<'_, impl Read>) -> Result<(), ImageError> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader | EntryType::XHeader) {
            return Ok(());
        }
        let raw = entry.path_bytes().into_owned();
        let path = clean(&raw)?;
        let shown = path.display().to_string();
        let wrap = |source| ImageError::Io { what: format!("unpacking {shown}"), source };
        let Some(name) = path.file_name().map(PathBuf::from) else {
            return self.meta(entry, &self.root.join(Path::new(".")), false).map_err(wrap);
        };
        let parent = path.parent().unwrap_or(Path::new("")).to_path_buf();
        let dir = self.enter(&parent).map_err(wrap)?;
        let bytes = name.as_os_str().as_bytes();
        if bytes == OPAQUE {
            return xattr::set(dir, "trusted.overlay.opaque", b"y").map_err(wrap);
        }
        if let Some(hidden) = bytes.strip_prefix(WHITEOUT) {
            if matches!(hidden, b"" | b"." | b"..") {
                return Err(ImageError::Layer(format!("{shown:?} hides no name")));
            }
            return whiteout(&dir.join(std::ffi::OsStr::from_bytes(hidden))).map_err(wrap);
        }
        let at = dir.join(&name);
        self.make(entry, kind, &path, &at).map_err(wrap)?;
        if self.bytes > MAX_LAYER_BYTES {
            return Err(ImageError::Layer(format!("more than {MAX_LAYER_BYTES} bytes")));
        }
        Ok(())
    }

    /// The parent directory as a path that cannot be redirected; missing ones are made, as tar does.
    fn enter(&mut self, parent: &Path) -> io::Result<PathBuf> {
        if self.parent.as_ref().is_none_or(|(path, _)| path != parent) {
            let dir = match self.root.open(parent) {
                Ok(dir) => dir,
                Err(nix::Error::ENOENT) => self.make_parents(parent)?,
                Err(e) => return Err(e.into()),
            };
            self.parent = Some((parent.to_path_buf(), dir));
        }
        let (_, dir) = self.parent.as_ref().ok_or(io::ErrorKind::NotFound)?;
        Ok(dir.join(Path::new("")))
    }

    fn make_parents(&self, path: &Path) -> io::Result<Dir> {
        let mut at = PathBuf::new();
        let mut dir = self.root.open(&at)?;
        for part in path.components() {
            at.push(part);
            dir = match self.root.open(&at) {
                Ok(next) => next,
                Err(nix::Error::ENOENT) => {
                    let new = dir.join(Path::new(part.as_os_str()));
                    fs::create_dir(&new)?;
                    fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
                    self.root.open(&at)?
                }
                Err(e) => return Err(e.into()),
            };
        }
        Ok(dir)
    }

    fn make(
        &mut self,
        entry: &mut tar::Entry<'_, impl Read>,
        kind: EntryType,
        path: &Path,
        at: &Path,
    ) -> io::Result<()> {
        let is_dir = kind == EntryType::Directory;
        clear(at, is_dir)?;
        let device = || -> io::Result<u64> {
            let (major, minor) = (entry.header().device_major()?, entry.header().device_minor()?);
            Ok(makedev(major.unwrap_or(0).into(), minor.unwrap_or(0).into()))
        };
        match kind {
            EntryType::Directory if at.symlink_metadata().is_ok() => {}
            EntryType::Directory => fs::create_dir(at)?,
            EntryType::Symlink => symlink(link_name(entry)?, at)?,
            EntryType::Link => return self.hard_link(&link_name(entry)?, at),
            EntryType::Char => mknod(at, SFlag::S_IFCHR, Mode::S_IRUSR, device()?)?,
            EntryType::Block => mknod(at, SFlag::S_IFBLK, Mode::S_IRUSR, device()?)?,
            EntryType::Fifo => mknod(at, SFlag::S_IFIFO, Mode::S_IRUSR, 0)?,
            _ => self.file(entry, at)?,
        }
        if is_dir {
            self.dirs.insert(path.to_path_buf(), entry.header().mtime().unwrap_or(0) as i64);
        }
        self.meta(entry, at, kind == EntryType::Symlink)
    }

    fn file(&mut self, entry: &mut tar::Entry<'_, impl Read>, at: &Path) -> io::Result<()> {
        let room = MAX_LAYER_BYTES - self.bytes.min(MAX_LAYER_BYTES) + 1;
        let mut out =
            fs::OpenOptions::new().write(true).create_new(true).custom_flags(libc::O_NOFOLLOW).mode(0o600).open(at)?;
        self.bytes += io::copy(&mut entry.take(room), &mut out)?;
        out.flush()
    }

    /// Links to a file of this layer; the target is looked up in the layer, never outside.
    fn hard_link(&self, target: &Path, at: &Path) -> io::Result<()> {
        let target = clean(target.as_os_str().as_bytes()).map_err(io::Error::other)?;
        let name = target.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let dir = self.root.open(target.parent().unwrap_or(Path::new("")))?;
        fs::hard_link(dir.join(Path::new(name)), at)
    }

    /// Owner, extended attributes, permissions and time, in the order that keeps set-uid bits and capabilities.
    fn meta(&self, entry: &mut tar::Entry<'_, impl Read>, at: &Path, is_link: bool) -> io::Result<()> {
        let header = entry.header();
        // Some writers leave the owner blank; that means root.
        let uid = header.uid().unwrap_or(0) as u32;
        let gid = header.gid().unwrap_or(0) as u32;
        let (mode, mtime) = (header.mode().unwrap_or(0o644) & 0o7777, header.mtime().unwrap_or(0) as i64);
        lchown(at, Some(uid), Some(gid))?;
        if !is_link {
            fs::set_permissions(at, fs::Permissions::from_mode(mode))?;
        }
        for extension in entry.pax_extensions()?.into_iter().flatten().flatten() {
            if let Some(key) = extension.key_bytes().strip_prefix(b"SCHILY.xattr.") {
                // An image must not play overlayfs itself: these attributes are ours to set.
                if !key.starts_with(b"trusted.overlay.") {
                    xattr::set(at, std::ffi::OsStr::from_bytes(key), extension.value_bytes())?;
                }
            }
        }
        set_mtime(at, mtime)
    }

    fn finish(&self) -> Result<(), ImageError> {
        for (path, mtime) in self.dirs.iter().rev() {
            let wrap = ImageError::io("setting the time of", path);
            match self.root.open(path) {
                Ok(dir) => set_mtime(&dir.join(Path::new(".")), *mtime).map_err(wrap)?,
                // A later entry replaced the directory by something else.
                Err(nix::Error::ENOTDIR | nix::Error::ENOENT) => {}
                Err(e) => return Err(wrap(e.into())),
            }
        }
        Ok(())
    }
}

/// Opens a file for reading, resolving symlinks as if `root` were `/`. Errors: it is not a regular file; opening one of an
/// image's pipes would wait for ever, and one of its devices would be the host's.
pub(super) fn open_within(root: &Path, path: &Path) -> io::Result<fs::File> {
    let root = Dir::open_root(root).map_err(io::Error::other)?;
    let found = Dir(root.resolve(path, OFlag::empty())?);
    let at = format!("/proc/self/fd/{}", found.0);
    if !fs::metadata(&at)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    fs::File::open(at)
}

/// A path relative to the root. Errors: it climbs out, or holds a NUL.
fn clean(raw: &[u8]) -> Result<PathBuf, ImageError> {
    let path = PathBuf::from(OsString::from_vec(raw.to_vec()));
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::CurDir | Component::RootDir => {}
            _ => return Err(ImageError::Layer(format!("path {path:?} leaves the image"))),
        }
    }
    if raw.contains(&0) {
        return Err(ImageError::Layer(format!("path {path:?} holds a NUL byte")));
    }
    Ok(out)
}

/// Makes room for a new entry: what is there goes, but a directory stays for a directory.
fn clear(at: &Path, for_dir: bool) -> io::Result<()> {
    match at.symlink_metadata() {
        Ok(meta) if meta.is_dir() && for_dir => Ok(()),
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(at),
        Ok(_) => fs::remove_file(at),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

/// overlayfs' whiteout: a character device 0:0.
fn whiteout(at: &Path) -> io::Result<()> {
    clear(at, false)?;
    Ok(mknod(at, SFlag::S_IFCHR, Mode::empty(), makedev(0, 0))?)
}

fn link_name(entry: &tar::Entry<'_, impl Read>) -> io::Result<PathBuf> {
    let bytes = entry.link_name_bytes().ok_or(io::ErrorKind::InvalidData)?;
    Ok(PathBuf::from(OsString::from_vec(bytes.into_owned())))
}

fn set_mtime(at: &Path, seconds: i64) -> io::Result<()> {
    let time = TimeSpec::new(seconds, 0);
    Ok(utimensat(None, at, &time, &time, UtimensatFlags::NoFollowSymlink)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileTypeExt, MetadataExt};

    fn header(kind: EntryType, path: &str, size: u64) -> tar::Header {
        let mut h = tar::Header::new_gnu();
        h.set_entry_type(kind);
        // Written raw: the library's own setter refuses the paths this test is about.
        h.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        h.set_size(size);
        h.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o4750 });
        h.set_uid(7);
        h.set_gid(8);
        h.set_mtime(1000);
        h
    }

    fn tar(entries: &[(EntryType, &str, &str)]) -> Vec<u8> {
        let mut out = tar::Builder::new(Vec::new());
        for (kind, path, data) in entries {
            let link = matches!(kind, EntryType::Link | EntryType::Symlink);
            let mut h = header(*kind, path, if link { 0 } else { data.len() as u64 });
            if link {
                h.as_old_mut().linkname[..data.len()].copy_from_slice(data.as_bytes());
            }
            h.set_cksum();
            out.append(&h, if link { &b""[..] } else { data.as_bytes() }).unwrap();
        }
        out.into_inner().unwrap()
    }

    #[test]
    fn kinds_owners_and_whiteouts_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = tar(&[
            (EntryType::Directory, "a", ""),
            (EntryType::Regular, "a/f", "hello"),
            (EntryType::Link, "a/g", "a/f"),
            (EntryType::Symlink, "l", "/a"),
            (EntryType::Regular, "l/through", "x"),
            (EntryType::Fifo, "p", ""),
            (EntryType::Regular, "deep/er/f", "y"),
            (EntryType::Regular, "a/.wh.gone", ""),
            (EntryType::Regular, "a/.wh..wh..opq", ""),
        ]);
        assert_eq!(unpack(&bytes[..], dir.path()).unwrap(), 7);
        let stat = |p: &str| dir.path().join(p).symlink_metadata().unwrap();
        assert_eq!(stat("a/f").ino(), stat("a/g").ino());
        assert_eq!((stat("a/f").uid(), stat("a/f").gid(), stat("a/f").mode() & 0o7777), (7, 8, 0o4750));
        assert_eq!((stat("a").mtime(), stat("a/f").mtime()), (1000, 1000));
        assert!(stat("a/through").is_file());
        assert!(stat("p").file_type().is_fifo());
        assert!(stat("a/gone").file_type().is_char_device());
        assert_eq!(stat("a/gone").rdev(), 0);
        let opaque = xattr::get(dir.path().join("a"), "trusted.overlay.opaque").unwrap();
        assert_eq!(opaque.as_deref(), Some(&b"y"[..]));
    }

    #[test]
    fn nothing_gets_out() {
        let outer = tempfile::tempdir().unwrap();
        let victim = outer.path().join("victim");
        fs::write(&victim, "safe").unwrap();
        let up = outer.path().to_str().unwrap().to_string();
        let tries: [&[(EntryType, &str, &str)]; 5] = [
            &[(EntryType::Regular, "../victim", "bad")],
            &[(EntryType::Symlink, "s", &up), (EntryType::Regular, "s/victim", "bad")],
            &[(EntryType::Symlink, "s", ".."), (EntryType::Regular, "s/victim", "bad")],
            &[(EntryType::Link, "h", "../victim"), (EntryType::Regular, "h", "bad")],
            &[(EntryType::Regular, ".wh...", "")],
        ];
        for (n, entries) in tries.iter().enumerate() {
            let root = outer.path().join(format!("root{n}"));
            fs::create_dir(&root).unwrap();
            // Refusing and redirecting into the root are both fine.
            unpack(&tar(entries)[..], &root).ok();
            assert_eq!(fs::read_to_string(&victim).unwrap(), "safe", "{n}");
        }
    }

    #[test]
    fn only_regular_files_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        nix::unistd::mkfifo(&dir.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink("/pipe", dir.path().join("link")).unwrap();
        fs::write(dir.path().join("file"), "text").unwrap();
        for path in ["pipe", "link", "."] {
            let refused = open_within(dir.path(), Path::new(path)).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{path}");
        }
        assert!(open_within(dir.path(), Path::new("file")).is_ok());
    }
}

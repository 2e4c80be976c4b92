//! Getting volumes to disk. Blocking.
use super::Files;
use crate::sys;
use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write},
    os::fd::AsRawFd,
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink},
    path::{Component, Path, PathBuf},
};

/// The symlink that is replaced to update a volume.
const DATA: &str = "..data";
const NEXT: &str = "..data_tmp";

/// Makes an emptyDir, writable for all; with `fs_group`, owned by that group for ever.
pub fn make_empty(dir: &Path, fs_group: Option<u32>) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let mode = if fs_group.is_some() { 0o2777 } else { 0o777 };
    chown(dir, None, fs_group)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(mode))
}

/// Makes the volume at `dir` hold exactly `files`, all at once. Nothing happens if it does already.
pub fn write(dir: &Path, files: &Files, fs_group: Option<u32>) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    let old = fs::read_link(dir.join(DATA)).ok();
    if old.as_ref().is_some_and(|old| holds(&dir.join(old), files)) {
        return Ok(());
    }
    let name = format!("..{}", uuid::Uuid::new_v4().simple());
    let fresh = dir.join(&name);
    fs::create_dir(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
    for (path, (bytes, mode)) in files {
        write_file(&fresh, path, bytes, *mode, fs_group)?;
    }
    let next = dir.join(NEXT);
    if next.symlink_metadata().is_ok() {
        fs::remove_file(&next)?;
    }
    symlink(&name, &next)?;
    fs::rename(&next, dir.join(DATA))?;
    link_names(dir, files)?;
    match old {
        Some(old) => fs::remove_dir_all(dir.join(old)),
        None => Ok(()),
    }
}

fn write_file(root: &Path, path: &str, bytes: &[u8], mode: u32, group: Option<u32>) -> io::Result<()> {
    let at = root.join(path);
    if let Some(parent) = at.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&at)?;
    file.write_all(bytes)?;
    chown(&at, None, group)?;
    // The group was given the volume: it may read whatever the mode says.
    let mode = if group.is_some() { mode | 0o440 } else { mode };
    fs::set_permissions(&at, fs::Permissions::from_mode(mode))
}

/// Makes the visible names (first components) symlinks through `..data`, and removes those of files that are gone.
fn link_names(dir: &Path, files: &Files) -> io::Result<()> {
    let first = |path: &String| path.split('/').next().unwrap_or_default().to_string();
    let wanted: BTreeSet<String> = files.keys().map(first).collect();
    let mut there = BTreeSet::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with("..") {
            continue;
        }
        match wanted.contains(&name) {
            true => drop(there.insert(name)),
            false => fs::remove_file(dir.join(name))?,
        }
    }
    for name in wanted.difference(&there) {
        symlink(Path::new(DATA).join(name), dir.join(name))?;
    }
    Ok(())
}

/// Whether a data directory has exactly these contents.
fn holds(data: &Path, files: &Files) -> bool {
    fn count(dir: &Path) -> usize {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|e| if e.path().is_dir() { count(&e.path()) } else { 1 }).sum()
    }
    let same =
        |(path, (bytes, _)): (&String, &(Vec<u8>, u32))| fs::read(data.join(path)).is_ok_and(|found| found == *bytes);
    files.iter().all(same) && count(data) == files.len()
}

/// Checks (and for the `OrCreate` types makes) what a hostPath volume points to. Errors as the kubelet words them.
pub fn host_path(path: &str, kind: &str) -> Result<(), String> {
    let at = Path::new(path);
    let meta = fs::metadata(at).ok();
    let failed = |what: &str| format!("hostPath type check failed: {path} is not {what}");
    let of = |yes: bool, what: &str| if yes { Ok(()) } else { Err(failed(what)) };
    let make = |error: io::Error| format!("cannot make {path}: {error}");
    match (kind, meta) {
        ("", None) | ("DirectoryOrCreate", None) => fs::create_dir_all(at).map_err(make),
        ("FileOrCreate", None) => fs::File::create(at).map(drop).map_err(make),
        ("", Some(_)) => Ok(()),
        ("DirectoryOrCreate" | "Directory", meta) => of(meta.is_some_and(|m| m.is_dir()), "a directory"),
        ("FileOrCreate" | "File", meta) => of(meta.is_some_and(|m| m.is_file()), "a file"),
        ("Socket", meta) => of(meta.is_some_and(|m| m.file_type().is_socket()), "a socket file"),
        ("CharDevice", meta) => of(meta.is_some_and(|m| m.file_type().is_char_device()), "a character device"),
        ("BlockDevice", meta) => of(meta.is_some_and(|m| m.file_type().is_block_device()), "a block device"),
        (other, _) => Err(format!("{other} is an invalid volume type")),
    }
}

/// The real path of `sub` in a volume, never outside of it; a missing one becomes a directory if `make`.
///
/// A container that shares the volume may swap a directory for a symlink at any moment. So every part is opened, and
/// made, below what is open already; and the shim follows no symlink in the path that comes of it. What is left to
/// gain is another place in the volume.
pub fn sub_path(volume: &Path, sub: &str, make: bool) -> Result<PathBuf, String> {
    let parts = Path::new(sub).components();
    if !parts.clone().all(|c| matches!(c, Component::Normal(_) | Component::CurDir)) {
        return Err(format!("{sub:?} must not leave the volume"));
    }
    let root = fs::OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(volume).map_err(|e| e.to_string())?;
    let mode = root.metadata().map_err(|e| e.to_string())?.mode() & 0o7777;
    let (mut at, mut path) = (root.try_clone().map_err(|e| e.to_string())?, PathBuf::new());
    for part in parts {
        path.push(part);
        let next = match sys::open_beneath(&root, &path) {
            Err(e) if make && e.kind() == io::ErrorKind::NotFound => sys::make_beneath(&at, part.as_ref(), mode),
            found => found,
        };
        at = next.map_err(|e| match e.raw_os_error() {
            Some(libc::EXDEV) => format!("subpath {sub:?} not within volume path"),
            _ => format!("{sub}: {e}"),
        })?;
    }
    fs::read_link(format!("/proc/self/fd/{}", at.as_raw_fd())).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> Files {
        list.iter().map(|(k, v)| (k.to_string(), (v.as_bytes().to_vec(), 0o644))).collect()
    }

    #[test]
    fn updates_replace_everything_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("v");
        write(&at, &files(&[("a", "1"), ("d/b", "2")]), Some(12)).unwrap();
        let first = fs::read_link(at.join(DATA)).unwrap();
        write(&at, &files(&[("a", "1"), ("d/b", "2")]), Some(12)).unwrap();
        assert_eq!(fs::read_link(at.join(DATA)).unwrap(), first, "nothing to do");
        write(&at, &files(&[("a", "3"), ("c", "4")]), Some(12)).unwrap();
        assert_eq!(fs::read_to_string(at.join("a")).unwrap(), "3");
        assert_eq!(fs::read_to_string(at.join("c")).unwrap(), "4");
        assert!(at.join("d").symlink_metadata().is_err());
        assert!(at.join(first).symlink_metadata().is_err());
    }

    #[test]
    fn sub_paths_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        assert!(sub_path(dir.path(), "a/b", true).unwrap().ends_with("a/b"));
        assert!(sub_path(dir.path(), "../x", true).is_err());
        symlink("/etc", dir.path().join("out")).unwrap();
        assert!(sub_path(dir.path(), "out/passwd", true).unwrap_err().contains("not within"));
        assert!(sub_path(dir.path(), "missing", false).is_err());
    }
}

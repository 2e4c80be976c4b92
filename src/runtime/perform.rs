//! Performing the steps in the fresh process, through the door of `sys`.
use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;
use nix::sys::resource::Resource;

use super::step::{Failure, Step};
use crate::sys::{CapSets, MountAttr, Sys, attr, plain};

/// What a step needs besides the kernel.
pub struct Context<'a> {
    /// The seccomp program, or empty.
    pub seccomp: &'a [u8],
    /// Something could not be had and is done without.
    pub note: &'a mut dyn FnMut(String),
    /// The watching side of a new terminal.
    pub terminal: &'a mut dyn FnMut(OwnedFd),
}

/// Exit code of a set-up that failed before the program was looked for.
const SETUP_FAILED: i32 = 128;
const NOT_EXECUTABLE: i32 = 126;
const NOT_FOUND: i32 = 127;
/// For images that set no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Perform steps in order, up to the first failure. Returns only on failure or from a recording.
pub fn perform(steps: &[Step], sys: &mut dyn Sys, context: &mut Context<'_>) -> Result<(), Failure> {
    for step in steps {
        match step {
            Step::Exec { args, env } => exec(sys, args, env)?,
            other => one(other, sys, context)
                .map_err(|error| Failure { code: SETUP_FAILED, message: format!("{other}: {}", plain(&error)) })?,
        }
    }
    Ok(())
}

fn one(step: &Step, sys: &mut dyn Sys, context: &mut Context<'_>) -> io::Result<()> {
    match step {
        Step::OomScore(score) => degrade(step, context, |e| e.kind() == io::ErrorKind::PermissionDenied)(
            sys.write_file(Path::new("/proc/self/oom_score_adj"), &score.to_string()),
        ),
        Step::Limit { name, soft, hard } => degrade(step, context, |e| e.kind() == io::ErrorKind::PermissionDenied)(
            sys.set_rlimit(resource(name)?, *soft, *hard),
        ),
        Step::JoinCgroup(files) => files.iter().try_for_each(|f| sys.write_file(f, "0")),
        Step::CgroupNamespace => sys.unshare(libc::CLONE_NEWCGROUP),
        Step::JoinContainer(flags) => sys.join(*flags),
        Step::Session => sys.new_session(),
        Step::Terminal(uid) => {
            if let Some(master) = sys.open_terminal(*uid)? {
                (context.terminal)(master);
            }
            Ok(())
        }
        Step::Stdio(uid) => sys.own_stdio(*uid),
        Step::Directory(path) => sys.change_dir(path, 0o755),
        Step::User { .. } => become_user(step, sys),
        Step::DieWithShim => sys.die_with_parent(),
        Step::NoNewPrivileges => sys.no_new_privs(),
        Step::Seccomp => sys.load_seccomp(context.seccomp),
        Step::Exec { .. } => Ok(()), // performed by the caller: its errors have codes of their own
        files => file_step(files, sys),
    }
}

/// Turn a failure that is to be expected on some hosts into a note.
fn degrade<'a>(
    step: &'a Step,
    context: &'a mut Context<'_>,
    expected: impl Fn(&io::Error) -> bool + 'a,
) -> impl FnOnce(io::Result<()>) -> io::Result<()> + 'a {
    move |result| match result {
        Err(error) if expected(&error) => {
            (context.note)(format!("{step}: {}, done without", plain(&error)));
            Ok(())
        }
        other => other,
    }
}

/// The steps about mounts and files.
fn file_step(step: &Step, sys: &mut dyn Sys) -> io::Result<()> {
    match step {
        Step::SlaveMounts => sys.slave_mounts(),
        Step::Overlay { lower, upper, work, root } => sys.overlay(lower, &overlay_options(upper, work), root),
        Step::PlainRoot { root } => {
            // Slot numbers of the plan start at 0 and are few.
            sys.bind_tree(usize::MAX, root, true)?;
            sys.attach(usize::MAX, root)
        }
        Step::Take { .. } => take(step, sys),
        Step::Pivot { root } => sys.pivot_root(root),
        Step::Attach { slot, target } => {
            match sys.tree_is_dir(*slot)? {
                true => sys.make_dir(target, 0o755)?,
                false => sys.make_file(target)?,
            }
            sys.attach(*slot, target)
        }
        Step::Mount { fstype, source, target, flags, data } => {
            sys.make_dir(target, 0o755)?;
            let flags = MsFlags::from_bits_truncate(*flags);
            sys.mount(source, target, fstype, flags, data)
        }
        Step::Node { path, device } => sys.make_node(path, *device),
        Step::Link { path, target } => sys.symlink(target, path),
        Step::Mask { slot, path } => if_there(mask(sys, *slot, path)),
        Step::ReadOnly(path) => if_there(read_only(sys, path)),
        Step::ReadOnlyRoot => sys.mount_attr(Path::new("/"), RDONLY),
        _ => Ok(()), // `one` performs the others
    }
}

fn take(step: &Step, sys: &mut dyn Sys) -> io::Result<()> {
    let Step::Take { slot, source, recursive, attr } = step else {
        return Ok(());
    };
    sys.bind_tree(*slot, source, *recursive)?;
    match *attr == MountAttr::default() {
        true => Ok(()),
        false => sys.tree_attr(*slot, *attr),
    }
}

const RDONLY: MountAttr = MountAttr { set: attr::RDONLY, clear: 0, propagation: 0, recursive: false };

fn if_there(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// A file is covered by the host's `/dev/null`, a directory (where no file can be attached) by an empty read-only file
/// system.
fn mask(sys: &mut dyn Sys, slot: usize, path: &Path) -> io::Result<()> {
    match sys.attach(slot, path) {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
            sys.mount(Path::new("tmpfs"), path, "tmpfs", MsFlags::MS_RDONLY, "size=0k")
        }
        other => other,
    }
}

fn read_only(sys: &mut dyn Sys, path: &Path) -> io::Result<()> {
    sys.mount(path, path, "", MsFlags::MS_BIND | MsFlags::MS_REC, "")?;
    sys.mount_attr(path, MountAttr { recursive: true, ..RDONLY })
}

/// `volatile`: the writable layer dies with the container, so nobody must wait for it to reach the disk at unmount
/// (the kernel would sync the whole file system below).
fn overlay_options(upper: &Path, work: &Path) -> String {
    let escape = |p: &Path| p.to_string_lossy().replace('\\', "\\\\").replace(':', "\\:").replace(',', "\\,");
    format!("upperdir={},workdir={},volatile", escape(upper), escape(work))
}

/// Capabilities last, for changing the user changes them; the bounding set first, while we still may.
fn become_user(step: &Step, sys: &mut dyn Sys) -> io::Result<()> {
    let Step::User { uid, gid, groups, umask, caps } = step else {
        return Ok(());
    };
    let have = sys.limit_caps(caps.bounding)?;
    sys.set_umask(*umask)?;
    sys.set_user(*uid, *gid, groups)?;
    sys.set_caps(CapSets {
        bounding: have,
        effective: caps.effective & have,
        permitted: caps.permitted & have,
        inheritable: caps.inheritable & have,
        ambient: caps.ambient & have,
    })
}

fn resource(name: &str) -> io::Result<Resource> {
    Ok(match name {
        "RLIMIT_AS" => Resource::RLIMIT_AS,
        "RLIMIT_CORE" => Resource::RLIMIT_CORE,
        "RLIMIT_CPU" => Resource::RLIMIT_CPU,
        "RLIMIT_DATA" => Resource::RLIMIT_DATA,
        "RLIMIT_FSIZE" => Resource::RLIMIT_FSIZE,
        "RLIMIT_LOCKS" => Resource::RLIMIT_LOCKS,
        "RLIMIT_MEMLOCK" => Resource::RLIMIT_MEMLOCK,
        "RLIMIT_MSGQUEUE" => Resource::RLIMIT_MSGQUEUE,
        "RLIMIT_NICE" => Resource::RLIMIT_NICE,
        "RLIMIT_NOFILE" => Resource::RLIMIT_NOFILE,
        "RLIMIT_NPROC" => Resource::RLIMIT_NPROC,
        "RLIMIT_RSS" => Resource::RLIMIT_RSS,
        "RLIMIT_RTPRIO" => Resource::RLIMIT_RTPRIO,
        "RLIMIT_RTTIME" => Resource::RLIMIT_RTTIME,
        "RLIMIT_SIGPENDING" => Resource::RLIMIT_SIGPENDING,
        "RLIMIT_STACK" => Resource::RLIMIT_STACK,
        _ => return Err(io::Error::from_raw_os_error(libc::EINVAL)),
    })
}

/// Find the program as a shell would and become it. Failures are worded as container runtimes word them.
fn exec(sys: &mut dyn Sys, args: &[String], env: &[String]) -> Result<(), Failure> {
    let program = args.first().cloned().unwrap_or_default();
    let invalid = |_| failure(NOT_EXECUTABLE, format!("exec: {program:?}: invalid argument"));
    let c = |texts: &[String]| -> Result<Vec<CString>, std::ffi::NulError> {
        texts.iter().map(|t| CString::new(t.as_bytes())).collect()
    };
    let mut env = env.to_vec();
    if !env.iter().any(|e| e.starts_with("HOME=")) {
        env.push(format!("HOME={}", sys.home()));
    }
    let (c_args, c_env) = (c(args).map_err(invalid)?, c(&env).map_err(invalid)?);
    let candidates = candidates(&program, &env);
    let mut refused = None;
    for path in &candidates {
        match sys.exec(path, &c_args, &c_env) {
            Ok(()) => return Ok(()),
            Err(e) if e.raw_os_error() == Some(libc::ENOEXEC) => {
                let path = path.display();
                return Err(failure(NOT_EXECUTABLE, format!("exec {path}: exec format error")));
            }
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {
                if path.exists() {
                    // It is there, so what is missing is its interpreter.
                    let path = path.display();
                    return Err(failure(NOT_FOUND, format!("exec {path}: no such file or directory")));
                }
            }
            Err(e) => refused = Some(e),
        }
    }
    Err(match refused {
        Some(e) => failure(NOT_EXECUTABLE, format!("exec: {program:?}: {}", plain(&e))),
        None if program.contains('/') => {
            failure(NOT_FOUND, format!("exec: {program:?}: stat {program}: no such file or directory"))
        }
        None => failure(NOT_FOUND, format!("exec: {program:?}: executable file not found in $PATH")),
    })
}

fn failure(code: i32, message: String) -> Failure {
    Failure { code, message }
}

/// Where a program may be: itself if it has a slash, else in each directory of PATH.
fn candidates(program: &str, env: &[String]) -> Vec<PathBuf> {
    if program.is_empty() {
        return Vec::new();
    }
    if program.contains('/') {
        return vec![PathBuf::from(program)];
    }
    env.iter()
        .rev()
        .find_map(|e| e.strip_prefix("PATH="))
        .unwrap_or(DEFAULT_PATH)
        .split(':')
        .map(|dir| Path::new(if dir.is_empty() { "." } else { dir }).join(program))
        .collect()
}

//! What is on disk about sandboxes and their containers.
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::bundle::{make_dir, remove_file};
use super::cgroup;
use super::shim::Record;
use super::types::*;
use crate::sys;

/// Nobody listens at a socket, or there is none.
pub(super) fn dead(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionRefused, NotFound};
    matches!(error.kind(), ConnectionRefused | NotFound)
}

pub(super) fn read_record(path: &Path) -> Result<Option<Record>> {
    let text = match fs::read(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(Error::io(format!("reading {}", path.display())))?,
    };
    serde_json::from_slice(&text).map(Some).map_err(|e| Error::Invalid(format!("{}: {e}", path.display())))
}

/// Everything a shim needs before it exists. The record comes first: what is in no record is never removed.
pub(super) fn lay_out(spec: &SandboxSpec, record: &Path, socket: &Path) -> Result<(OwnedFd, File)> {
    make_dir(&spec.dir, 0o700)?;
    let entrances = cgroup::layout()?.entrances(&spec.shim_cgroup);
    let text =
        serde_json::to_vec(&Record { spec: spec.clone(), entrances }).map_err(|e| Error::Invalid(e.to_string()))?;
    let draft = record.with_extension("tmp");
    fs::write(&draft, text)
        .and_then(|()| fs::rename(&draft, record))
        .map_err(Error::io(format!("writing {}", record.display())))?;
    cgroup::ensure(&spec.shim_cgroup, None)?;
    cgroup::ensure(&spec.cgroup, spec.resources.as_ref())?;
    remove_file(socket)?;
    let listener = sys::listen_packet(socket).map_err(Error::io(format!("listening at {}", socket.display())))?;
    let log = spec.dir.join("shim.log");
    let stderr = File::options()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&log)
        .map_err(Error::io(format!("opening {}", log.display())))?;
    Ok((listener, stderr))
}

/// The records of a dead shim's containers. Those without an end died with it (the kernel sees to that): nobody knows
/// more than that they were killed.
pub(super) fn left_behind(exits: &Path) -> Result<Vec<ContainerState>> {
    let reading = || Error::io(format!("reading {}", exits.display()));
    let entries = match fs::read_dir(exits) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(reading())?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(reading())?.path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let text = fs::read(&path).map_err(reading())?;
        let Ok(mut state) = serde_json::from_slice::<ContainerState>(&text) else {
            tracing::warn!(path = %path.display(), "unreadable container record");
            continue;
        };
        let code = 128 + libc::SIGKILL;
        state.exit.get_or_insert_with(|| ExitRecord {
            name: state.name.clone(),
            attempt: state.attempt,
            code,
            signal: Some(libc::SIGKILL),
            oom_killed: false,
            known: false,
            started_at: state.started_at,
            finished_at: jiff::Timestamp::now(),
        });
        found.push(state);
    }
    Ok(found)
}

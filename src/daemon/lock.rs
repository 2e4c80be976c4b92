//! One daemon a name: a lock that the kernel lets go of when the daemon ends, however it ends.
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::sys::pidfd_open;

/// Held for as long as it lives.
pub struct Lock(#[expect(dead_code, reason = "held, never read")] Flock<File>);

/// How long a holder may take to look killed …
const ALIVE: Duration = Duration::from_secs(2);
/// … and, once it does, to be gone: what it had begun to write must reach the disk.
const DYING: Duration = Duration::from_secs(60);

/// Takes the lock and writes our process id into it. A holder that is dying (killed, but its threads not gone yet) is
/// waited for.
///
/// Errors: somebody has it; the message says who.
pub fn take(path: &Path, what: &str) -> Result<Lock> {
    let (mut file, begun) = (open(path)?, Instant::now());
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return owned(lock),
            Err((back, Errno::EWOULDBLOCK)) if goes(path, begun) => file = back,
            Err((_, Errno::EWOULDBLOCK)) => {
                bail!("{what} is in use by process {}", holder(path).unwrap_or_default())
            }
            Err((_, errno)) => return Err(errno).with_context(|| format!("locking {}", path.display())),
        }
    }
}

fn owned(mut lock: Flock<File>) -> Result<Lock> {
    lock.set_len(0)?;
    lock.rewind()?;
    writeln!(lock, "{}", std::process::id())?;
    Ok(Lock(lock))
}

/// Waits a little for the process named in the file to end; false when that has taken too long.
fn goes(path: &Path, begun: Instant) -> bool {
    let Some(pid) = holder(path).and_then(|pid| pid.parse::<i32>().ok()) else { return false };
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
    // Its main thread has ended, or all of it: the kernel still closes its files.
    let dying = state.is_empty() || state.starts_with(['Z', 'X']);
    let waited = match pidfd_open(pid) {
        Ok(alive) if !dying => poll(&mut [PollFd::new(alive.as_fd(), PollFlags::POLLIN)], PollTimeout::from(100u8)),
        _ => poll(&mut [], PollTimeout::from(5u8)),
    };
    waited.is_ok() && begun.elapsed() < if dying { DYING } else { ALIVE }
}

/// Takes the lock of a directory when it is free: among those who use it, one at a time.
pub async fn directory(path: &Path) -> Result<Lock> {
    let path = path.to_owned();
    let taken = tokio::task::spawn_blocking(move || {
        let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        match Flock::lock(file, FlockArg::LockExclusive) {
            Ok(lock) => Ok(Lock(lock)),
            Err((_, errno)) => Err(errno).with_context(|| format!("locking {}", path.display())),
        }
    });
    taken.await?
}

/// Waits until nobody has the lock; returns at once if there is no such file. Blocks the thread.
pub fn wait_free(path: &Path) -> Result<()> {
    let Ok(file) = File::open(path) else { return Ok(()) };
    match Flock::lock(file, FlockArg::LockExclusive) {
        Ok(_) => Ok(()),
        Err((_, errno)) => Err(errno).with_context(|| format!("waiting for {}", path.display())),
    }
}

/// Process id of who holds the lock; none when it is free.
pub fn held_by(path: &Path) -> Option<i32> {
    let file = File::open(path).ok()?;
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Err((_, Errno::EWOULDBLOCK)) => holder(path)?.parse().ok(),
        _ => None,
    }
}

fn holder(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.read_to_string(&mut text).ok()?;
    Some(text.trim().to_owned())
}

fn open(path: &Path) -> Result<File> {
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    opened.with_context(|| format!("opening {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_taker_is_told_who_was_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        assert_eq!(held_by(&path), None);
        let first = take(&path, "cluster x").unwrap();
        let error = take(&path, "cluster x").err().unwrap().to_string();
        assert_eq!(error, format!("cluster x is in use by process {}", std::process::id()));
        assert_eq!(held_by(&path), Some(std::process::id() as i32));
        drop(first);
        assert_eq!(held_by(&path), None);
        take(&path, "cluster x").unwrap();
    }

    #[test]
    fn a_holder_that_is_killed_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid");
        let mut command = std::process::Command::new("flock");
        let mut holder = command.arg("--no-fork").arg(&path).args(["sleep", "60"]).spawn().unwrap();
        std::fs::write(&path, holder.id().to_string()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while held_by(&path).is_none() {
            assert!(Instant::now() < deadline, "flock(1) does not take the lock");
        }
        let killer = std::thread::spawn(move || {
            poll(&mut [], PollTimeout::from(100u8)).unwrap();
            holder.kill().unwrap();
            holder
        });
        take(&path, "cluster x").unwrap();
        killer.join().unwrap().wait().unwrap();
    }
}

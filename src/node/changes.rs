//! Hearing of changes of files: inotify as something to await.
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::{io, os::fd::AsFd, path::Path};
use tokio::{io::AsyncReadExt, net::unix::pipe};

/// Bytes of inotify events read at a time; what they say does not matter.
const EVENTS: usize = 4096;

/// Changes of one file or directory.
pub struct Changes(pipe::Receiver);

impl Changes {
    pub fn of(path: &Path, what: AddWatchFlags) -> io::Result<Changes> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        inotify.add_watch(path, what)?;
        // To tokio it is something that becomes readable, as a pipe is.
        let fd = inotify.as_fd().try_clone_to_owned()?;
        pipe::Receiver::from_owned_fd_unchecked(fd).map(Changes)
    }

    /// Waits for a change. Errors: the descriptor is of no use any more.
    pub async fn wait(&mut self) -> io::Result<()> {
        self.0.read(&mut [0; EVENTS]).await.map(drop)
    }
}

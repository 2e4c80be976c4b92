//! The shim: a pod's sandbox, and the parent of its containers.
//!
//! One process, one thread, one loop over epoll. It is our own binary executed anew with an empty environment, so it starts
//! small and stays small; it outlives the daemon that started it, and its containers do not outlive it. What it knows of
//! containers is on disk before anybody is told, in `<pod dir>/exits/`.
//!
//! It lives in a cgroup of its own outside the pod's: the pod's memory is the pod's, and the kernel will not choose the
//! keeper of the exit codes as the victim for a container's greed.
/// A line for the pod's `shim.log`, which is standard error. Nobody is there to be told if that fails.
macro_rules! note {
    ($($arg:tt)*) => {{
        use std::io::Write;
        writeln!(std::io::stderr(), $($arg)*).ok();
    }};
}

mod container;
mod launch;
mod log;
mod sandbox;
mod server;
mod tasks;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::signal::Signal;
use nix::unistd::{dup2, setsid};

use crate::sys;
pub(super) use container::record_path;
pub use log::files as log_files;
use sandbox::OwnRecord;
pub(super) use sandbox::Record;
use server::Shim;

/// `coracle shim <record>`: standard input is the listening socket, standard error a file. Never returns.
pub fn main(args: Vec<OsString>) -> ! {
    let code = match run(args) {
        Ok(()) => 0,
        Err(error) => {
            note!("shim: {error}");
            1
        }
    };
    std::process::exit(code)
}

fn run(args: Vec<OsString>) -> io::Result<()> {
    let path = args.last().ok_or_else(|| io::Error::other("usage: coracle shim <record>"))?;
    // Fails only for a group leader, which is on its own already.
    setsid().ok();
    // A terminal's or a service manager's word to the daemon is not for us.
    sys::ignore_signals(&[Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM, Signal::SIGQUIT])?;
    let listener = take_listener()?;
    std::env::set_current_dir("/")?;
    let record: OwnRecord = serde_json::from_slice(&fs::read(path)?)?;
    sandbox::enter(&record.entrances).map_err(io::Error::other)?;
    let exits = record.spec.dir.join("exits");
    let set_up = sandbox::set_up(&record.spec)
        .and_then(|()| fs::create_dir_all(&exits).map_err(|e| format!("{}: {e}", exits.display())));
    drop(record);
    Shim::new(listener, exits, set_up)?.run()
}

/// The listening socket comes as standard input; in its place goes `/dev/null`, which containers without an input get.
fn take_listener() -> io::Result<OwnedFd> {
    let listener = io::stdin().as_fd().try_clone_to_owned()?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2(null.as_raw_fd(), 0)?;
    dup2(null.as_raw_fd(), 1)?;
    Ok(listener)
}

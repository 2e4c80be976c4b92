//! The program inside our demo and test images. The coracle binary is static, so it can be the only file of a
//! root filesystem; there it answers HTTP, reports on itself from inside (what the kernel really gave the process,
//! not what somebody asked for), eats memory until it is killed, or waits.
//!
//! It is synchronous, a thread a connection, and knows nothing of clusters: what it shows is what any program would see.
//! Left out: TLS, request bodies and everything else a test of a container does not need.
#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags)] // doc comments of flags are help texts
mod fetch;
mod http;
mod inspect;
mod serve;
mod term;

pub use fetch::get;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

/// `coracle guest …`: hidden from the help of the command line, since it is for use inside a container.
#[derive(Parser)]
#[command(name = "coracle guest", about = "The program inside coracle's demo and test images", version)]
struct Guest {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Answer HTTP with "hostname version"; on SIGTERM go on for the drain time, finish what is in flight, leave with 0
    Serve(serve::Serve),
    /// Print JSON about this process from inside: mounts, ids, capabilities, seccomp, links, cgroup, limits
    Inspect,
    /// GET a URL (http only), print the body; fails when the answer is not 2xx
    Fetch(fetch::Fetch),
    /// Touch memory until the kernel ends it
    Oom {
        /// Stop at this many MiB and wait, instead of going on for ever
        #[arg(long)]
        mib: Option<usize>,
    },
    /// Wait (for ever without SECONDS); SIGTERM ends it with 0
    Sleep {
        /// Seconds to wait
        seconds: Option<u64>,
    },
    /// Leave with this exit code at once
    Exit {
        /// The exit code
        code: u8,
    },
}

/// Runs `coracle guest <args…>`; `args` are those after the word `guest`.
pub fn main(args: impl Iterator<Item = std::ffi::OsString>) -> ExitCode {
    let guest = Guest::parse_from(std::iter::once("coracle guest".into()).chain(args));
    let done = match guest.verb {
        Verb::Serve(serve) => serve.run(),
        Verb::Inspect => inspect::print(),
        Verb::Fetch(fetch) => fetch.run(),
        Verb::Oom { mib } => eat(mib),
        Verb::Sleep { seconds } => sleep(seconds.map(Duration::from_secs)),
        Verb::Exit { code } => return ExitCode::from(code),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("guest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Takes memory and writes to every page, so that it counts against the cgroup.
fn eat(limit_mib: Option<usize>) -> anyhow::Result<()> {
    const MIB: usize = 1 << 20;
    let mut held: Vec<Vec<u8>> = Vec::new();
    while limit_mib.is_none_or(|limit| held.len() < limit) {
        held.push(vec![0xa5; MIB]);
    }
    println!("holding {} MiB", held.len());
    sleep(None)?;
    drop(held);
    Ok(())
}

fn sleep(time: Option<Duration>) -> anyhow::Result<()> {
    term::Term::block()?.wait(time)?;
    Ok(())
}

//! The numbers the README quotes, measured side by side in one run with the peers that are installed.
//!
//! Run by `make bench` as root. Every figure is whole work through the built binary or the public API, the way a
//! user would ask for it: a cold `up`, pods from `apply` to Ready, one container from create to exit. A peer that
//! is not installed is named as missing; nothing is estimated.

mod containers;
mod pods;
mod report;

use anyhow::{Context, Result};
use report::{Figure, Table};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// The name of the cluster every measurement runs in; a user's own clusters stay untouched beside it.
const CLUSTER: &str = "bench";

/// Cold starts measured. Each makes and removes a whole cluster.
const UPS: usize = 7;

fn main() -> Result<()> {
    // `cargo test --benches` runs this binary too; only `cargo bench` measures.
    if !std::env::args().any(|a| a == "--bench") {
        return Ok(());
    }
    if !nix::unistd::geteuid().is_root() {
        anyhow::bail!("the benchmark starts clusters: run it as root (sudo make bench)");
    }
    let bench = Bench::new()?;
    let mut table = Table::default();
    table.add(bench.cold_up()?);
    for figure in containers::measure(&bench)? {
        table.add(figure);
    }
    for figure in pods::measure(&bench)? {
        table.add(figure);
    }
    println!("\n{table}");
    bench.check_floors(&table)
}

/// Where the binary is and where the measurements put their files.
pub struct Bench {
    pub exe: PathBuf,
    pub dir: PathBuf,
}

impl Bench {
    fn new() -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("coracle-bench-{}", std::process::id()));
        std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        Ok(Bench { exe: PathBuf::from(env!("CARGO_BIN_EXE_coracle")), dir })
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Run the coracle binary on the bench cluster and fail loudly with what it said.
    pub fn coracle(&self, args: &[&str]) -> Result<()> {
        let data = self.data_dir();
        let out = Command::new(&self.exe)
            .args(args)
            .args(["--name", CLUSTER, "--data-dir"])
            .arg(&data)
            .stdin(Stdio::null())
            .output()?;
        anyhow::ensure!(
            out.status.success(),
            "coracle {args:?}: {}\n{}{}",
            out.status,
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
        Ok(())
    }

    pub fn up(&self) -> Result<()> {
        self.coracle(&["up", "--detach", "--nodes", "3", "--api-port", "0"])
    }

    pub fn down(&self) -> Result<()> {
        self.coracle(&["down", "--purge"])
    }

    /// From nothing on disk to three nodes Ready: `up --detach` returns when they are.
    fn cold_up(&self) -> Result<Figure> {
        let mut figure = Figure::new("cold `coracle up`, empty disk to three nodes Ready", "coracle").floor_ms(1000.0);
        for _ in 0..UPS {
            let started = Instant::now();
            self.up()?;
            figure.push(started.elapsed());
            self.down()?;
        }
        Ok(figure)
    }

    fn check_floors(&self, table: &Table) -> Result<()> {
        let missed = table.missed();
        anyhow::ensure!(missed.is_empty(), "over budget: {}", missed.join("; "));
        Ok(())
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if Path::new("/run/coracle").join(CLUSTER).exists()
            && let Err(e) = self.down()
        {
            eprintln!("the bench cluster could not be removed: {e:#}");
        }
        if let Err(e) = std::fs::remove_dir_all(&self.dir) {
            eprintln!("{} could not be removed: {e}", self.dir.display());
        }
    }
}

/// Whether a peer is installed.
pub fn installed(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|p| std::env::split_paths(&p).any(|d| d.join(program).is_file()))
}

/// Run a peer's command, output dropped unless it fails.
pub fn peer(command: &mut Command) -> Result<()> {
    let out = command.stdin(Stdio::null()).output()?;
    anyhow::ensure!(out.status.success(), "{command:?}: {}\n{}", out.status, String::from_utf8_lossy(&out.stderr));
    Ok(())
}

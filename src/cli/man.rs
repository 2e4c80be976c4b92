//! `coracle man`: the manual pages, made from the same definitions as `--help`.
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Command};

/// Write the manual pages: one of the whole, one of each verb.
#[derive(Args)]
pub struct Man {
    /// The directory to write them into
    directory: PathBuf,
}

impl Man {
    pub fn run(self, command: Command) -> Result<()> {
        let directory = self.directory;
        std::fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
        clap_mangen::generate_to(command, &directory).with_context(|| format!("writing into {}", directory.display()))
    }
}

//! `coracle down`: takes a cluster off the host.
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::daemon::{Paths, down};

/// Flags of `down`.
#[derive(Args)]
pub struct Down {
    /// Remove the state too: objects, images, logs
    #[arg(long)]
    purge: bool,
    /// Where the state is, if the cluster does not run and it is not at the default place
    #[arg(long)]
    data_dir: Option<PathBuf>,
}

impl Down {
    /// Runs it.
    pub async fn run(self, cluster: &str) -> Result<()> {
        let paths = Paths::new(cluster, self.data_dir.as_deref());
        let anything = down::down(&paths, self.purge).await?;
        match (anything, self.purge) {
            (false, _) => println!("nothing of cluster {cluster:?} was there"),
            (true, true) => println!("cluster {cluster:?} is gone"),
            (true, false) => println!(
                "cluster {cluster:?} is down; its state is in {0} (coracle up{1} brings it back)",
                paths.data.display(),
                // The default place need not be named.
                match paths.data == Paths::data_root().join(cluster) {
                    true => String::new(),
                    false => format!(" --data-dir {}", paths.data.display()),
                }
            ),
        }
        Ok(())
    }
}

//! `coracle image`: what pods can be made of. Works on the store itself, with or without a daemon.
use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};

use super::print::Columns;
use crate::daemon::{Paths, build_image, own_directory};
use crate::image::{Images, Listing};

/// Flags of `image`.
#[derive(Args)]
pub struct Image {
    /// Where the cluster's state is, if it does not run and it is not at the default place
    #[arg(long, global = true)]
    data_dir: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Import an OCI archive or layout, or a docker-save archive
    Import {
        /// The archive or directory
        path: PathBuf,
        /// Its name here
        #[arg(long = "as")]
        reference: Option<String>,
    },
    /// Build the image of a recipe
    Build {
        /// A recipe, or a directory with a recipe.yaml
        path: PathBuf,
    },
    /// List images
    Ls,
    /// Remove images
    Rm {
        /// Names or digests
        #[arg(required = true)]
        references: Vec<String>,
    },
}

impl Image {
    /// Runs it.
    pub fn run(self, cluster: &str) -> Result<()> {
        let paths = Paths::new(cluster, self.data_dir.as_deref());
        if matches!(self.verb, Verb::Ls) && !paths.images().exists() {
            list(&[]);
            return Ok(());
        }
        own_directory(&paths.data)?;
        let images = Images::open(&paths.images())?;
        match self.verb {
            Verb::Import { path, reference } => images.import(&path, reference.as_deref())?.iter().for_each(say),
            Verb::Build { path } => say(&build_image(&images, &path)?),
            Verb::Ls => list(&images.list()?),
            Verb::Rm { references } => {
                for reference in references {
                    images.remove(&reference)?.iter().for_each(|removed| println!("{removed} removed"));
                }
            }
        }
        Ok(())
    }
}

fn say(image: &Listing) {
    println!("{} {}", image.references.join(" "), image.digest);
}

fn list(images: &[Listing]) {
    /// Enough of a digest to tell images apart, as Docker shows it.
    const SHORT: usize = 12;
    let mut rows: Vec<Vec<String>> = vec![["IMAGE", "DIGEST", "SIZE"].map(str::to_owned).to_vec()];
    for image in images {
        let digest: String = image.digest.trim_start_matches("sha256:").chars().take(SHORT).collect();
        let size = format!("{:.1}MB", image.size as f64 / 1e6);
        if image.references.is_empty() {
            rows.push(vec!["<none>".into(), digest.clone(), size.clone()]);
        }
        rows.extend(image.references.iter().map(|reference| vec![reference.clone(), digest.clone(), size.clone()]));
    }
    print!("{}", Columns::default().lines(&rows));
}

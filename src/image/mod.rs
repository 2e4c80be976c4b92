//! Images: what a container's root filesystem is made of, and how it should be run.
//!
//! An image is a manifest naming a configuration and layers, all found by the sha256 of their bytes:
//!
//! ```text
//! images/
//!   blobs/sha256/<hex>   manifests, configurations, layers as they were imported (tar, maybe compressed)
//!   layers/<hex>/        a layer unpacked, named by the digest of its *uncompressed* tar ("diff id"): one
//!                        directory however many images share it, used as an overlay lower as it is
//!   holds/<pod uid>/<hex> an empty file: "a container of this pod runs from the image with this manifest"
//!   index.json           reference -> manifest digest; replaced by rename
//!   lock                 flock taken by whoever changes anything; readers need no lock
//! ```
//!
//! Nothing is ever changed in place: blobs, layers and the index appear by rename, so the daemon and the
//! command line can use one store at once and a kill at any moment leaves at worst a temporary name, which
//! the next change sweeps. A digest is checked when bytes enter, not when they are used.
//!
//! Left out: pulling from a registry (an image that is not here says how to bring it here) and signatures.
//! A layer is unpacked on its own, not on top of its parents, so a layer that writes *through* a symbolic
//! link of a lower layer gets a directory there instead; image builders do not make such layers.
mod build;
mod gc;
mod import;
mod recipe;
mod reference;
mod store;
mod unpack;

pub use recipe::{FileEntry, Recipe, UserEntry};
pub use reference::Reference;
pub use store::{Images, Listing};

use std::io::Read;
use std::path::{Path, PathBuf};

/// An image ready to be run.
#[derive(Debug, Clone)]
pub struct Image {
    /// As Kubernetes displays it: `docker.io/library/demo:1`.
    pub reference: String,
    /// `docker.io/library/demo@sha256:<manifest>`: what `imageID` in a container status shows.
    pub id: String,
    /// `sha256:<hex>` of the manifest.
    pub digest: String,
    pub config: oci_spec::image::ImageConfiguration,
    /// Unpacked layers, top first: the order of overlayfs' `lowerdir`.
    pub layers: Vec<PathBuf>,
}

impl Image {
    /// A small text file of the image, from the topmost layer that has it; none if there is none. Symlinks are
    /// followed within that layer only. Blocking.
    pub fn text(&self, path: &str) -> Option<String> {
        let path = Path::new(path);
        let mut files = self.layers.iter().filter_map(|layer| unpack::open_within(layer, path).ok());
        let mut text = String::new();
        let file = files.next()?;
        file.take(MAX_TEXT).read_to_string(&mut text).ok()?;
        Some(text)
    }
}

/// Bytes of a file that `Image::text` reads: /etc/passwd of a big directory.
const MAX_TEXT: u64 = 1 << 20;

/// What can go wrong with images.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("invalid reference format: {0:?}")]
    InvalidReference(String),
    #[error(
        "image {0:?} is not on this host; bring it with `coracle image import <archive>` or `coracle image build <recipe>`"
    )]
    NotFound(String),
    #[error("not an image archive or layout: {0}")]
    Format(String),
    #[error("{what}: content has digest {found}, expected {expected}")]
    Digest { what: String, expected: String, found: String },
    #[error("layer refused: {0}")]
    Layer(String),
    #[error("recipe: {0}")]
    Recipe(String),
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
}

impl ImageError {
    /// For `map_err`: says what was being done to which path.
    fn io(what: impl std::fmt::Display, path: &Path) -> impl FnOnce(std::io::Error) -> ImageError {
        let what = format!("{what} {}", path.display());
        move |source| ImageError::Io { what, source }
    }
}

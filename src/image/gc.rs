//! Who needs what: holds of running pods, and the sweep of what nobody needs.
use super::store::{Index, hex_of};
use super::{ImageError, Images};
use std::{collections::BTreeSet, fs, io, path::Path};

impl Images {
    /// Keeps the image's blobs and layers until `release(holder)`, whatever `remove` does.
    pub fn hold(&self, holder: &str, digest: &str) -> Result<(), ImageError> {
        let dir = self.root.join("holds").join(holder);
        let path = dir.join(hex_of(digest));
        let made = fs::create_dir_all(&dir).and_then(|()| fs::write(&path, b""));
        made.map_err(ImageError::io("creating", &path))
    }

    /// Drops every hold of `holder`; none is fine.
    pub fn release(&self, holder: &str) -> Result<(), ImageError> {
        let dir = self.root.join("holds").join(holder);
        match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(ImageError::io("removing", &dir)(e)),
            _ => Ok(()),
        }
    }

    pub(super) fn held(&self) -> Result<BTreeSet<String>, ImageError> {
        let dir = self.root.join("holds");
        let wrap = |e| ImageError::io("reading", &dir)(e);
        let mut held = BTreeSet::new();
        for holder in fs::read_dir(&dir).map_err(wrap)? {
            // A holder may be released while we look: then it holds nothing.
            let names = fs::read_dir(holder.map_err(wrap)?.path()).into_iter().flatten().flatten();
            held.extend(names.map(|name| format!("sha256:{}", name.file_name().to_string_lossy())));
        }
        Ok(held)
    }

    /// Removes every blob and layer that no named or held image needs, and what killed runs left. Needs the lock.
    pub(super) fn sweep(&self, index: &Index) -> Result<(), ImageError> {
        let (mut blobs, mut layers) = (BTreeSet::new(), BTreeSet::new());
        for digest in index.values().cloned().chain(self.held()?) {
            let Ok(manifest) = self.manifest(&digest) else { continue };
            let config = self.config(&manifest)?;
            layers.extend(config.rootfs().diff_ids().iter().map(|id| hex_of(id).to_string()));
            blobs.insert(hex_of(&digest).to_string());
            blobs.insert(hex_of(manifest.config().digest().as_ref()).to_string());
            blobs.extend(manifest.layers().iter().map(|l| hex_of(l.digest().as_ref()).to_string()));
        }
        keep(&self.root.join("blobs/sha256"), &blobs)?;
        keep(&self.root.join("layers"), &layers)?;
        keep(&self.root.join("tmp"), &BTreeSet::new())
    }
}

/// Removes everything in `dir` whose name is not in `names`.
fn keep(dir: &Path, names: &BTreeSet<String>) -> Result<(), ImageError> {
    for entry in fs::read_dir(dir).map_err(ImageError::io("reading", dir))? {
        let entry = entry.map_err(ImageError::io("reading", dir))?;
        if names.contains(entry.file_name().to_string_lossy().as_ref()) {
            continue;
        }
        let path = entry.path();
        let removed = match path.is_dir() {
            true => fs::remove_dir_all(&path),
            false => fs::remove_file(&path),
        };
        removed.map_err(ImageError::io("removing", &path))?;
    }
    Ok(())
}

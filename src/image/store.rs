//! The store itself: blobs, layers, holds and the index of references.
use super::{Image, ImageError, Reference, unpack::unpack};
use nix::fcntl::{Flock, FlockArg};
use oci_spec::image::{Descriptor, ImageConfiguration, ImageManifest};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a manifest, configuration or index: the distribution specification's own limit.
pub(super) const MAX_DOCUMENT: u64 = 4 << 20;
/// Bytes of one layer as it is stored.
pub(super) const MAX_BLOB: u64 = 16 << 30;

/// A store of images in one directory. Cheap to clone; blocking: call it from `spawn_blocking`.
#[derive(Debug, Clone)]
pub struct Images {
    pub(super) root: PathBuf,
}

/// One row of `coracle image ls`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Listing {
    /// `docker.io/library/demo:1`; empty for an image that lost its names while a container runs from it.
    pub references: Vec<String>,
    /// `sha256:<hex>` of the manifest.
    pub digest: String,
    /// Bytes of its blobs.
    pub size: u64,
}

/// `reference -> manifest digest`; manifests that are held but nameless are found through the holds.
pub(super) type Index = BTreeMap<String, String>;

impl Images {
    /// Opens the store at `root`, making the directories if needed.
    pub fn open(root: &Path) -> Result<Images, ImageError> {
        for dir in ["blobs/sha256", "layers", "holds", "tmp"] {
            let path = root.join(dir);
            fs::create_dir_all(&path).map_err(ImageError::io("creating", &path))?;
        }
        Ok(Images { root: root.to_path_buf() })
    }

    /// The store's directory; something in it changes with every change of the index.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// All images, sorted by reference.
    pub fn list(&self) -> Result<Vec<Listing>, ImageError> {
        let mut by_digest: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (reference, digest) in self.index()? {
            by_digest.entry(digest).or_default().push(reference);
        }
        for digest in self.held()? {
            by_digest.entry(digest).or_default();
        }
        let row =
            |(digest, references): (String, Vec<String>)| Ok(Listing { references, size: self.size(&digest)?, digest });
        let mut rows = by_digest.into_iter().map(row).collect::<Result<Vec<_>, ImageError>>()?;
        rows.sort_by(|a, b| a.references.cmp(&b.references));
        Ok(rows)
    }

    /// Removes one reference (or, given a digest, every reference to it), then what nothing refers to or holds.
    /// Returns the references removed.
    pub fn remove(&self, reference: &str) -> Result<Vec<String>, ImageError> {
        let _lock = self.lock()?;
        let mut index = self.index()?;
        let keys = match Reference::parse(reference).ok().and_then(|r| r.tagged()) {
            Some(key) if index.contains_key(&key) => vec![key],
            _ => {
                let digest = self.lookup(reference, &index)?;
                index.iter().filter(|(_, d)| **d == digest).map(|(k, _)| k.clone()).collect()
            }
        };
        for key in &keys {
            index.remove(key);
        }
        self.write_index(&index)?;
        self.sweep(&index)?;
        Ok(keys)
    }

    /// Finds an image by any form of reference, also by `sha256:…` or its bare hex.
    pub fn resolve(&self, reference: &str) -> Result<Image, ImageError> {
        let digest = self.lookup(reference, &self.index()?)?;
        let parsed = match reference.starts_with("sha256:") || is_hex(reference) {
            true => None,
            false => Some(Reference::parse(reference)?),
        };
        let manifest = self.manifest(&digest)?;
        let config = self.config(&manifest)?;
        let layers = config.rootfs().diff_ids().iter().rev().map(|id| self.layer(id)).collect();
        let (shown, id) = match parsed {
            Some(r) => (r.to_string(), r.pinned(&digest)),
            None => (digest.clone(), digest.clone()),
        };
        Ok(Image { reference: shown, id, digest, config, layers })
    }

    fn lookup(&self, reference: &str, index: &Index) -> Result<String, ImageError> {
        let missing = || ImageError::NotFound(reference.to_string());
        if reference.starts_with("sha256:") || is_hex(reference) {
            let hex = reference.trim_start_matches("sha256:");
            let mut known = index.values().cloned().chain(self.held()?);
            return known.find(|d| hex_of(d) == hex).ok_or_else(missing);
        }
        let parsed = Reference::parse(reference)?;
        match &parsed.digest {
            // A digest names its content, so any tag is only decoration.
            Some(digest) => index.values().find(|d| *d == digest).cloned().ok_or_else(missing),
            None => parsed.tagged().and_then(|key| index.get(&key).cloned()).ok_or_else(missing),
        }
    }

    pub(super) fn blob(&self, digest: &str) -> PathBuf {
        self.root.join("blobs/sha256").join(hex_of(digest))
    }

    fn layer(&self, diff_id: &str) -> PathBuf {
        self.root.join("layers").join(hex_of(diff_id))
    }

    pub(super) fn document(&self, digest: &str) -> Result<Vec<u8>, ImageError> {
        let path = self.blob(digest);
        let mut bytes = Vec::new();
        let file = fs::File::open(&path).map_err(ImageError::io("opening", &path))?;
        file.take(MAX_DOCUMENT).read_to_end(&mut bytes).map_err(ImageError::io("reading", &path))?;
        Ok(bytes)
    }

    pub(super) fn manifest(&self, digest: &str) -> Result<ImageManifest, ImageError> {
        parse(&self.document(digest)?, "manifest")
    }

    pub(super) fn config(&self, manifest: &ImageManifest) -> Result<ImageConfiguration, ImageError> {
        parse(&self.document(manifest.config().digest().as_ref())?, "image configuration")
    }

    fn size(&self, digest: &str) -> Result<u64, ImageError> {
        let manifest = self.manifest(digest)?;
        Ok(manifest.config().size() + manifest.layers().iter().map(Descriptor::size).sum::<u64>())
    }

    fn index(&self) -> Result<Index, ImageError> {
        let path = self.root.join("index.json");
        match fs::read(&path) {
            Ok(bytes) => parse(&bytes, "index.json of the image store"),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Index::new()),
            Err(e) => Err(ImageError::io("reading", &path)(e)),
        }
    }

    fn write_index(&self, index: &Index) -> Result<(), ImageError> {
        let text = serde_json::to_vec_pretty(index).map_err(|e| ImageError::Format(e.to_string()))?;
        self.publish(&text, &self.root.join("index.json"))
    }

    /// Writes a file so that its name has either its old content or all of the new, also after a power cut.
    fn publish(&self, bytes: &[u8], to: &Path) -> Result<(), ImageError> {
        let tmp = self.temporary();
        let write = || -> io::Result<()> {
            let mut file = fs::File::create(&tmp)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&tmp, to)
        };
        write().map_err(ImageError::io("writing", to))
    }

    pub(super) fn temporary(&self) -> PathBuf {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        self.root.join("tmp").join(format!("{}-{n}", std::process::id()))
    }

    /// Taken by every change; the kernel gives it back if we die.
    pub(super) fn lock(&self) -> Result<Flock<fs::File>, ImageError> {
        let path = self.root.join("lock");
        let file = fs::File::create(&path).map_err(ImageError::io("opening", &path))?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| ImageError::io("locking", &path)(e.into()))
    }

    /// Stores bytes under their digest, which must be `expected` if one is given. Returns the digest and the length.
    pub(super) fn put(&self, from: &mut dyn Read, expected: Option<&str>) -> Result<(String, u64), ImageError> {
        if let Some(digest) = expected
            && let Ok(meta) = self.blob(digest).metadata()
        {
            return Ok((digest.to_string(), meta.len()));
        }
        let tmp = self.temporary();
        let mut file = fs::File::create(&tmp).map_err(ImageError::io("creating", &tmp))?;
        let mut from = Hashing::new(from.take(MAX_BLOB + 1));
        let size = io::copy(&mut from, &mut file).map_err(ImageError::io("writing", &tmp))?;
        let found = from.digest();
        let refused = match expected {
            _ if size > MAX_BLOB => Some(ImageError::Layer(format!("more than {MAX_BLOB} bytes"))),
            Some(expected) if expected != found => {
                Some(ImageError::Digest { what: "blob".into(), expected: expected.into(), found: found.clone() })
            }
            _ => None,
        };
        if let Some(error) = refused {
            fs::remove_file(&tmp).map_err(ImageError::io("removing", &tmp))?;
            return Err(error);
        }
        fs::rename(&tmp, self.blob(&found)).map_err(ImageError::io("renaming", &tmp))?;
        Ok((found, size))
    }

    /// Unpacks what `manifest` (already stored, with its blobs) needs, names it and makes all of it durable.
    pub(super) fn commit(&self, digest: &str, names: &[String]) -> Result<Listing, ImageError> {
        let manifest = self.manifest(digest)?;
        let config = self.config(&manifest)?;
        let ids = config.rootfs().diff_ids();
        if ids.len() != manifest.layers().len() {
            return Err(ImageError::Format(format!("{} layers, but {} diff ids", manifest.layers().len(), ids.len())));
        }
        for (layer, id) in manifest.layers().iter().zip(ids) {
            self.unpack_layer(layer.digest().as_ref(), id)?;
        }
        let mut index = self.index()?;
        for name in names {
            index.insert(name.clone(), digest.to_string());
        }
        let dir = fs::File::open(&self.root).map_err(ImageError::io("opening", &self.root))?;
        nix::unistd::syncfs(std::os::fd::AsRawFd::as_raw_fd(&dir))
            .map_err(|e| ImageError::io("syncing", &self.root)(e.into()))?;
        self.write_index(&index)?;
        let references = index.iter().filter(|(_, d)| *d == digest).map(|(k, _)| k.clone()).collect();
        Ok(Listing { references, digest: digest.to_string(), size: self.size(digest)? })
    }

    fn unpack_layer(&self, blob: &str, diff_id: &str) -> Result<(), ImageError> {
        let to = self.layer(diff_id);
        if to.is_dir() {
            return Ok(());
        }
        let path = self.blob(blob);
        let file = fs::File::open(&path).map_err(ImageError::io("opening", &path))?;
        let plain = super::import::decompress(file).map_err(ImageError::io("reading", &path))?;
        let mut plain = Hashing::new(plain);
        let tmp = self.temporary();
        fs::create_dir(&tmp).map_err(ImageError::io("creating", &tmp))?;
        let done = unpack(&mut plain, &tmp).and_then(|_| {
            // The digest covers the padding after the last entry too.
            io::copy(&mut plain, &mut io::sink()).map_err(ImageError::io("reading", &path))?;
            match plain.digest() {
                found if found == diff_id => Ok(()),
                found => Err(ImageError::Digest { what: "layer".into(), expected: diff_id.into(), found }),
            }
        });
        if let Err(error) = done {
            fs::remove_dir_all(&tmp).map_err(ImageError::io("removing", &tmp))?;
            return Err(error);
        }
        fs::rename(&tmp, &to).map_err(ImageError::io("renaming", &tmp))
    }
}

pub(super) fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|e| ImageError::Format(format!("{what}: {e}")))
}

/// `sha256:<hex>` -> `<hex>`. The result is a safe file name even if the digest was not one.
pub(super) fn hex_of(digest: &str) -> &str {
    let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
    if is_hex(hex) { hex } else { "invalid" }
}

fn is_hex(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase())
}

/// A reader that knows the sha256 of what went through it.
pub(super) struct Hashing<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Hashing<R> {
    pub(super) fn new(inner: R) -> Self {
        Hashing { inner, hash: Sha256::new() }
    }

    pub(super) fn digest(&self) -> String {
        format!("sha256:{}", hex::encode(self.hash.clone().finalize()))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.hash.update(&buf[..n]);
        Ok(n)
    }
}

//! Importing archives and layouts: OCI (a directory, or a tar of one) and `docker save`, compressed or not.
use super::{ImageError, Images, Listing, Reference, store::parse, unpack};
use oci_spec::image::{Descriptor, DescriptorBuilder, ImageIndex, ImageManifest, ImageManifestBuilder, MediaType};
use std::fs;
use std::io::{self, Read, Seek};
use std::path::Path;
use std::str::FromStr;

/// Indexes may point to indexes; real ones do so once.
const MAX_INDEX_DEPTH: u32 = 4;
/// Annotations that carry a name, the full one first.
const NAMES: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// One element of `manifest.json` in an archive of `docker save`.
#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Images {
    /// Imports an OCI archive, OCI layout directory or docker-save archive (tar, gzip or zstd); `name` replaces the
    /// name inside, or gives one where there is none. Returns what was imported.
    pub fn import(&self, path: &Path, name: Option<&str>) -> Result<Vec<Listing>, ImageError> {
        let name = name.map(tagged).transpose()?;
        let _lock = self.lock()?;
        if path.is_dir() {
            return self.import_dir(path, name);
        }
        let file = fs::File::open(path).map_err(ImageError::io("opening", path))?;
        let plain = decompress(file).map_err(ImageError::io("reading", path))?;
        let tmp = self.temporary();
        fs::create_dir(&tmp).map_err(ImageError::io("creating", &tmp))?;
        let unpacked = unpack::unpack(plain, &tmp).map_err(|error| match error {
            // The tar's fault, not the disk's.
            ImageError::Io { source, .. } if source.raw_os_error().is_none() => {
                ImageError::Format(format!("{}: {source}", path.display()))
            }
            other => other,
        });
        let imported = unpacked.and_then(|_| self.import_dir(&tmp, name));
        fs::remove_dir_all(&tmp).map_err(ImageError::io("removing", &tmp))?;
        imported
    }

    fn import_dir(&self, dir: &Path, name: Option<String>) -> Result<Vec<Listing>, ImageError> {
        let found = if dir.join("index.json").exists() {
            self.import_oci(dir)?
        } else if dir.join("manifest.json").exists() {
            self.import_saved(dir)?
        } else {
            return Err(ImageError::Format("neither index.json nor manifest.json inside".into()));
        };
        if found.len() > 1 && name.is_some() {
            return Err(ImageError::Format(format!("{} images inside, so one name does not fit", found.len())));
        }
        let mut listings = Vec::new();
        for (digest, names) in found {
            let names = name.clone().map_or(names, |name| vec![name]);
            if names.is_empty() {
                return Err(ImageError::Format("the image has no name inside; give it one".into()));
            }
            listings.push(self.commit(&digest, &names)?);
        }
        Ok(listings)
    }

    /// Manifest digests and names of an OCI layout, blobs stored.
    fn import_oci(&self, dir: &Path) -> Result<Vec<(String, Vec<String>)>, ImageError> {
        let index: ImageIndex = parse(&read(dir, "index.json")?, "index.json")?;
        let mut found: Vec<(String, Vec<String>)> = Vec::new();
        for descriptor in index.manifests() {
            let annotations = descriptor.annotations().as_ref();
            let name =
                NAMES.iter().find_map(|key| annotations.and_then(|a| a.get(*key))).and_then(|name| tagged(name).ok());
            // Descriptors without a name for another machine, or attestations, sit beside the image.
            let Some(digest) = self.import_descriptor(dir, descriptor, 0)? else { continue };
            match found.iter_mut().find(|(known, _)| *known == digest) {
                Some((_, names)) => names.extend(name),
                None => found.push((digest, name.into_iter().collect())),
            }
        }
        if found.is_empty() {
            return Err(ImageError::Format(format!("no image for linux/{} inside", host_arch())));
        }
        Ok(found)
    }

    /// Stores the image a descriptor leads to; none if it is for another platform.
    fn import_descriptor(&self, dir: &Path, descriptor: &Descriptor, depth: u32) -> Result<Option<String>, ImageError> {
        if !fits(descriptor) {
            return Ok(None);
        }
        let path = blob_path(descriptor);
        match descriptor.media_type().to_string().as_str() {
            media if media.ends_with("image.index.v1+json") || media.contains("manifest.list") => {
                if depth == MAX_INDEX_DEPTH {
                    return Err(ImageError::Format("indexes are nested too deep".into()));
                }
                let index: ImageIndex = parse(&read(dir, &path)?, "image index")?;
                for inner in index.manifests() {
                    if let Some(found) = self.import_descriptor(dir, inner, depth + 1)? {
                        return Ok(Some(found));
                    }
                }
                Ok(None)
            }
            _ => {
                let manifest: ImageManifest = parse(&read(dir, &path)?, "image manifest")?;
                if manifest.config().media_type().to_string().contains("in-toto") {
                    return Ok(None);
                }
                for blob in manifest.layers().iter().chain([manifest.config()]) {
                    let mut file = open(dir, &blob_path(blob))?;
                    self.put(&mut file, Some(blob.digest().as_ref()))?;
                }
                let digest = descriptor.digest().as_ref();
                Ok(Some(self.put(&mut open(dir, &path)?, Some(digest))?.0))
            }
        }
    }

    /// Manifest digests and names of a `docker save` archive, whose manifests we write ourselves.
    fn import_saved(&self, dir: &Path) -> Result<Vec<(String, Vec<String>)>, ImageError> {
        let saved: Vec<Saved> = parse(&read(dir, "manifest.json")?, "manifest.json")?;
        let mut found = Vec::new();
        for image in saved {
            let (digest, size) = self.put(&mut open(dir, &image.config)?, None)?;
            let config = descriptor(MediaType::ImageConfig, &digest, size)?;
            let mut layers = Vec::new();
            for layer in &image.layers {
                let mut file = open(dir, layer)?;
                let media = media_type(&mut file).map_err(ImageError::io("reading", dir))?;
                let (digest, size) = self.put(&mut file, None)?;
                layers.push(descriptor(media, &digest, size)?);
            }
            let manifest = self.put_manifest(config, layers)?;
            let names = image.repo_tags.unwrap_or_default();
            let names = names.iter().map(|n| tagged(n)).collect::<Result<_, _>>()?;
            found.push((manifest, names));
        }
        Ok(found)
    }

    /// Writes a manifest; returns its digest.
    pub(super) fn put_manifest(&self, config: Descriptor, layers: Vec<Descriptor>) -> Result<String, ImageError> {
        let manifest = ImageManifestBuilder::default().schema_version(2u32).media_type(MediaType::ImageManifest);
        let manifest = manifest.config(config).layers(layers).build();
        let manifest = manifest.map_err(|e| ImageError::Format(e.to_string()))?;
        let bytes = serde_json::to_vec(&manifest).map_err(|e| ImageError::Format(e.to_string()))?;
        Ok(self.put(&mut &bytes[..], None)?.0)
    }
}

/// The reference an image is kept under: a tag, no digest.
fn tagged(name: &str) -> Result<String, ImageError> {
    Reference::parse(name)?.tagged().ok_or_else(|| ImageError::InvalidReference(name.to_string()))
}

pub(super) fn descriptor(media: MediaType, digest: &str, size: u64) -> Result<Descriptor, ImageError> {
    let bad = |e: oci_spec::OciSpecError| ImageError::Format(e.to_string());
    let digest = oci_spec::image::Digest::from_str(digest).map_err(bad)?;
    let built = DescriptorBuilder::default().media_type(media).digest(digest).size(size).build();
    built.map_err(bad)
}

/// The machine's architecture in Go's words.
pub(super) fn host_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn fits(descriptor: &Descriptor) -> bool {
    descriptor.platform().as_ref().is_none_or(|platform| {
        platform.os().to_string() == "linux" && platform.architecture().to_string() == host_arch()
    })
}

/// Where a layout keeps a blob.
fn blob_path(descriptor: &Descriptor) -> String {
    format!("blobs/{}", descriptor.digest().as_ref().replacen(':', "/", 1))
}

fn open(dir: &Path, path: &str) -> Result<fs::File, ImageError> {
    unpack::open_within(dir, Path::new(path)).map_err(ImageError::io("opening", Path::new(path)))
}

fn read(dir: &Path, path: &str) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    open(dir, path)?
        .take(super::store::MAX_DOCUMENT)
        .read_to_end(&mut bytes)
        .map_err(ImageError::io("reading", Path::new(path)))?;
    Ok(bytes)
}

/// What a layer's file is: the kinds of compression are known by their first bytes.
fn media_type(file: &mut fs::File) -> io::Result<MediaType> {
    let mut magic = Vec::new();
    file.by_ref().take(4).read_to_end(&mut magic)?;
    file.rewind()?;
    Ok(match magic[..] {
        [0x1f, 0x8b, ..] => MediaType::ImageLayerGzip,
        [0x28, 0xb5, 0x2f, 0xfd] => MediaType::ImageLayerZstd,
        _ => MediaType::ImageLayer,
    })
}

/// The bytes inside a file that may be compressed.
pub(super) fn decompress(mut file: fs::File) -> io::Result<Box<dyn Read>> {
    let media = media_type(&mut file)?;
    let file = io::BufReader::with_capacity(1 << 16, file);
    Ok(match media {
        MediaType::ImageLayerGzip => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        MediaType::ImageLayerZstd => Box::new(zstd::stream::read::Decoder::with_buffer(file)?),
        _ => Box::new(file),
    })
}

//! Recipes of images: those built into the binary, and those in a directory.
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::api::yaml;
use crate::image::{Images, Listing, Recipe};

/// Every cluster has these images, if what they are made of is on the host.
const BUILT_IN: &[(&str, &str)] = &[
    ("hello", include_str!("../../rootfs/hello/recipe.yaml")),
    ("busybox", include_str!("../../rootfs/busybox/recipe.yaml")),
];
/// Says what an image was built from, so that it is not built again from the same.
const SOURCE_LABEL: &str = "coracle.source";

/// Builds the built-in images that are missing or older than this binary. An image that cannot be built is a line in the
/// log, not an error: the cluster works without it. Blocks; returns the references there are now.
pub fn ensure_built_in(images: &Images) -> Vec<String> {
    let mut there = Vec::new();
    for (name, text) in BUILT_IN {
        match ensure(images, text) {
            Ok(reference) => there.push(reference),
            Err(error) => tracing::warn!(image = name, "not built: {error:#}"),
        }
    }
    there
}

/// Whether pods can use the built-in images already, if maybe in the version of an older binary.
pub fn all_there(images: &Images) -> bool {
    let there = |name: &str| images.resolve(&format!("{name}:1")).is_ok();
    BUILT_IN.iter().all(|(name, _)| there(name))
}

fn ensure(images: &Images, text: &str) -> Result<String> {
    let mut recipe = parse(text)?;
    let reference = format!("{}:{}", recipe.name, recipe.tag);
    let exe = std::env::current_exe().context("finding our own binary")?;
    let source = fingerprint(&exe, text)?;
    let config = images.resolve(&reference).ok().and_then(|image| image.config.config().clone());
    let there = config.is_some();
    let built_from = config.and_then(|config| config.labels().as_ref()?.get(SOURCE_LABEL).cloned());
    // One without the label was built or imported by somebody under this name: theirs stays.
    let ours = built_from.is_some() || !there;
    if ours && built_from.as_ref() != Some(&source) {
        recipe.labels.insert(SOURCE_LABEL.to_owned(), source);
        images.build(Path::new("/"), &recipe, &exe)?;
    }
    Ok(reference)
}

/// Size and time of the binary and of the recipe's text: cheap, and different for every build.
fn fingerprint(exe: &Path, text: &str) -> Result<String> {
    use sha2::Digest;
    use std::os::unix::fs::MetadataExt;
    let about = std::fs::metadata(exe).with_context(|| format!("looking at {}", exe.display()))?;
    let whole = format!("{} {} {} {text}", about.len(), about.mtime(), about.mtime_nsec());
    Ok(hex::encode(&sha2::Sha256::digest(whole)[..8]))
}

fn parse(text: &str) -> Result<Recipe> {
    let mut documents = yaml::documents(text).map_err(anyhow::Error::msg)?;
    let document = documents.pop().context("an empty recipe")?;
    serde_json::from_value(document).context("not a recipe")
}

/// Builds the image of a recipe: a file, or a directory with a `recipe.yaml`.
pub fn build(images: &Images, path: &Path) -> Result<Listing> {
    let file = if path.is_dir() { path.join("recipe.yaml") } else { path.to_owned() };
    let dir: PathBuf = file.parent().map(Path::to_owned).unwrap_or_default();
    let text = std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    let recipe = parse(&text).with_context(|| file.display().to_string())?;
    Ok(images.build(&dir, &recipe, &std::env::current_exe()?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_recipes_are_recipes() {
        for (name, text) in BUILT_IN {
            let recipe = parse(text).unwrap();
            assert_eq!((recipe.name.as_str(), recipe.tag.as_str()), (*name, "1"));
        }
    }
}

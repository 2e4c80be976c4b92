//! Image references: `[registry/]path[:tag][@digest]`, with Docker Hub's defaults filled in.
use super::ImageError;
use std::fmt;

/// A reference with every default made explicit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// `docker.io/library/busybox`
    pub repository: String,
    /// `latest` when neither a tag nor a digest was given.
    pub tag: Option<String>,
    /// `sha256:<64 hex>`
    pub digest: Option<String>,
}

/// The distribution specification's limit on a repository name.
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

impl Reference {
    /// Parses what people write in a manifest: `busybox`, `reg.example:5000/a/b:v1@sha256:…`.
    pub fn parse(text: &str) -> Result<Reference, ImageError> {
        let bad = || ImageError::InvalidReference(text.to_string());
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) if is_digest(digest) => (rest, Some(digest.to_string())),
            Some(_) => return Err(bad()),
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(bad());
        }
        let (registry, path) = split_registry(name);
        if !path.split('/').all(is_component) || name.len() > MAX_NAME {
            return Err(bad());
        }
        let path = match registry {
            "docker.io" if !path.contains('/') => format!("library/{path}"),
            _ => path.to_string(),
        };
        let tag = match (tag, &digest) {
            (None, None) => Some("latest".to_string()),
            (tag, _) => tag.map(str::to_string),
        };
        Ok(Reference { repository: format!("{registry}/{path}"), tag, digest })
    }

    /// The same repository pinned to `digest`: what `imageID` shows.
    pub fn pinned(&self, digest: &str) -> String {
        format!("{}@{digest}", self.repository)
    }

    /// `repository:tag`, the key in the index; none for a reference by digest alone.
    pub fn tagged(&self) -> Option<String> {
        self.tag.as_ref().map(|tag| format!("{}:{tag}", self.repository))
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// The first component is a registry if it could not be part of a Docker Hub path.
fn split_registry(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some(("index.docker.io", rest)) => ("docker.io", rest),
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
        _ => ("docker.io", name),
    }
}

fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)))
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    !text.is_empty()
        && text.len() <= MAX_TAG
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

fn is_component(text: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    text.bytes().next().is_some_and(alnum)
        && text.bytes().last().is_some_and(alnum)
        && text.bytes().all(|b| alnum(b) || matches!(b, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_filled_in_as_kubernetes_displays_them() {
        let shown = |text: &str| Reference::parse(text).map(|r| r.to_string()).unwrap_or_else(|e| e.to_string());
        assert_eq!(shown("busybox"), "docker.io/library/busybox:latest");
        assert_eq!(shown("docker.io/busybox:1"), "docker.io/library/busybox:1");
        assert_eq!(shown("me/app:v1"), "docker.io/me/app:v1");
        assert_eq!(shown("localhost/app"), "localhost/app:latest");
        assert_eq!(shown("reg.example:5000/a/b"), "reg.example:5000/a/b:latest");
        let digest = format!("sha256:{}", "a".repeat(64));
        assert_eq!(shown(&format!("busybox@{digest}")), format!("docker.io/library/busybox@{digest}"));
        for bad in ["", "Busybox", "a b", "a:", "a@sha256:12", "a//b", "/a", "a/", "a:b c", "-a"] {
            assert_eq!(shown(bad), format!("invalid reference format: {bad:?}"));
        }
    }
}

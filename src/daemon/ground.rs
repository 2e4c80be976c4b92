//! Directories, locks, ports and files: what a cluster takes of the host before it is one.
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};
use tokio::net::TcpListener;

use super::lock;
use super::paths::Paths;

/// In a data directory: taken by its daemon, and the sign that it is a data directory.
const LOCK: &str = "lock";
/// Objects of the API are at most 1.5 MiB each: a quarter of the memory is beyond any use.
const MEMORY_OPTIONS: &str = "mode=0700,size=25%";
/// Ports tried when any will do: the one the kernel picks on loopback may be taken on the underlay.
const PORT_TRIES: usize = 16;

/// Directories and locks: of the name, and of the data directory (two names must not share one).
pub fn prepare(paths: &Paths) -> Result<[lock::Lock; 2]> {
    private_directory(&paths.run)?;
    own_directory(&paths.data)?;
    mount_memory(&paths.memory())?;
    let name = lock::take(&paths.pid_file(), &format!("cluster {:?}", paths.cluster))?;
    let data = lock::take(&paths.data.join(LOCK), &format!("data directory {}", paths.data.display()))?;
    let link = paths.data_link();
    match std::fs::remove_file(&link) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).context("replacing the link to the data directory");
        }
        _ => std::os::unix::fs::symlink(std::path::absolute(&paths.data)?, &link)
            .context("linking the data directory")?,
    }
    Ok([name, data])
}

/// Whether there is a cluster's state, or nothing at all.
pub fn is_data_directory(dir: &Path) -> bool {
    dir.join(LOCK).exists() || std::fs::read_dir(dir).map_or(!dir.exists(), |mut entries| entries.next().is_none())
}

fn private_directory(dir: &Path) -> Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.with_context(|| format!("making {} (coracle up needs root)", dir.display()))
}

/// A tmpfs; there already after a crash of the daemon, with the files of pods that run on.
fn mount_memory(dir: &Path) -> Result<()> {
    private_directory(dir)?;
    let device = |dir: &Path| std::fs::metadata(dir).map(|about| about.dev());
    let parent = dir.parent().unwrap_or(dir);
    if device(dir)? == device(parent)? {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("coracle"), dir, Some("tmpfs"), flags, Some(MEMORY_OPTIONS))
            .with_context(|| format!("mounting a tmpfs at {}", dir.display()))?;
    }
    Ok(())
}

/// Makes the data directory, or makes sure that it is one: root's alone, since keys and pods' secrets lie in it.
///
/// # Errors
/// A directory with something in it that is no cluster's: it would be closed to everybody else and purged one day.
pub fn own_directory(dir: &Path) -> Result<()> {
    private_directory(dir)?;
    ensure!(
        is_data_directory(dir),
        "{} holds files that are no cluster's: give --data-dir an empty directory or a new one",
        dir.display()
    );
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
        .and_then(|()| std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(dir.join(LOCK)))
        .map(drop)
        .with_context(|| format!("taking {}", dir.display()))
}

/// The same port on loopback and on the underlay; another than `port` if `any` will do.
pub async fn listen(port: u16, any: bool, gateway: Ipv4Addr) -> Result<Vec<TcpListener>> {
    let both = async |port: u16| -> std::io::Result<Vec<TcpListener>> {
        let loopback = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        let port = loopback.local_addr()?.port();
        Ok(vec![loopback, TcpListener::bind((gateway, port)).await?])
    };
    let mut result = both(port).await;
    for _ in 0..PORT_TRIES {
        if result.is_ok() || !any {
            break;
        }
        result = both(0).await;
    }
    result.with_context(|| {
        format!(
            "listening on port {port} of 127.0.0.1 and {gateway} (is another cluster there? --api-port 0 takes any free port)"
        )
    })
}

/// A file only root reads, replaced whole or not at all.
pub fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    let write = || -> std::io::Result<()> {
        let temporary = path.with_extension("new");
        let mut file =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(temporary, path)
    };
    write().with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_is_ours_alone_or_refused() {
        let top = tempfile::tempdir().unwrap();
        let mode = |dir: &Path| std::fs::metadata(dir).unwrap().permissions().mode() & 0o777;
        let (new, open, full) = (top.path().join("a/b"), top.path().join("open"), top.path().join("full"));
        own_directory(&new).unwrap();
        own_directory(&new).unwrap();
        std::fs::create_dir(&open).unwrap();
        own_directory(&open).unwrap();
        assert_eq!((mode(&new), mode(&open)), (0o700, 0o700));
        std::fs::create_dir(&full).unwrap();
        std::fs::write(full.join("letter"), "").unwrap();
        let before = mode(&full);
        assert!(own_directory(&full).unwrap_err().to_string().contains("no cluster's"));
        assert_eq!(mode(&full), before);
    }
}

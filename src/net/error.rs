//! What can go wrong in the network room.
use std::{io, path::PathBuf};

/// An error of the network room. `Display` says what was being done; the source says why it failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused one netlink request.
    #[error("{what}: {source}{}", hint(.what, .source))]
    Kernel { what: String, source: io::Error },
    /// A file of the kernel (sysctl, namespace handle) could not be used.
    #[error("{what} {}: {source}", .path.display())]
    File { what: &'static str, path: PathBuf, source: io::Error },
    /// Everything was tried; these parts failed. Teardown reports like this.
    #[error("{}", .0.iter().map(|e| e.to_string()).collect::<Vec<_>>().join("; "))]
    Several(Vec<Error>),
    /// A node has no free pod address left.
    #[error("no free pod address in {0}")]
    Exhausted(ipnetwork::Ipv4Network),
    /// A name or address that cannot be right.
    #[error("{0}")]
    Invalid(String),
    /// The kernel said something we cannot read.
    #[error("unexpected answer from the kernel: {0}")]
    Protocol(String),
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// On a host where a feature is a module that is not loaded, the kernel only says "not supported":
/// name the module, because that is what the reader has to do something about.
fn hint(what: &str, source: &io::Error) -> String {
    let missing =
        matches!(source.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::ENOENT | libc::ENODEV));
    let modules = [
        ("vxlan", "vxlan"),
        ("veth", "veth"),
        ("bridge", "bridge"),
        ("nf_tables", "nf_tables and nft_chain_nat"),
        ("conntrack", "nf_conntrack_netlink"),
    ];
    match modules.iter().find(|(word, _)| what.contains(word)) {
        Some((_, module)) if missing => format!(" (is the kernel module {module} loaded?)"),
        _ => String::new(),
    }
}

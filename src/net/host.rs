//! The underlay and the host's side of it: the switch the nodes hang on, the host's own link to it, the masquerade table,
//! and removing all of it by name.
//!
//! The switch is a bridge in a namespace of its own. On the host's, what passes between nodes would also pass the host's
//! firewall wherever br_netfilter is loaded, and Docker's, for one, drops what it does not know.
use super::{
    Cluster, Error, NodeNet, Result,
    converge::converge,
    kernel, layout, netns, nft, services,
    socket::Netlink,
    view::{LinkChange, Step, plan},
};
use netlink_sys::protocols::NETLINK_ROUTE;
use std::{collections::BTreeMap, fs::File, io, os::fd::AsRawFd, path::Path};

/// Makes switch, link, address and masquerade table. A second run changes nothing.
pub fn ensure(cluster: &Cluster) -> Result<()> {
    let (path, name) = (cluster.switch(), cluster.link());
    namespace(cluster, &path)?;
    let (mut host, mut switch) = (Netlink::open(NETLINK_ROUTE)?, inside(&path)?);
    let near = kernel::observe(&mut host, &[&name])?;
    pair(&mut host, near, &mut switch, &layout::host(cluster), &name, open(&path)?.as_raw_fd())?;
    converge(&path, &mut switch, layout::switch(cluster), |_, _| {})?;
    nft::Nft::open()?.sync(&services::host_table(cluster))?;
    Ok(())
}

/// Makes a namespace with the cluster's mark (see [`layout::mark`]), unless it is there.
pub fn namespace(cluster: &Cluster, path: &Path) -> Result<()> {
    let mark = LinkChange { up: Some(true), alias: Some(layout::mark(cluster)), ..LinkChange::of(layout::LO) };
    let mark = [Step::SetLink(mark)];
    let prepare = || kernel::perform(&mut Netlink::open(NETLINK_ROUTE)?, &mut BTreeMap::new(), &mark, None);
    netns::create(path, prepare).map(drop)
}

fn inside(path: &Path) -> Result<Netlink> {
    netns::inside(path, || Netlink::open(NETLINK_ROUTE))?
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|source| Error::File { what: "opening", path: path.into(), source })
}

/// Makes the pair between the switch and a node's namespace, unless both ends are there and belong together. `node_side`
/// is a socket in the node's namespace.
pub fn uplink(cluster: &Cluster, node: &NodeNet, node_side: &mut Netlink) -> Result<()> {
    let (mut switch, name) = (inside(&cluster.switch())?, cluster.uplink(node.index));
    let far = open(&cluster.netns(&node.name))?;
    let near = kernel::links(&mut switch, &[layout::SWITCH, &name])?;
    pair(&mut switch, near, node_side, &layout::uplink(cluster, node), &name, far.as_raw_fd())
}

/// Brings one link pair into being: keeps it when both ends exist and are each other's, else removes what there is.
pub fn pair(
    nl: &mut Netlink,
    mut near: kernel::Observed,
    inside: &mut Netlink,
    desired: &super::view::View,
    name: &str,
    far: std::os::fd::RawFd,
) -> Result<()> {
    let other = kernel::links(inside, &[layout::ETH])?;
    let ends = |a: &kernel::Observed, an: &str, b: &kernel::Observed, bn: &str| match (a.peer.get(an), b.index.get(bn))
    {
        (Some(peer), Some(index)) => peer == index,
        _ => false,
    };
    if !ends(&near, name, &other, layout::ETH) || !ends(&other, layout::ETH, &near, name) {
        if near.index.contains_key(name) {
            kernel::perform(nl, &mut near.index, &[Step::DelLink(name.into())], None)?;
        }
        if other.index.contains_key(layout::ETH) {
            kernel::perform(inside, &mut other.index.clone(), &[Step::DelLink(layout::ETH.into())], None)?;
        }
        near.view.links.retain(|l| l.name != name);
    }
    let steps = plan(desired, &near.view);
    kernel::perform(nl, &mut near.index, &steps, Some(far))
}

/// Cuts or joins a node's uplink.
pub fn set_uplink(cluster: &Cluster, node: &NodeNet, up: bool) -> Result<()> {
    let step = Step::SetLink(LinkChange { up: Some(up), ..LinkChange::of(&cluster.uplink(node.index)) });
    kernel::perform(&mut inside(&cluster.switch())?, &mut Default::default(), &[step], None)
}

/// Removes a node's uplink and namespace; goes on after a failure.
pub fn remove_node(cluster: &Cluster, node: &NodeNet) -> Result<()> {
    let mut failed = Vec::new();
    keep(&mut failed, inside(&cluster.switch()).and_then(|mut nl| delete(&mut nl, &cluster.uplink(node.index))));
    keep(&mut failed, netns::remove(&cluster.netns(&node.name)));
    finish(failed)
}

/// Removes everything of the cluster by name, whatever of it exists.
pub fn teardown(cluster: &Cluster) -> Result<()> {
    let mut failed = Vec::new();
    keep(&mut failed, Netlink::open(NETLINK_ROUTE).and_then(|mut nl| delete(&mut nl, &cluster.link())));
    match namespaces(cluster) {
        Ok(paths) => paths.iter().for_each(|p| keep(&mut failed, netns::remove(p))),
        Err(e) => failed.push(e),
    }
    keep(&mut failed, nft::Nft::open().and_then(|mut n| n.delete(&cluster.table())));
    finish(failed)
}

/// The namespaces of the cluster: its switch's and its nodes', and files left without one.
fn namespaces(cluster: &Cluster) -> Result<Vec<std::path::PathBuf>> {
    let dir = netns::dir();
    let entries = match std::fs::read_dir(&dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        other => other.map_err(|source| Error::File { what: "reading", path: dir.clone(), source })?,
    };
    let prefix = cluster.netns_prefix();
    let paths = entries.filter_map(|e| e.ok()).map(|e| e.path());
    let node = |p: &Path| p.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix));
    let named = paths.filter(|p| *p == cluster.switch() || node(p));
    Ok(named.filter(|p| !netns::is_namespace(p) || is_ours(cluster, p)).collect())
}

/// Whether the namespace carries the cluster's mark (see [`layout::mark`]).
fn is_ours(cluster: &Cluster, path: &Path) -> bool {
    let lo = inside(path).and_then(|mut nl| kernel::links(&mut nl, &[layout::LO]));
    let alias = lo.map(|seen| seen.view.links.into_iter().find_map(|l| l.alias));
    alias.is_ok_and(|a| a == Some(layout::mark(cluster)))
}

fn delete(nl: &mut Netlink, link: &str) -> Result<()> {
    kernel::perform(nl, &mut Default::default(), &[Step::DelLink(link.into())], None)
}

fn keep(failed: &mut Vec<Error>, result: Result<()>) {
    failed.extend(result.err());
}

fn finish(failed: Vec<Error>) -> Result<()> {
    if failed.is_empty() { Ok(()) } else { Err(Error::Several(failed)) }
}

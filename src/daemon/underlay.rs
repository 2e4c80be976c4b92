//! Which network the nodes are wired with: the first /24 that this host does not use.
use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use ipnetwork::Ipv4Network;

/// Candidates are 172.30.0.0/24 to 172.31.255.0/24: private, and seldom used by others.
const BASE: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 0);

/// The network of the last time if it is still (or already) ours to use, else the first free one. `taken` are the host's
/// routes other than our own. Pure.
pub fn choose(before: Option<Ipv4Network>, taken: &[Ipv4Network]) -> Option<Ipv4Network> {
    let candidate = |third: u32| Ipv4Network::new(Ipv4Addr::from(u32::from(BASE) + (third << 8)), 24).ok();
    let free = |network: &Ipv4Network| !taken.iter().any(|other| other.prefix() > 0 && other.overlaps(*network));
    before.into_iter().chain((0..512).filter_map(candidate)).find(free)
}

/// Networks the host routes somewhere, except through the link `own`.
pub fn taken(own: &str) -> Result<Vec<Ipv4Network>> {
    let text = std::fs::read_to_string("/proc/net/route").context("reading /proc/net/route")?;
    Ok(parse(&text, own))
}

/// `/proc/net/route`: link, destination and mask in the first, second and eighth column, as little-endian hex.
fn parse(text: &str, own: &str) -> Vec<Ipv4Network> {
    let number = |word: Option<&&str>| u32::from_str_radix(word.copied()?, 16).ok().map(u32::from_be);
    let row = |line: &str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let (destination, mask) = (number(words.get(1))?, number(words.get(7))?);
        let foreign = words.first().is_some_and(|link| *link != own);
        Ipv4Network::with_netmask(destination.into(), mask.into()).ok().filter(|_| foreign)
    };
    text.lines().skip(1).filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTES: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
        eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
        cr-other\t00001EAC\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";

    #[test]
    fn the_first_free_network_is_taken_and_ours_is_kept() {
        let network = |text: &str| text.parse::<Ipv4Network>().ok();
        let taken = parse(ROUTES, "cr-default");
        assert_eq!(taken, ["0.0.0.0/0".parse().unwrap(), "172.30.0.0/24".parse().unwrap()]);
        assert_eq!(choose(None, &taken), network("172.30.1.0/24"));
        assert_eq!(choose(None, &parse(ROUTES, "cr-other")), network("172.30.0.0/24"));
        assert_eq!(choose(network("172.30.9.0/24"), &["172.30.0.0/16".parse().unwrap()]), network("172.31.0.0/24"));
        assert_eq!(choose(network("172.30.9.0/24"), &taken), network("172.30.9.0/24"));
        assert_eq!(choose(network("172.30.0.0/24"), &taken), network("172.30.1.0/24"));
    }
}

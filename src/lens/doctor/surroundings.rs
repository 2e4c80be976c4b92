//! Judgements of what else uses this machine: ports, addresses, resolvers, firewalls.
use super::plan::Findings;
use super::{Firewall, ForwardDrop, Observed, Wanted};
use ipnetwork::Ipv4Network;
use std::net::IpAddr;

pub(super) fn ports(wanted: &Wanted, seen: &Observed, out: &mut Findings) {
    let ours = seen.clusters.get(&wanted.name).is_some_and(|c| c.running);
    if let Some(owner) = seen.listening.get(&wanted.api_port).filter(|_| !ours) {
        let by = owner.as_deref().unwrap_or("another process");
        out.refuse(format!("port {} is taken by {by}: the API server cannot listen", wanted.api_port))
            .fix("coracle up --api-port 0 (any free one)");
    }
}

pub(super) fn addresses(wanted: &Wanted, seen: &Observed, out: &mut Findings) {
    for (flag, ours) in [("--pod-cidr", wanted.pod_cidr), ("--service-cidr", wanted.service_cidr)] {
        if let Some((route, link)) = seen.routes.iter().find(|(route, _)| route.overlaps(ours)) {
            out.warn(format!("{ours} overlaps the route to {route} on {link}: pods cannot reach what is behind it"))
                .fix(format!("coracle up {flag} <another network, as 10.{}.0.0/16>", free_second_octet(seen)));
        }
    }
    if wanted.pod_cidr.overlaps(wanted.service_cidr) {
        out.refuse(format!("the networks of pods {} and of services {} overlap", wanted.pod_cidr, wanted.service_cidr))
            .fix("choose another --pod-cidr or --service-cidr");
    }
}

/// The second octet of a 10.x/16 that no route here overlaps; a hint for a person, so the first fit is as good as any.
fn free_second_octet(seen: &Observed) -> u8 {
    (16..=250)
        .find(|octet| {
            Ipv4Network::new([10, *octet, 0, 0].into(), 16)
                .is_ok_and(|net| seen.routes.iter().all(|(route, _)| !route.overlaps(net)))
        })
        .unwrap_or(16)
}

pub(super) fn names(wanted: &Wanted, seen: &Observed, out: &mut Findings) {
    let is_ours = |ip: &&IpAddr| matches!(ip, IpAddr::V4(v4) if wanted.service_cidr.contains(*v4));
    if let Some(ip) = seen.nameservers.iter().find(is_ours) {
        let what = "the cluster's own DNS: questions about the outside go in a circle";
        out.warn(format!("/etc/resolv.conf names {ip}, {what}")).fix("name your provider's server in /etc/resolv.conf");
    }
    let loopback = |servers: &[IpAddr]| servers.iter().all(IpAddr::is_loopback);
    if !seen.nameservers.is_empty() && loopback(&seen.nameservers) && loopback(&seen.upstream_nameservers) {
        out.warn("/etc/resolv.conf names only loopback addresses: pods with dnsPolicy Default cannot ask them")
            .fix("name a server that pods can reach in /run/systemd/resolve/resolv.conf or /etc/resolv.conf");
    }
}

pub(super) fn firewalls(wanted: &Wanted, seen: &Observed, out: &mut Findings) {
    let link = wanted.network().link();
    for ForwardDrop { chain, owner } in &seen.forward_drops {
        let open = match owner {
            Firewall::Docker => {
                format!("iptables -I DOCKER-USER -i {link} -j ACCEPT; iptables -I DOCKER-USER -o {link} -j ACCEPT")
            }
            Firewall::Ufw => format!("ufw route allow in on {link}; ufw route allow out on {link}"),
            Firewall::Firewalld => {
                format!("firewall-cmd --permanent --zone=trusted --add-interface={link}; firewall-cmd --reload")
            }
            Firewall::Other => {
                format!("nft insert rule {chain} iifname {link} accept; nft insert rule {chain} oifname {link} accept")
            }
        };
        out.warn(format!("{chain} drops what is forwarded: pods cannot reach the outside")).fix(open);
    }
    if seen.legacy_iptables {
        out.note("rules of the old iptables are loaded and cannot be looked into from here")
            .fix("iptables-legacy -S FORWARD; if its policy is DROP: iptables-legacy -P FORWARD ACCEPT");
    }
}

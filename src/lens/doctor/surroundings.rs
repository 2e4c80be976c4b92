//! Judgements of what else uses this machine: ports, addresses, resolvers, firewalls.
use super::plan::say;
use super::{Finding, Firewall, Level, Observed, Wanted};
use ipnetwork::Ipv4Network;

pub(super) fn ports(wanted: &Wanted, seen: &Observed, out: &mut Vec<Finding>) {
    let ours = seen.clusters.get(&wanted.name).is_some_and(|c| c.running);
    if let Some(owner) = seen.listening.get(&wanted.api_port).filter(|_| !ours) {
        let by = owner.as_deref().unwrap_or("another process");
        say(
            out,
            Level::Refuse,
            format!("port {} is taken by {by}: the API server cannot listen", wanted.api_port),
            "coracle up --api-port 0 (any free one)",
        );
    }
}

pub(super) fn addresses(wanted: &Wanted, seen: &Observed, out: &mut Vec<Finding>) {
    for (flag, ours) in [("--pod-cidr", wanted.pod_cidr), ("--service-cidr", wanted.service_cidr)] {
        if let Some((route, link)) = seen.routes.iter().find(|(route, _)| overlap(*route, ours)) {
            say(
                out,
                Level::Warn,
                format!("{ours} overlaps the route to {route} on {link}: pods cannot reach what is behind it"),
                format!("coracle up {flag} <another network, as 10.{}.0.0/16>", free_second_octet(seen)),
            );
        }
    }
    if overlap(wanted.pod_cidr, wanted.service_cidr) {
        say(
            out,
            Level::Refuse,
            format!("the networks of pods {} and of services {} overlap", wanted.pod_cidr, wanted.service_cidr),
            "choose another --pod-cidr or --service-cidr",
        );
    }
}

fn overlap(a: Ipv4Network, b: Ipv4Network) -> bool {
    a.contains(b.network()) || b.contains(a.network())
}

/// The second octet of a 10.x/16 that no route here overlaps; a hint for a person, so the first fit is as good as any.
fn free_second_octet(seen: &Observed) -> u8 {
    (16..=250)
        .find(|octet| {
            Ipv4Network::new([10, *octet, 0, 0].into(), 16)
                .is_ok_and(|net| seen.routes.iter().all(|(route, _)| !overlap(*route, net)))
        })
        .unwrap_or(16)
}

pub(super) fn names(wanted: &Wanted, seen: &Observed, out: &mut Vec<Finding>) {
    let circular = seen.nameservers.iter().find(|ip| match ip {
        std::net::IpAddr::V4(v4) => wanted.service_cidr.contains(*v4),
        std::net::IpAddr::V6(_) => false,
    });
    if let Some(ip) = circular {
        say(
            out,
            Level::Warn,
            format!("/etc/resolv.conf names {ip}, the cluster's own DNS: questions about the outside go in a circle"),
            "name your provider's server in /etc/resolv.conf",
        );
    }
    let loopback = |servers: &[std::net::IpAddr]| servers.iter().all(std::net::IpAddr::is_loopback);
    if !seen.nameservers.is_empty() && loopback(&seen.nameservers) && loopback(&seen.upstream_nameservers) {
        say(
            out,
            Level::Warn,
            "/etc/resolv.conf names only loopback addresses: pods with dnsPolicy Default cannot ask them",
            "name a server that pods can reach in /run/systemd/resolve/resolv.conf or /etc/resolv.conf",
        );
    }
}

pub(super) fn firewalls(wanted: &Wanted, seen: &Observed, out: &mut Vec<Finding>) {
    let link = wanted.link();
    for drop in &seen.forward_drops {
        let open = match drop.owner {
            Firewall::Docker => {
                format!("iptables -I DOCKER-USER -i {link} -j ACCEPT; iptables -I DOCKER-USER -o {link} -j ACCEPT")
            }
            Firewall::Ufw => {
                format!("ufw route allow in on {link}; ufw route allow out on {link}")
            }
            Firewall::Firewalld => {
                format!("firewall-cmd --permanent --zone=trusted --add-interface={link}; firewall-cmd --reload")
            }
            Firewall::Other => format!(
                "nft insert rule {0} iifname {link} accept; nft insert rule {0} oifname {link} accept",
                drop.chain
            ),
        };
        say(out, Level::Warn, format!("{} drops what is forwarded: pods cannot reach the outside", drop.chain), open);
    }
    if seen.legacy_iptables {
        say(
            out,
            Level::Note,
            "rules of the old iptables are loaded and cannot be looked into from here",
            "iptables-legacy -S FORWARD; if its policy is DROP: iptables-legacy -P FORWARD ACCEPT",
        );
    }
}

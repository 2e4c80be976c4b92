//! The texts of /etc/hosts, /etc/hostname and /etc/resolv.conf. Pure, given the host's own resolv.conf.
use super::{config::NodeConfig, spec};
use k8s_openapi::api::core::v1::Pod;
use std::net::Ipv4Addr;

/// glibc takes no more name servers.
const MAX_SERVERS: usize = 3;

/// `/etc/hosts` of a pod; `host` is the machine's own, which pods of the host network get.
pub fn hosts(pod: &Pod, config: &NodeConfig, ip: Option<Ipv4Addr>, host: &str) -> String {
    let mut text = String::new();
    if spec::host_network(pod) {
        text.push_str("# Kubernetes-managed hosts file (host network).\n");
        text.push_str(host.trim_end());
        text.push('\n');
    } else {
        text.push_str(
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
        );
        let name = spec::hostname(pod);
        let full = domain(pod, config).map(|domain| format!("{name}.{domain}\t"));
        if let Some(ip) = ip {
            text.push_str(&format!("{ip}\t{}{name}\n", full.unwrap_or_default()));
        }
    }
    let aliases = spec::spec(pod).host_aliases.as_deref().unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
    }
    for alias in aliases {
        let names = alias.hostnames.iter().flatten().cloned().collect::<Vec<_>>();
        text.push_str(&format!("{}\t{}\n", alias.ip, names.join("\t")));
    }
    text
}

/// `subdomain.namespace.svc.cluster.local`, if the pod has a subdomain.
fn domain(pod: &Pod, config: &NodeConfig) -> Option<String> {
    let sub = spec::spec(pod).subdomain.as_deref().filter(|sub| !sub.is_empty())?;
    Some(format!("{sub}.{}.svc.{}", spec::namespace(pod), config.cluster_domain))
}

/// `/etc/resolv.conf` of a pod; `host` is the machine's own.
pub fn resolv_conf(pod: &Pod, config: &NodeConfig, host: &str) -> String {
    let (mut servers, mut search, mut options) = by_policy(pod, config, host);
    if let Some(more) = &spec::spec(pod).dns_config {
        servers.extend(more.nameservers.iter().flatten().cloned());
        search.extend(more.searches.iter().flatten().cloned());
        for option in more.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            options.retain(|old: &String| old.split(':').next() != Some(&name));
            options.push(match &option.value {
                Some(value) => format!("{name}:{value}"),
                None => name,
            });
        }
    }
    let mut text = String::new();
    let mut seen = Vec::new();
    search.retain(|name: &String| {
        !seen.contains(name) && {
            seen.push(name.clone());
            true
        }
    });
    if !search.is_empty() {
        text.push_str(&format!("search {}\n", search.join(" ")));
    }
    for server in servers.iter().take(MAX_SERVERS) {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !options.is_empty() {
        text.push_str(&format!("options {}\n", options.join(" ")));
    }
    text
}

/// Name servers, search list and options before `dnsConfig` adds to them.
fn by_policy(pod: &Pod, config: &NodeConfig, host: &str) -> (Vec<String>, Vec<String>, Vec<String>) {
    let field = |key: &str| -> Vec<String> {
        let lines = host.lines().filter_map(|line| line.split_once(char::is_whitespace));
        let values = lines.filter(|(k, _)| *k == key).map(|(_, v)| v);
        values.flat_map(str::split_whitespace).map(str::to_string).collect()
    };
    let policy = spec::spec(pod).dns_policy.as_deref().unwrap_or("ClusterFirst");
    let cluster = match policy {
        "ClusterFirstWithHostNet" => true,
        "ClusterFirst" => !spec::host_network(pod),
        _ => false,
    };
    match (policy, cluster) {
        ("None", _) => Default::default(),
        (_, true) => {
            let domain = &config.cluster_domain;
            let own = [format!("{}.svc.{domain}", spec::namespace(pod)), format!("svc.{domain}"), domain.clone()];
            let search = own.into_iter().chain(field("search")).collect();
            (vec![config.cluster_dns.to_string()], search, vec!["ndots:5".to_string()])
        }
        _ => (field("nameserver"), field("search"), field("options")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn policies_of_dns() {
        let config = NodeConfig::new("c", "n", 1, "/x".into(), "/y".into());
        let host = "search lan\nnameserver 192.0.2.1\noptions edns0\n";
        let conf = |spec: serde_json::Value| {
            let pod: Pod =
                serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec})).unwrap();
            resolv_conf(&pod, &config, host)
        };
        let cluster =
            "search ns.svc.cluster.local svc.cluster.local cluster.local lan\nnameserver 10.96.0.10\noptions ndots:5\n";
        assert_eq!(conf(json!({"containers": []})), cluster);
        let default = "search lan\nnameserver 192.0.2.1\noptions edns0\n";
        assert_eq!(conf(json!({"containers": [], "dnsPolicy": "Default"})), default);
        assert_eq!(conf(json!({"containers": [], "hostNetwork": true})), default);
        let none = json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"],
            "searches": ["a.b"], "options": [{"name": "ndots", "value": "2"}]}});
        assert_eq!(conf(none), "search a.b\nnameserver 1.1.1.1\noptions ndots:2\n");
    }
}

//! What the kernel can do, and which of that a cluster needs.
use std::collections::{BTreeMap, BTreeSet};

/// What is known of the running kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kernel {
    pub release: String,
    /// `CONFIG_X=y|m` without the prefix; empty when no configuration could be read.
    pub options: BTreeMap<String, char>,
    /// Loaded or built in and visible under /sys/module, or known to /proc/filesystems.
    pub present: BTreeSet<String>,
    /// Files under /lib/modules that could be loaded.
    pub loadable: BTreeSet<String>,
    /// `/proc/sys/kernel/modules_disabled`: nothing more is loaded until the next boot.
    pub modules_disabled: bool,
}

/// Whether the kernel has a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    Yes,
    /// The module is there and is loaded when needed.
    Loadable,
    /// The kernel knows it as a module, but the file is not there.
    ModuleMissing,
    No,
    Unknown,
}

/// A feature that a cluster is made of.
pub struct Feature {
    /// The option of the kernel's configuration.
    pub option: &'static str,
    /// The module, where it can be one.
    pub module: Option<&'static str>,
    pub needed_for: &'static str,
    /// Without it nothing works; otherwise only what `needed_for` names.
    pub required: bool,
}

const fn need(option: &'static str, module: Option<&'static str>, needed_for: &'static str) -> Feature {
    Feature { option, module, needed_for, required: true }
}

const fn want(option: &'static str, module: Option<&'static str>, needed_for: &'static str) -> Feature {
    Feature { option, module, needed_for, required: false }
}

/// Everything the rooms ask of the kernel beyond what every kernel has.
pub const FEATURES: &[Feature] = &[
    need("OVERLAY_FS", Some("overlay"), "root filesystems of containers"),
    need("VETH", Some("veth"), "links of pods and nodes"),
    need("BRIDGE", Some("bridge"), "the network between nodes and pods"),
    need("VXLAN", Some("vxlan"), "the overlay between nodes"),
    need("NF_TABLES", Some("nf_tables"), "services"),
    need("NFT_NAT", Some("nft_nat"), "services"),
    need("NFT_MASQ", Some("nft_masq"), "the way out of the cluster"),
    need("NFT_NUMGEN", Some("nft_numgen"), "spreading a service over its pods"),
    need("NFT_CT", Some("nft_ct"), "services"),
    need("NFT_REJECT_IPV4", Some("nft_reject_ipv4"), "services without endpoints"),
    need("NFT_FIB_IPV4", Some("nft_fib_ipv4"), "node ports"),
    need("NF_CONNTRACK", Some("nf_conntrack"), "services"),
    need("NET_NS", None, "nodes and pods"),
    need("PID_NS", None, "containers"),
    need("IPC_NS", None, "pods"),
    need("UTS_NS", None, "pods"),
    need("SECCOMP_FILTER", None, "containers"),
    need("MEMCG", None, "memory limits"),
    need("CGROUP_PIDS", None, "limits on processes"),
    want("CGROUP_BPF", None, "containers on cgroup v2 (rules for devices)"),
    want("CFS_BANDWIDTH", None, "CPU limits (requests still work)"),
    want("USER_NS", None, "pods with hostUsers: false"),
    want("PSI", None, "pressure in eviction decisions"),
];

impl Kernel {
    /// `(6, 1)` of `6.1.0-56-amd64`.
    pub fn version(&self) -> Option<(u32, u32)> {
        let mut parts = self.release.split(|c: char| !c.is_ascii_digit());
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }

    pub fn presence(&self, feature: &Feature) -> Presence {
        if let Some(module) = feature.module {
            if self.present.contains(module) {
                return Presence::Yes;
            }
            if self.loadable.contains(module) {
                return Presence::Loadable;
            }
        }
        match self.options.get(feature.option) {
            Some('y') => Presence::Yes,
            Some(_) => Presence::ModuleMissing,
            None if self.options.is_empty() => Presence::Unknown,
            // Since 5.17 some of nf_tables' parts have no option of their own, so an absent one of those says nothing.
            None if feature.option.starts_with("NFT_") => Presence::Unknown,
            None => Presence::No,
        }
    }
}

/// The `CONFIG_` lines of a kernel configuration.
pub fn options(config: &str) -> BTreeMap<String, char> {
    let option = |line: &str| {
        let (name, value) = line.strip_prefix("CONFIG_")?.split_once('=')?;
        let value = value.chars().next().filter(|c| matches!(c, 'y' | 'm'))?;
        Some((name.to_owned(), value))
    };
    config.lines().filter_map(option).collect()
}

/// The module names of `modules.dep` or `modules.builtin`: `kernel/net/bridge/bridge.ko.xz: …` is `bridge`.
pub fn module_names(text: &str) -> BTreeSet<String> {
    let name = |line: &str| {
        let file = line.split(':').next()?.rsplit('/').next()?;
        Some(file.split_once(".ko")?.0.replace('-', "_"))
    };
    text.lines().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_counts_however_it_comes() {
        let vxlan = &FEATURES[3];
        assert_eq!(vxlan.option, "VXLAN");
        let mut kernel = Kernel::default();
        assert_eq!(kernel.presence(vxlan), Presence::Unknown);
        kernel.options = options("CONFIG_NET_NS=y\nCONFIG_HZ=250\n# CONFIG_VXLAN is not set\n");
        assert_eq!(kernel.presence(vxlan), Presence::No);
        kernel.options = options("CONFIG_VXLAN=m\n");
        assert_eq!(kernel.presence(vxlan), Presence::ModuleMissing);
        kernel.loadable = module_names("kernel/drivers/net/vxlan/vxlan.ko.xz: kernel/a.ko\n");
        assert_eq!(kernel.presence(vxlan), Presence::Loadable);
        kernel.present.insert("vxlan".into());
        assert_eq!(kernel.presence(vxlan), Presence::Yes);
    }

    #[test]
    fn versions_of_distributions_are_read() {
        for (release, version) in
            [("6.1.0-56-amd64", Some((6, 1))), ("6.18.44-fc-v669", Some((6, 18))), ("5.15", Some((5, 15))), ("", None)]
        {
            let kernel = Kernel { release: release.into(), ..Kernel::default() };
            assert_eq!(kernel.version(), version, "{release}");
        }
    }
}

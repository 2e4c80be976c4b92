//! The judgements: from what was seen to what to do.
use super::kernel::{FEATURES, Presence};
use super::surroundings::{addresses, firewalls, names, ports};
use super::{Finding, Level, Observed, Wanted};

/// clone3 into a cgroup, pidfd, close_range and nft's concatenated maps are all there from here on.
const OLDEST_KERNEL: (u32, u32) = (5, 12);
/// Below this an image import or the store's next write fails soon.
const DISK_LEAST: u64 = 100 << 20;
/// Below this a handful of images no longer fits.
const DISK_LITTLE: u64 = 1 << 30;
/// A root filesystem has some thousand files; below this unpacking an image may fail.
const INODES_LITTLE: u64 = 20_000;

/// Capabilities without which no pod starts, by number as in capability.h.
const CAPABILITIES: &[(u32, &str)] = &[
    (0, "CHOWN"),
    (1, "DAC_OVERRIDE"),
    (3, "FOWNER"),
    (5, "KILL"),
    (6, "SETGID"),
    (7, "SETUID"),
    (8, "SETPCAP"),
    (12, "NET_ADMIN"),
    (18, "SYS_CHROOT"),
    (21, "SYS_ADMIN"),
    (27, "MKNOD"),
];
const SYS_RESOURCE: u32 = 24;

/// Filesystems overlayfs does not take as its upper layer.
const NO_UPPER: &[&str] = &["overlay", "nfs", "nfs4", "cifs", "vfat", "fuse", "9p", "aufs"];

/// Judges a machine for one cluster; worst first.
pub fn plan(wanted: &Wanted, seen: &Observed) -> Vec<Finding> {
    let mut out = Findings::default();
    rights(seen, &mut out);
    kernel(seen, &mut out);
    cgroups(seen, &mut out);
    limits(seen, &mut out);
    disk(wanted, seen, &mut out);
    ports(wanted, seen, &mut out);
    addresses(wanted, seen, &mut out);
    names(wanted, seen, &mut out);
    firewalls(wanted, seen, &mut out);
    leftovers(wanted, seen, &mut out);
    out.0.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    out.0
}

/// Findings as they are made: `out.refuse("what is so").fix("what to do")`.
#[derive(Default)]
pub(super) struct Findings(Vec<Finding>);

impl Findings {
    pub(super) fn refuse(&mut self, what: impl Into<String>) -> Found<'_> {
        self.say(Level::Refuse, what)
    }

    pub(super) fn warn(&mut self, what: impl Into<String>) -> Found<'_> {
        self.say(Level::Warn, what)
    }

    pub(super) fn note(&mut self, what: impl Into<String>) -> Found<'_> {
        self.say(Level::Note, what)
    }

    fn say(&mut self, level: Level, what: impl Into<String>) -> Found<'_> {
        Found { findings: &mut self.0, level, what: what.into() }
    }
}

/// What is a finding once it has a fix.
#[must_use]
pub(super) struct Found<'a> {
    findings: &'a mut Vec<Finding>,
    level: Level,
    what: String,
}

impl Found<'_> {
    pub(super) fn fix(self, fix: impl Into<String>) {
        self.findings.push(Finding { level: self.level, what: self.what, fix: fix.into() });
    }
}

fn rights(seen: &Observed, out: &mut Findings) {
    if seen.uid != 0 {
        // Everything else would be judged by what this user may see.
        return out.refuse("not root: namespaces, mounts and links need it").fix("sudo coracle …");
    }
    let has = |bit: u32| seen.capabilities & (1 << bit) != 0;
    let missing: Vec<&str> = CAPABILITIES.iter().filter(|(bit, _)| !has(*bit)).map(|(_, name)| *name).collect();
    if !missing.is_empty() {
        out.refuse(format!("root without the capabilities {}: no pod can be started", missing.join(", "))).fix(
            "start the container or service around it with all capabilities (docker run --privileged --cgroupns=host)",
        );
    }
    if !has(SYS_RESOURCE) {
        out.note("no capability SYS_RESOURCE: limits cannot be raised, nor processes shielded from the OOM killer")
            .fix("start it with CAP_SYS_RESOURCE");
    }
    if seen.selinux_enforcing {
        out.note("SELinux enforces, and pods run unlabelled: seLinuxOptions have no effect")
            .fix("none is needed; `setenforce 0` if a pod's mounts are denied");
    }
}

fn kernel(seen: &Observed, out: &mut Findings) {
    let kernel = &seen.kernel;
    if kernel.version().is_some_and(|version| version < OLDEST_KERNEL) {
        let (major, minor) = OLDEST_KERNEL;
        let release = &kernel.release;
        out.refuse(format!("kernel {release} is older than {major}.{minor}: clone3, pidfds or nft maps are missing"))
            .fix("boot a newer kernel (Debian 12 and Ubuntu 22.04 have one)");
    }
    for feature in FEATURES {
        let level = if feature.required { Level::Refuse } else { Level::Note };
        let (why, fix) = match kernel.presence(feature) {
            Presence::Yes | Presence::Unknown => continue,
            Presence::Loadable if !kernel.modules_disabled => continue,
            Presence::Loadable => (
                "its module is not loaded and kernel.modules_disabled forbids it now",
                format!("echo {} >> /etc/modules-load.d/coracle.conf && reboot", feature.module.unwrap_or_default()),
            ),
            Presence::ModuleMissing => (
                "its module is not installed",
                format!("apt install linux-modules-extra-{0} || apt install linux-image-{0}", kernel.release),
            ),
            Presence::No => {
                ("this kernel is built without it", format!("boot a kernel with CONFIG_{}", feature.option))
            }
        };
        let name = feature.module.unwrap_or(feature.option);
        out.say(level, format!("{name} is missing ({}): {why}", feature.needed_for)).fix(fix);
    }
}

fn cgroups(seen: &Observed, out: &mut Findings) {
    let cgroups = &seen.cgroups;
    if !cgroups.mounted {
        return out
            .refuse("no cgroups at /sys/fs/cgroup: pods cannot be limited")
            .fix("mount -t cgroup2 none /sys/fs/cgroup");
    }
    if !cgroups.writable {
        out.refuse("/sys/fs/cgroup is read-only: pods cannot be limited")
            .fix("in a container: docker run --privileged --cgroupns=host");
    }
    for (controller, fix) in [
        ("memory", "boot with cgroup_enable=memory and without cgroup_disable=memory"),
        ("pids", "boot without cgroup_disable=pids"),
        ("cpu", "boot without cgroup_disable=cpu"),
    ] {
        if !cgroups.controllers.contains(controller) {
            out.refuse(format!("no {controller} controller: pods cannot be limited")).fix(fix);
        }
    }
}

fn limits(seen: &Observed, out: &mut Findings) {
    let is = |key, value| seen.sysctls.get(key) == Some(&value);
    for key in ["user.max_net_namespaces", "user.max_mnt_namespaces", "user.max_pid_namespaces"] {
        if is(key, 0) {
            out.refuse(format!("{key} is 0: no namespace can be made")).fix(format!("sysctl -w {key}=10000"));
        }
    }
    if is("net.ipv4.ip_forward", 0) {
        out.note("this host does not forward: pods reach each other and the host, but nothing beyond")
            .fix("sysctl -w net.ipv4.ip_forward=1");
    }
}

fn disk(wanted: &Wanted, seen: &Observed, out: &mut Findings) {
    let Some(disk) = &seen.disk else { return };
    let dir = wanted.data_dir.display();
    let elsewhere = "coracle up --data-dir <a directory on another disk>";
    if disk.read_only {
        out.refuse(format!("the filesystem of {dir} is read-only")).fix(elsewhere);
    }
    if NO_UPPER.contains(&disk.kind.as_str()) {
        out.refuse(format!("{dir} is on {}, which cannot be under a container's root filesystem", disk.kind))
            .fix("coracle up --data-dir <a directory on ext4, xfs, btrfs or tmpfs>");
    }
    if disk.free_bytes < DISK_LITTLE {
        let level = if disk.free_bytes < DISK_LEAST { Level::Refuse } else { Level::Warn };
        let what = format!("{} MiB free for {dir}: images and logs will not fit", disk.free_bytes >> 20);
        out.say(level, what).fix(elsewhere);
    }
    // Filesystems that make inodes as they go (btrfs) report none at all.
    if (1..INODES_LITTLE).contains(&disk.free_inodes) {
        out.warn(format!("{} inodes free for {dir}: unpacking images will fail", disk.free_inodes)).fix(elsewhere);
    }
}

fn leftovers(wanted: &Wanted, seen: &Observed, out: &mut Findings) {
    for (name, cluster) in &seen.clusters {
        if cluster.running || cluster.objects.is_empty() {
            continue;
        }
        // Pods that outlived their daemon are what `up` takes over.
        let adopt = if *name == wanted.name { "; `coracle up` takes them over" } else { "" };
        let some = cluster.objects.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
        let count = count(cluster.objects.len());
        out.note(format!("cluster {name} has no daemon but {count} left behind ({some}){adopt}"))
            .fix(format!("coracle down --name {name}"));
    }
}

fn count(n: usize) -> String {
    if n == 1 { "one object".into() } else { format!("{n} objects") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lens::doctor::{Cgroups, Cluster, Disk, Firewall, ForwardDrop};

    /// Root on a plain Debian 12.
    fn debian() -> Observed {
        let mut seen = Observed {
            capabilities: (1 << 41) - 1,
            cgroups: Cgroups {
                controllers: ["cpu", "memory", "pids", "io"].map(str::to_owned).into(),
                writable: true,
                mounted: true,
            },
            disk: Some(Disk { free_bytes: 50 << 30, free_inodes: 3_000_000, kind: "ext4".into(), read_only: false }),
            nameservers: vec!["192.168.1.1".parse().unwrap()],
            routes: vec![("192.168.1.0/24".parse().unwrap(), "eth0".into())],
            ..Observed::default()
        };
        seen.kernel.release = "6.1.0-56-amd64".into();
        seen.kernel.loadable = FEATURES.iter().filter_map(|f| f.module).map(str::to_owned).collect();
        seen.sysctls.insert("net.ipv4.ip_forward", 1);
        seen
    }

    #[test]
    fn a_plain_debian_has_no_findings() {
        assert_eq!(plan(&Wanted::default(), &debian()), []);
    }

    type Row = (&'static str, fn(&mut Observed), Level, &'static str, &'static str);

    const ROWS: &[Row] = &[
        ("no root", |s| s.uid = 1000, Level::Refuse, "not root", "sudo"),
        (
            "docker run without --privileged",
            |s| s.capabilities &= !(1 << 21),
            Level::Refuse,
            "SYS_ADMIN",
            "--privileged",
        ),
        ("no SYS_RESOURCE", |s| s.capabilities &= !(1 << 24), Level::Note, "SYS_RESOURCE", "CAP_SYS_RESOURCE"),
        (
            "an old kernel",
            |s| s.kernel.release = "4.19.0-27-amd64".into(),
            Level::Refuse,
            "older than 5.12",
            "newer kernel",
        ),
        (
            "a kernel without vxlan",
            |s| {
                s.kernel.loadable.remove("vxlan");
                s.kernel.options.insert("NET_NS".into(), 'y');
                for f in FEATURES.iter().filter(|f| f.module.is_none()) {
                    s.kernel.options.insert(f.option.into(), 'y');
                }
            },
            Level::Refuse,
            "vxlan is missing (the overlay between nodes): this kernel is built without it",
            "CONFIG_VXLAN",
        ),
        (
            "a cloud kernel whose extra modules are not installed",
            |s| {
                s.kernel.loadable.remove("vxlan");
                for f in FEATURES {
                    s.kernel.options.insert(f.option.into(), if f.module.is_some() { 'm' } else { 'y' });
                }
            },
            Level::Refuse,
            "its module is not installed",
            "linux-modules-extra-6.1.0-56-amd64",
        ),
        (
            "memory cgroup switched off",
            |s| {
                s.cgroups.controllers.remove("memory");
            },
            Level::Refuse,
            "no memory controller",
            "cgroup_enable=memory",
        ),
        ("cgroups read-only", |s| s.cgroups.writable = false, Level::Refuse, "read-only", "--cgroupns=host"),
        ("no cgroups", |s| s.cgroups = Cgroups::default(), Level::Refuse, "no cgroups", "mount -t cgroup2"),
        (
            "namespaces forbidden",
            |s| {
                s.sysctls.insert("user.max_net_namespaces", 0);
            },
            Level::Refuse,
            "user.max_net_namespaces is 0",
            "sysctl -w",
        ),
        (
            "no forwarding",
            |s| {
                s.sysctls.insert("net.ipv4.ip_forward", 0);
            },
            Level::Note,
            "does not forward",
            "ip_forward=1",
        ),
        ("a full disk", |s| s.disk.as_mut().unwrap().free_bytes = 50 << 20, Level::Refuse, "50 MiB free", "--data-dir"),
        (
            "a nearly full disk",
            |s| s.disk.as_mut().unwrap().free_bytes = 500 << 20,
            Level::Warn,
            "500 MiB free",
            "--data-dir",
        ),
        ("no inodes", |s| s.disk.as_mut().unwrap().free_inodes = 7, Level::Warn, "7 inodes", "--data-dir"),
        (
            "a data dir inside a container",
            |s| s.disk.as_mut().unwrap().kind = "overlay".into(),
            Level::Refuse,
            "is on overlay",
            "ext4",
        ),
        (
            "another Kubernetes",
            |s| {
                s.listening.insert(6443, Some("k3s (pid 7)".into()));
            },
            Level::Refuse,
            "taken by k3s (pid 7)",
            "--api-port 0",
        ),
        (
            "flannel's network",
            |s| s.routes.push(("10.244.3.0/24".parse().unwrap(), "flannel.1".into())),
            Level::Warn,
            "route to 10.244.3.0/24 on flannel.1",
            "--pod-cidr",
        ),
        (
            "a DNS circle",
            |s| s.nameservers = vec!["10.96.0.10".parse().unwrap()],
            Level::Warn,
            "in a circle",
            "resolv.conf",
        ),
        (
            "only a loopback resolver",
            |s| s.nameservers = vec!["127.0.0.53".parse().unwrap()],
            Level::Warn,
            "loopback",
            "/run/systemd/resolve/resolv.conf",
        ),
        (
            "docker",
            |s| s.forward_drops.push(ForwardDrop { chain: "ip filter FORWARD".into(), owner: Firewall::Docker }),
            Level::Warn,
            "ip filter FORWARD drops what is forwarded: pods cannot reach the outside",
            "iptables -I DOCKER-USER -i cr-default -j ACCEPT",
        ),
        (
            "ufw",
            |s| s.forward_drops.push(ForwardDrop { chain: "ip filter FORWARD".into(), owner: Firewall::Ufw }),
            Level::Warn,
            "pods cannot reach the outside",
            "ufw route allow in on cr-default",
        ),
        ("old iptables", |s| s.legacy_iptables = true, Level::Note, "old iptables", "iptables-legacy"),
        (
            "a daemon that died",
            |s| {
                let objects = vec!["link cr-x".into(), "netns coracle-x-node-1".into()];
                s.clusters.insert("x".into(), Cluster { running: false, objects });
            },
            Level::Note,
            "cluster x has no daemon but 2 objects left behind",
            "coracle down --name x",
        ),
        ("SELinux", |s| s.selinux_enforcing = true, Level::Note, "SELinux", "setenforce"),
    ];

    #[test]
    fn each_trouble_is_one_finding_with_its_fix() {
        for (name, change, level, what, fix) in ROWS {
            let mut seen = debian();
            change(&mut seen);
            let findings = plan(&Wanted::default(), &seen);
            assert_eq!(findings.len(), 1, "{name}: {findings:?}");
            let found = &findings[0];
            assert_eq!(found.level, *level, "{name}");
            assert!(found.what.contains(what), "{name}: {}", found.what);
            assert!(found.fix.contains(fix), "{name}: {}", found.fix);
        }
    }

    #[test]
    fn what_is_fine_is_no_finding() {
        type Change = fn(&mut Observed);
        let fine: &[(&str, Change)] = &[
            ("resolved keeps the real servers elsewhere", |s| {
                s.nameservers = vec!["127.0.0.53".parse().unwrap()];
                s.upstream_nameservers = vec!["9.9.9.9".parse().unwrap()];
            }),
            ("btrfs has no inode count", |s| s.disk.as_mut().unwrap().free_inodes = 0),
            ("this cluster's own API port", |s| {
                s.listening.insert(6443, None);
                s.clusters.insert("default".into(), Cluster { running: true, objects: vec!["link cr-default".into()] });
            }),
            ("nothing known of the kernel", |s| s.kernel = Default::default()),
        ];
        for (name, change) in fine {
            let mut seen = debian();
            change(&mut seen);
            assert_eq!(plan(&Wanted::default(), &seen), [], "{name}");
        }
    }

    #[test]
    fn the_worst_comes_first() {
        let mut seen = debian();
        seen.sysctls.insert("net.ipv4.ip_forward", 0);
        seen.cgroups.controllers.clear();
        let levels: Vec<Level> = plan(&Wanted::default(), &seen).iter().map(|f| f.level).collect();
        assert_eq!(levels, [Level::Refuse, Level::Refuse, Level::Refuse, Level::Note]);
    }
}

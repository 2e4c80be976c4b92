//! Looks at the machine. Whatever cannot be read is left out; only what is there can be judged.
use super::kernel::{Kernel, module_names, options};
use super::{Cgroups, Cluster, Disk, Firewall, ForwardDrop, Observed, Wanted};
use ipnetwork::Ipv4Network;
use nix::unistd::{AccessFlags, access};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

/// The values that judgements need.
const SYSCTLS: &[&str] =
    &["net.ipv4.ip_forward", "user.max_net_namespaces", "user.max_mnt_namespaces", "user.max_pid_namespaces"];
/// `TCP_LISTEN` in /proc/net/tcp.
const LISTEN: &str = "0A";

/// Everything [`mod@super::plan`] judges, as it is now.
pub fn read(wanted: &Wanted) -> Observed {
    let (forward_drops, legacy_iptables) = firewalls();
    Observed {
        uid: nix::unistd::geteuid().as_raw(),
        capabilities: capabilities(),
        kernel: kernel(),
        cgroups: cgroups(),
        sysctls: SYSCTLS.iter().filter_map(|key| Some((*key, sysctl(key)?))).collect(),
        nameservers: nameservers("/etc/resolv.conf"),
        upstream_nameservers: nameservers("/run/systemd/resolve/resolv.conf"),
        forward_drops,
        legacy_iptables,
        listening: listening(wanted.api_port),
        routes: routes(),
        clusters: clusters(wanted),
        disk: disk(&wanted.data_dir),
        selinux_enforcing: text("/sys/fs/selinux/enforce").trim() == "1",
    }
}

/// A file's text, empty if it cannot be read.
fn text(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The names in a directory, none if it cannot be read.
fn entries(path: impl AsRef<Path>) -> Vec<String> {
    let dir = fs::read_dir(path).into_iter().flatten();
    dir.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn sysctl(key: &str) -> Option<i64> {
    text(Path::new("/proc/sys").join(key.replace('.', "/"))).trim().parse().ok()
}

fn capabilities() -> u64 {
    let status = text("/proc/self/status");
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or_default()
}

fn kernel() -> Kernel {
    let release = text("/proc/sys/kernel/osrelease").trim().to_owned();
    let modules = Path::new("/lib/modules").join(&release);
    let mut present: BTreeSet<String> = entries("/sys/module").into_iter().collect();
    present.extend(module_names(&text(modules.join("modules.builtin"))));
    let filesystems = text("/proc/filesystems");
    present.extend(filesystems.lines().filter_map(|line| line.split_whitespace().last()).map(str::to_owned));
    Kernel {
        options: options(&configuration(&release)),
        present,
        loadable: module_names(&text(modules.join("modules.dep"))),
        modules_disabled: sysctl("kernel.modules_disabled") == Some(1),
        release,
    }
}

/// The running kernel's configuration, from itself or from where distributions put it.
fn configuration(release: &str) -> String {
    let mut config = String::new();
    if let Ok(file) = fs::File::open("/proc/config.gz")
        && flate2::read::GzDecoder::new(file).read_to_string(&mut config).is_ok()
    {
        return config;
    }
    [format!("/boot/config-{release}"), format!("/lib/modules/{release}/config")]
        .iter()
        .map(text)
        .find(|config| !config.is_empty())
        .unwrap_or_default()
}

/// `(mount point, filesystem, options)` of every mount.
fn mounts() -> Vec<(PathBuf, String, String)> {
    let mount = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(4);
        let (point, options) = (left.next()?, left.next()?);
        let mut right = right.split(' ');
        let (kind, superblock) = (right.next()?, right.nth(1)?);
        Some((point.into(), kind.to_owned(), format!("{options},{superblock}")))
    };
    text("/proc/self/mountinfo").lines().filter_map(mount).collect()
}

fn cgroups() -> Cgroups {
    let mounts = mounts();
    let mut out = Cgroups::default();
    for (point, kind, options) in &mounts {
        match kind.as_str() {
            "cgroup" => {
                let known = options.split(',').filter(|o| matches!(*o, "memory" | "pids" | "cpu"));
                out.controllers.extend(known.map(str::to_owned));
            }
            "cgroup2" => {
                let controllers = text(point.join("cgroup.controllers"));
                out.controllers.extend(controllers.split_whitespace().map(str::to_owned));
            }
            _ => continue,
        }
        out.mounted = true;
        out.writable |= access(point, AccessFlags::W_OK).is_ok() && !read_only(options);
    }
    out
}

fn read_only(options: &str) -> bool {
    options.split(',').any(|option| option == "ro")
}

fn nameservers(path: &str) -> Vec<IpAddr> {
    let address = |line: &str| line.strip_prefix("nameserver")?.trim().parse().ok();
    text(path).lines().filter_map(address).collect()
}

/// Chains that drop what is forwarded, and whether there are rules of the old iptables.
fn firewalls() -> (Vec<ForwardDrop>, bool) {
    let legacy = text("/proc/net/ip_tables_names").lines().any(|table| table == "filter");
    // A machine without nf_tables is judged by its kernel, not by its firewall.
    let chains = crate::net::foreign_chains().unwrap_or_default();
    let owner = |drop: &crate::net::ForeignChain| {
        let names = |prefix: &str| chains.iter().any(|c| c.table == drop.table && c.name.starts_with(prefix));
        match () {
            () if drop.table == "firewalld" => Firewall::Firewalld,
            () if names("ufw-") => Firewall::Ufw,
            () if names("DOCKER-USER") => Firewall::Docker,
            () => Firewall::Other,
        }
    };
    let drops = chains.iter().filter(|chain| chain.drops_forwarded);
    let drops = drops.map(|chain| ForwardDrop {
        chain: format!("{} {} {}", chain.family, chain.table, chain.name),
        owner: owner(chain),
    });
    (drops.collect(), legacy)
}

/// Listening TCP ports; the process is looked for only where it matters, since that reads every process.
fn listening(port_of_interest: u16) -> BTreeMap<u16, Option<String>> {
    let mut out = BTreeMap::new();
    for file in ["/proc/net/tcp", "/proc/net/tcp6"] {
        for line in text(file).lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [_, local, _, LISTEN, _, _, _, _, _, inode, ..] = fields[..] else { continue };
            let port = local.rsplit(':').next();
            let Some(port) = port.and_then(|hex| u16::from_str_radix(hex, 16).ok()) else { continue };
            let owner = (port == port_of_interest).then(|| process_of(inode)).flatten();
            out.insert(port, owner);
        }
    }
    out
}

fn process_of(inode: &str) -> Option<String> {
    let socket = PathBuf::from(format!("socket:[{inode}]"));
    entries("/proc")
        .into_iter()
        .filter(|name| name.bytes().all(|b| b.is_ascii_digit()))
        .find(|pid| {
            let dir = format!("/proc/{pid}/fd");
            entries(&dir).iter().any(|fd| fs::read_link(format!("{dir}/{fd}")).is_ok_and(|link| link == socket))
        })
        .map(|pid| format!("{} (pid {pid})", text(format!("/proc/{pid}/comm")).trim()))
}

/// /proc/net/route has addresses as little-endian hexadecimal.
fn routes() -> Vec<(Ipv4Network, String)> {
    let address = |hex: &str| Some(Ipv4Addr::from(u32::from_str_radix(hex, 16).ok()?.swap_bytes()));
    let route = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (link, to, mask) = (fields.first()?, fields.get(1)?, fields.get(7)?);
        let net = Ipv4Network::with_netmask(address(to)?, address(mask)?).ok()?;
        Some((net, (*link).to_owned()))
    };
    let all = text("/proc/net/route");
    let others = |(net, link): &(Ipv4Network, String)| net.prefix() > 0 && !link.starts_with("cr-");
    all.lines().skip(1).filter_map(route).filter(others).collect()
}

/// Clusters by their data and run directories and their cgroups, each with what of it is in the kernel.
fn clusters(wanted: &Wanted) -> BTreeMap<String, Cluster> {
    let groups = cgroup_roots();
    let mut names: BTreeSet<String> = entries("/run/coracle").into_iter().collect();
    names.extend(entries("/var/lib/coracle"));
    names.extend(groups.iter().flat_map(entries_below));
    let links = entries("/sys/class/net");
    let namespaces = entries("/run/netns");
    let cluster = |name: String| {
        let network = Wanted { name: name.clone(), ..wanted.clone() }.network();
        let (link, switch, node) = (network.link(), format!("coracle.{name}"), format!("coracle-{name}-"));
        let ours = namespaces.iter().filter(|n| **n == switch || n.starts_with(&node));
        let mut objects: Vec<String> = ours.map(|n| format!("netns {n}")).collect();
        objects.extend(links.iter().filter(|l| **l == link).map(|l| format!("link {l}")));
        if groups.iter().any(|root| root.join(&name).is_dir()) {
            objects.push(format!("cgroup coracle/{name}"));
        }
        let running = running(&name);
        (name, Cluster { running, objects })
    };
    names.into_iter().map(cluster).collect()
}

/// Where `coracle/` would be in each hierarchy.
fn cgroup_roots() -> Vec<PathBuf> {
    let groups = mounts().into_iter().filter(|(_, kind, _)| matches!(kind.as_str(), "cgroup" | "cgroup2"));
    groups.map(|(point, ..)| point.join("coracle")).collect()
}

/// The child cgroups (directories, not their files).
fn entries_below(root: &PathBuf) -> Vec<String> {
    entries(root).into_iter().filter(|name| root.join(name).is_dir()).collect()
}

fn running(cluster: &str) -> bool {
    let pid = text(Path::new("/run/coracle").join(cluster).join("daemon.pid"));
    let exe = fs::read_link(format!("/proc/{}/exe", pid.trim()));
    exe.is_ok_and(|exe| exe.to_string_lossy().contains("coracle"))
}

/// The filesystem under a directory that may not exist yet.
fn disk(dir: &Path) -> Option<Disk> {
    let existing = dir.ancestors().find(|d| d.exists())?.canonicalize().ok()?;
    let stat = nix::sys::statvfs::statvfs(&existing).ok()?;
    let above = mounts().into_iter().filter(|(point, ..)| existing.starts_with(point));
    let (_, kind, options) = above.max_by_key(|(point, ..)| point.components().count())?;
    Some(Disk {
        free_bytes: stat.blocks_available() * stat.fragment_size(),
        free_inodes: if stat.files() == 0 { 0 } else { stat.files_available() },
        read_only: read_only(&options),
        kind: kind.split('.').next().unwrap_or_default().to_owned(),
    })
}

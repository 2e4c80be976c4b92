//! The kernel objects behind an object of the API, read from the kernel itself: a pod is processes, namespaces, cgroups, mounts
//! and a link; a node is a network namespace and a cgroup; a Service is entries of a table.
//!
//! Nothing here asks the daemon how it thinks things are. Names follow from the cluster's name and the object's uid, so the
//! reader can check every line with `ls`, `cat`, `ip` and `nft`.
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::runtime::{cgroup, scope};
use crate::sys;

/// Lines of a report: how far in, a name, and what was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Steps of indentation.
    pub level: usize,
    /// `pid`, `cgroup`, a file's name.
    pub name: String,
    /// What was read.
    pub value: String,
}

/// A report under construction.
#[derive(Debug, Default)]
pub struct Report(pub Vec<Line>);

/// cgroup files that say most, by controller, as v1 and v2 call them.
const CGROUP_FILES: &[(&str, &[&str])] = &[
    ("cpu", &["cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.weight", "cpu.max", "cpu.pressure"]),
    ("cpuset", &["cpuset.cpus", "cpuset.cpus.effective"]),
    ("memory", &["memory.limit_in_bytes", "memory.usage_in_bytes"]),
    ("memory", &["memory.min", "memory.high", "memory.max", "memory.current", "memory.pressure"]),
    ("io", &["io.max", "io.pressure"]),
    ("pids", &["pids.max", "pids.current"]),
];
/// Namespaces in the order `/proc/<pid>/ns` is worth reading.
const NAMESPACES: &[&str] = &["net", "ipc", "uts", "pid", "mnt", "cgroup", "user"];

impl Report {
    fn add(&mut self, level: usize, name: &str, value: impl Into<String>) {
        self.0.push(Line { level, name: name.to_owned(), value: value.into() });
    }

    /// Aligned text, each line ended by a newline.
    pub fn text(&self) -> String {
        let indented = |line: &Line| format!("{}{}", "  ".repeat(line.level), line.name);
        let width = self.0.iter().map(|line| indented(line).len()).max();
        let width = width.unwrap_or(0).min(32) + 2;
        self.0.iter().fold(String::new(), |mut out, line| {
            let row = format!("{:<width$}{}", indented(line), line.value);
            out.push_str(row.trim_end());
            out.push('\n');
            out
        })
    }
}

/// A pod: `cluster` and `uid` give all names.
pub fn pod(cluster: &str, uid: &str) -> Report {
    scope::settle(cluster);
    let mut report = Report::default();
    if let Some(shim) = shim(uid) {
        report.add(0, "shim", format!("process {shim}: holds the namespaces, writes the logs"));
        report.add(1, "memory", memory(shim));
        namespaces(&mut report, 1, shim, &["net", "ipc", "uts"]);
        links(&mut report, 1, &PathBuf::from(format!("/proc/{shim}/ns/net")));
    }
    let Some(path) = pod_cgroup(cluster, uid) else {
        report.add(0, "cgroup", "none: it does not run on this host");
        return report;
    };
    report.add(0, "cgroup", cgroup_name(&path));
    values(&mut report, 1, &path);
    for container in children(&path) {
        let inside = format!("{path}/{container}");
        report.add(0, "container", container);
        report.add(1, "cgroup", cgroup_name(&inside));
        values(&mut report, 2, &inside);
        for pid in processes(&inside) {
            process(&mut report, 1, pid);
        }
    }
    report
}

/// Process id, as the host sees it, of a container's first process.
pub fn container(cluster: &str, uid: &str, name: &str) -> Option<i32> {
    scope::settle(cluster);
    let path = pod_cgroup(cluster, uid)?;
    processes(&format!("{path}/{name}")).into_iter().min()
}

/// A node: its namespace, links and cgroup; `ruleset` is its nft table as text.
pub fn node(cluster: &str, name: &str, netns: &Path, ruleset: &str) -> Report {
    scope::settle(cluster);
    let mut report = Report::default();
    let inode = fs::metadata(netns).map(|about| about.ino().to_string());
    let inode = inode.unwrap_or_else(|error| error.to_string());
    report.add(0, "netns", format!("{} (inode {inode})", netns.display()));
    links(&mut report, 1, netns);
    let path = format!("coracle/{cluster}/{name}");
    report.add(0, "cgroup", cgroup_name(&path));
    values(&mut report, 1, &path);
    for below in ["kubepods", "kubepods/burstable", "kubepods/besteffort"] {
        report.add(1, "cgroup", below);
        values(&mut report, 2, &format!("{path}/{below}"));
    }
    let pods = pods_below(&format!("{path}/kubepods"));
    report.add(1, "pods", pods.len().to_string());
    rules(&mut report, ruleset, &[]);
    report
}

/// A Service as one node's table has it: the lines with one of its words (its address, its node port, its name).
pub fn service(node: &str, ruleset: &str, words: &[String]) -> Report {
    let mut report = Report::default();
    report.add(0, "node", node);
    rules(&mut report, ruleset, words);
    report
}

fn rules(report: &mut Report, ruleset: &str, words: &[String]) {
    report.add(0, "nft", "");
    let wanted = |line: &&str| words.is_empty() || words.iter().any(|word| line.contains(word));
    for line in ruleset.lines().filter(wanted) {
        report.add(1, line, "");
    }
}

fn process(report: &mut Report, level: usize, pid: i32) {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command).replace('\0', " ");
    report.add(level, "process", format!("{pid}: {}", command.trim()));
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(|value| value.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    for (name, key) in [
        ("pid inside", "NSpid:"),
        ("uid", "Uid:"),
        ("gid", "Gid:"),
        ("capabilities", "CapEff:"),
        ("seccomp", "Seccomp:"),
        ("no new privs", "NoNewPrivs:"),
        ("memory", "VmRSS:"),
    ] {
        if let Some(value) = field(key) {
            report.add(level + 1, name, value);
        }
    }
    namespaces(report, level + 1, pid, &["pid", "mnt"]);
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    for line in mounts.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let target = left.split(' ').nth(4).unwrap_or_default();
        let kind = right.split(' ').next().unwrap_or_default();
        // Kernel file systems are the same in every container.
        if !["proc", "sysfs", "devpts", "mqueue", "cgroup", "cgroup2"].contains(&kind) {
            report.add(level + 1, "mount", format!("{target} ({kind})"));
        }
    }
}

fn memory(pid: i32) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    format!("{} resident", resident.unwrap_or("?").trim())
}

fn namespaces(report: &mut Report, level: usize, pid: i32, wanted: &[&str]) {
    for kind in NAMESPACES.iter().filter(|kind| wanted.contains(kind)) {
        if let Ok(link) = fs::read_link(format!("/proc/{pid}/ns/{kind}")) {
            report.add(level, "namespace", link.display().to_string());
        }
    }
}

/// Links and their addresses inside a namespace.
fn links(report: &mut Report, level: usize, netns: &Path) {
    let read = sys::in_netns(netns, || nix::ifaddrs::getifaddrs().map(Iterator::collect));
    let Ok(Ok(all)) = read else { return };
    let all: Vec<nix::ifaddrs::InterfaceAddress> = all;
    for entry in all {
        let Some(address) = entry.address else { continue };
        if let Some(v4) = address.as_sockaddr_in() {
            report.add(level, "link", format!("{} {}", entry.interface_name, v4.ip()));
        } else if let Some((mac, index)) = address.as_link_addr().and_then(|link| Some((link.addr()?, link.ifindex())))
        {
            let mac: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
            let name = &entry.interface_name;
            report.add(level, "link", format!("{name} {} (index {index})", mac.join(":")));
        }
    }
}

fn values(report: &mut Report, level: usize, path: &str) {
    let Ok(layout) = cgroup::layout() else { return };
    for (controller, files) in CGROUP_FILES {
        let Some(dir) = layout.dir(controller, path) else { continue };
        for file in *files {
            let value = fs::read_to_string(dir.join(file)).unwrap_or_default();
            value.lines().for_each(|line| report.add(level, file, line));
        }
    }
}

/// Where to find a cgroup below its mounts.
fn cgroup_name(path: &str) -> String {
    cgroup::layout().map_or_else(|_| path.to_owned(), |layout| layout.name(path).display().to_string())
}

/// Directories of a cgroup in the first hierarchy that has it.
fn children(path: &str) -> Vec<String> {
    let dirs = cgroup::layout().map(|layout| layout.dirs(path)).unwrap_or_default();
    let read = dirs.iter().find_map(|dir| fs::read_dir(dir).ok());
    let is_dir = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    let entries = read.into_iter().flatten().flatten().filter(is_dir);
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn processes(path: &str) -> Vec<i32> {
    let dirs = cgroup::layout().map(|layout| layout.dirs(path)).unwrap_or_default();
    let text = dirs.iter().find_map(|dir| fs::read_to_string(dir.join("cgroup.procs")).ok());
    text.unwrap_or_default().lines().filter_map(|line| line.parse().ok()).collect()
}

/// Cgroups of pods below a node's `kubepods`, whatever their class.
fn pods_below(kubepods: &str) -> Vec<String> {
    let classes = ["", "/burstable", "/besteffort"].map(|class| format!("{kubepods}{class}"));
    let pods = |class: &String| {
        let all = children(class).into_iter().filter(|name| name.starts_with("pod"));
        all.map(|name| format!("{class}/{name}")).collect::<Vec<_>>()
    };
    classes.iter().flat_map(pods).collect()
}

fn pod_cgroup(cluster: &str, uid: &str) -> Option<String> {
    let root = format!("coracle/{cluster}");
    let wanted = format!("/pod{uid}");
    let nodes = children(&root).into_iter();
    let mut all = nodes.flat_map(|node| pods_below(&format!("{root}/{node}/kubepods")));
    all.find(|path| path.ends_with(&wanted))
}

/// The process whose arguments are `… shim …<uid>…`.
fn shim(uid: &str) -> Option<i32> {
    let pids = fs::read_dir("/proc").ok()?.flatten();
    let mut pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.find(|pid| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = command.split(|byte| *byte == 0).collect();
        words.get(1) == Some(&&b"shim"[..]) && words.iter().any(|word| String::from_utf8_lossy(word).contains(uid))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_lines_up() {
        let mut report = Report::default();
        report.add(0, "shim", "1");
        report.add(1, "namespace", "net:[4026531840]");
        assert_eq!(report.text(), "shim         1\n  namespace  net:[4026531840]\n");
    }

    #[test]
    fn a_service_is_the_lines_with_its_words() {
        let rules = "10.96.0.1 . tcp . 443\n10.96.0.2 . tcp . 80\n";
        let report = service("node-1", rules, &["10.96.0.2 ".into()]);
        assert_eq!(report.0.len(), 3);
    }
}

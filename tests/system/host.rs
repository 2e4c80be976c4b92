//! What the host looks like: everything a cluster could leave behind.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// One line a thing, each with its sort in front.
#[derive(Debug, PartialEq, Eq)]
pub struct Snapshot(BTreeSet<String>);

impl Snapshot {
    /// Looks at links, addresses, routes, neighbours, network namespaces, mounts, cgroups, nft tables, sysctls, processes of
    /// ours and files of ours.
    pub fn take() -> Snapshot {
        let mut all = BTreeSet::new();
        let mut add = |sort: &str, line: &str| all.insert(format!("{sort}: {line}"));
        for (sort, path) in [("route", "/proc/net/route"), ("route6", "/proc/net/ipv6_route")] {
            for line in read(path).lines() {
                // Counters differ from one look to the next; addresses and devices are the first and last words.
                let words: Vec<&str> = line.split_whitespace().collect();
                let short: Vec<&str> = words.iter().take(3).chain(words.last()).copied().collect();
                add(sort, &short.join(" "));
            }
        }
        for line in read("/proc/self/mountinfo").lines() {
            add("mount", line.split_whitespace().nth(4).unwrap_or_default());
        }
        for link in list("/sys/class/net") {
            add("link", &link);
        }
        for dir in ["/run/netns", "/run/coracle", "/var/lib/coracle", "/run"] {
            for name in list(dir) {
                add("file", &format!("{dir}/{name}"));
            }
        }
        // Each controller's own mount on v1, one mount on v2.
        let roots = list("/sys/fs/cgroup").into_iter().map(|root| root + "/");
        for root in [String::new()].into_iter().chain(roots) {
            let tree = format!("/sys/fs/cgroup/{root}coracle");
            let below = list(&tree).into_iter().map(|name| format!("{tree}/{name}"));
            for dir in below.chain([tree.clone()]).filter(|dir| Path::new(dir).is_dir()) {
                add("cgroup", &dir);
            }
        }
        for name in list("/sys/fs/cgroup/system.slice").into_iter().filter(|name| name.starts_with("coracle-t")) {
            add("scope", &name);
        }
        for name in [
            "ip_forward",
            "conf/all/forwarding",
            "conf/all/rp_filter",
            "conf/default/rp_filter",
            "conf/all/send_redirects",
        ] {
            add("sysctl", &format!("{name}={}", read(&format!("/proc/sys/net/ipv4/{name}")).trim()));
        }
        if let Ok(tables) = Command::new("nft").args(["list", "tables"]).output() {
            for line in String::from_utf8_lossy(&tables.stdout).lines() {
                add("nft", line);
            }
        }
        for pid in list("/proc").into_iter().filter(|p| p.bytes().all(|b| b.is_ascii_digit())) {
            let exe = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            // The file may have been built anew meanwhile: " (deleted)".
            let ours = exe.file_name().is_some_and(|n| n.to_string_lossy().split(' ').next() == Some("coracle"));
            if ours {
                add("process", &format!("{pid} {}", read(&format!("/proc/{pid}/cmdline")).replace('\0', " ")));
            }
        }
        Snapshot(all)
    }

    /// What is there now and was not, and the other way round.
    pub fn differences(&self, now: &Snapshot) -> Vec<String> {
        let new = now.0.difference(&self.0).map(|l| format!("new {l}"));
        new.chain(self.0.difference(&now.0).map(|l| format!("gone {l}"))).collect()
    }

    /// The lines with `word` in them.
    pub fn naming(&self, word: &str) -> Vec<&String> {
        self.0.iter().filter(|line| line.contains(word)).collect()
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn list(dir: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(Path::new(dir)) else {
        return Vec::new();
    };
    entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect()
}

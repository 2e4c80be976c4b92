//! `guest inspect`: what the kernel says about this process, as JSON.
use std::collections::BTreeMap;
use std::fs;

use serde_json::{Map, Value, json};

/// Prints [`report`].
pub fn print() -> anyhow::Result<()> {
    println!("{:#}", report());
    Ok(())
}

/// The hostname of the UTS namespace.
pub fn hostname() -> String {
    nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Everything, each part from its file under /proc; a part that cannot be read is null, since what is
/// masked is one of the things to see.
pub fn report() -> Value {
    let status = fs::read_to_string("/proc/self/status").map(|text| status(&text)).unwrap_or_default();
    json!({
        "hostname": hostname(),
        "pid": std::process::id(),
        "args": std::env::args().collect::<Vec<_>>(),
        "cwd": std::env::current_dir().ok(),
        "env": std::env::vars().collect::<BTreeMap<_, _>>(),
        "uid": status.get("Uid"),
        "gid": status.get("Gid"),
        "groups": status.get("Groups"),
        "capabilities": {
            "effective": status.get("CapEff"), "permitted": status.get("CapPrm"), "inheritable": status.get("CapInh"),
            "bounding": status.get("CapBnd"), "ambient": status.get("CapAmb"),
        },
        "seccomp": status.get("Seccomp"),
        "noNewPrivs": status.get("NoNewPrivs"),
        "oomScoreAdj": lines("/proc/self/oom_score_adj").and_then(|lines| lines.into_iter().next()),
        "cgroup": lines("/proc/self/cgroup"),
        "limits": fs::read_to_string("/proc/self/limits").ok().map(|text| limits(&text)),
        "namespaces": namespaces(),
        "mounts": fs::read_to_string("/proc/self/mountinfo").ok().map(|text| mounts(&text)),
        "links": links(),
        "resolvConf": lines("/etc/resolv.conf"),
        "hosts": lines("/etc/hosts"),
    })
}

fn lines(path: &str) -> Option<Vec<String>> {
    Some(fs::read_to_string(path).ok()?.lines().map(str::to_owned).collect())
}

/// `/proc/self/status`: ids as lists of numbers, capability masks as names, the rest as numbers.
fn status(text: &str) -> Map<String, Value> {
    let mut map = Map::new();
    for (key, value) in text.lines().filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        let parsed = match key {
            "Uid" | "Gid" | "Groups" => {
                json!(value.split_ascii_whitespace().filter_map(|id| id.parse::<u32>().ok()).collect::<Vec<_>>())
            }
            "Seccomp" | "NoNewPrivs" => json!(value.parse::<u32>().ok()),
            _ if key.starts_with("Cap") => json!(capabilities(u64::from_str_radix(value, 16).unwrap_or(0))),
            _ => continue,
        };
        map.insert(key.to_owned(), parsed);
    }
    map
}

fn capabilities(mask: u64) -> Vec<String> {
    let mut names: Vec<String> =
        caps::all().into_iter().filter(|cap| mask & cap.bitmask() != 0).map(|cap| cap.to_string()).collect();
    names.sort();
    names
}

/// `/proc/self/limits`: name → [soft, hard]; the columns are at fixed places, the names contain blanks.
fn limits(text: &str) -> Map<String, Value> {
    const NAME: usize = 26;
    let row = |line: &str| {
        let (name, rest) = (line.get(..NAME)?.trim(), line.get(NAME..)?);
        let mut words = rest.split_ascii_whitespace();
        Some((name.to_owned(), json!([words.next()?, words.next()?])))
    };
    text.lines().skip(1).filter_map(row).collect()
}

/// `/proc/self/mountinfo`: target, type, source and options; a line is `id parent dev root target options … - type source super`.
fn mounts(text: &str) -> Vec<Value> {
    let row = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let left: Vec<&str> = left.split(' ').collect();
        let right: Vec<&str> = right.split(' ').collect();
        Some(json!({
            "target": left.get(4)?, "root": left.get(3)?, "options": left.get(5)?, "propagation": left.get(6).copied().unwrap_or(""),
            "type": right.first()?, "source": right.get(1)?, "superOptions": right.get(2)?,
        }))
    };
    text.lines().filter_map(row).collect()
}

fn namespaces() -> Map<String, Value> {
    let name = |kind: &str| {
        let link = fs::read_link(format!("/proc/self/ns/{kind}")).ok()?;
        Some((kind.to_owned(), json!(link)))
    };
    ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"].into_iter().filter_map(name).collect()
}

/// Link name → addresses in CIDR form. A link without addresses is not seen through getifaddrs as more than its name.
fn links() -> BTreeMap<String, Vec<String>> {
    let mut links: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let Ok(all) = nix::ifaddrs::getifaddrs() else { return links };
    for entry in all {
        let addresses = links.entry(entry.interface_name).or_default();
        let Some(address) = entry.address else { continue };
        let prefix = |bytes: &[u8]| bytes.iter().map(|byte| byte.count_ones()).sum::<u32>();
        let mask = entry.netmask;
        if let Some(v4) = address.as_sockaddr_in() {
            let bits =
                mask.and_then(|mask| mask.as_sockaddr_in().map(|mask| prefix(&mask.ip().octets()))).unwrap_or(32);
            addresses.push(format!("{}/{bits}", v4.ip()));
        } else if let Some(v6) = address.as_sockaddr_in6() {
            let bits =
                mask.and_then(|mask| mask.as_sockaddr_in6().map(|mask| prefix(&mask.ip().octets()))).unwrap_or(128);
            addresses.push(format!("{}/{bits}", v6.ip()));
        }
    }
    links
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_parsed() {
        let status =
            status("Name:\tx\nUid:\t1000\t1000\t1000\t1000\nGroups:\t7 8\nSeccomp:\t2\nCapEff:\t0000000000000401\n");
        assert_eq!(status["Uid"], json!([1000, 1000, 1000, 1000]));
        assert_eq!(status["Groups"], json!([7, 8]));
        assert_eq!(status["CapEff"], json!(["CAP_CHOWN", "CAP_NET_BIND_SERVICE"]));
        let limits = limits(
            "Limit                     Soft Limit           Hard Limit           Units     \nMax open files            1024                 4096                 files     \n",
        );
        assert_eq!(limits["Max open files"], json!(["1024", "4096"]));
        let mounts = mounts("36 35 98:0 /root /mnt rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n");
        assert_eq!(mounts[0]["target"], "/mnt");
        assert_eq!(mounts[0]["type"], "ext3");
    }

    #[test]
    fn the_report_knows_this_process() {
        let report = report();
        assert_eq!(report["pid"], std::process::id());
        assert!(report["links"]["lo"].is_array());
    }
}

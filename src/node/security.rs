//! Who a container runs as and what it may do. Pure, given the image's /etc/passwd and /etc/group.
use super::spec;
use k8s_openapi::api::core::v1::{Capabilities, Container, Pod, PodSecurityContext, SecurityContext};
use std::collections::BTreeSet;

/// What a container gets unless the manifest says otherwise: Docker's set, which every runtime took over.
const DEFAULT: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// Every capability, for `privileged` and `add: [ALL]`.
const ALL: &[&str] = &[
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

/// The numeric identity of a container's first process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    /// From /etc/passwd; `HOME` of the process.
    pub home: Option<String>,
}

/// The files of an image that give names to numbers.
#[derive(Debug, Clone, Default)]
pub struct Accounts {
    pub passwd: String,
    pub group: String,
}

pub fn pod_context(pod: &Pod) -> PodSecurityContext {
    spec::spec(pod).security_context.clone().unwrap_or_default()
}

pub fn context(container: &Container) -> SecurityContext {
    container.security_context.clone().unwrap_or_default()
}

pub fn privileged(container: &Container) -> bool {
    context(container).privileged == Some(true)
}

/// Resolves who the container runs as; `image_user` is the image's `User`. Errors are worded as the kubelet does.
pub fn user(pod: &Pod, container: &Container, image_user: &str, accounts: &Accounts) -> Result<User, String> {
    let (of_pod, own) = (pod_context(pod), context(container));
    let (name, group) = match image_user.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (image_user, None),
    };
    let run_as = own.run_as_user.or(of_pod.run_as_user);
    not_root(pod, container, run_as, name)?;
    let wanted = run_as.map_or_else(|| name.to_string(), |uid| uid.to_string());
    let mut user = lookup(&wanted, accounts)?;
    if let (Some(group), None) = (group, run_as) {
        user.gid = lookup_group(group, accounts)?;
    }
    if let Some(gid) = own.run_as_group.or(of_pod.run_as_group) {
        user.gid = gid as u32;
    }
    // KEP-3619: what the image's /etc/group says of the user counts unless the pod is strict.
    if of_pod.supplemental_groups_policy.as_deref() == Some("Strict") {
        user.groups.clear();
    }
    let more = of_pod.supplemental_groups.iter().flatten().chain(&of_pod.fs_group);
    user.groups.extend(more.map(|gid| *gid as u32));
    user.groups.retain(|gid| *gid != user.gid);
    user.groups.sort_unstable();
    user.groups.dedup();
    Ok(user)
}

/// Whether `runAsNonRoot` lets the container run as `run_as`, or else as the image's user `name`.
fn not_root(pod: &Pod, container: &Container, run_as: Option<i64>, name: &str) -> Result<(), String> {
    let shown = format!("(pod: \"{}\", container: {})", spec::full_name(pod), container.name);
    let asked = context(container).run_as_non_root;
    let must_not_be_root = asked.or(pod_context(pod).run_as_non_root) == Some(true);
    if must_not_be_root {
        match run_as {
            Some(0) => {
                return Err(format!("container's runAsUser breaks non-root policy {shown}"));
            }
            None if !name.is_empty() && name.parse::<u32>().is_err() => {
                return Err(format!(
                    "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root {shown}"
                ));
            }
            None if name.is_empty() || name.parse() == Ok(0u32) => {
                return Err(format!("container has runAsNonRoot and image will run as root {shown}"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A user by name or number. A number needs no line in /etc/passwd, and is the uid whatever the image calls its users:
/// `runAsNonRoot` has judged it by that.
fn lookup(wanted: &str, accounts: &Accounts) -> Result<User, String> {
    let number = |text: &str| text.parse::<u32>().ok();
    let wanted = if wanted.is_empty() { "0" } else { wanted };
    let named = |f: &[&str]| number(wanted).map_or(f[0] == wanted, |uid| number(f[2]) == Some(uid));
    let mut lines = accounts.passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let line = lines.find(|f| f.len() >= 4 && named(f));
    match line {
        Some(fields) => Ok(User {
            uid: number(fields[2]).ok_or_else(|| no_user(wanted))?,
            gid: number(fields[3]).unwrap_or(0),
            groups: memberships(fields[0], accounts),
            home: fields.get(5).map(|home| home.to_string()).filter(|home| !home.is_empty()),
        }),
        None => match number(wanted) {
            Some(uid) => Ok(User { uid, ..User::default() }),
            None => Err(no_user(wanted)),
        },
    }
}

fn no_user(name: &str) -> String {
    format!("unable to find user {name}: no matching entries in passwd file")
}

/// Groups that list `user` (a name or a number whose name /etc/passwd knows) as a member.
fn memberships(user: &str, accounts: &Accounts) -> Vec<u32> {
    let lines = accounts.group.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let member = |f: &Vec<&str>| f.len() >= 4 && f[3].split(',').any(|name| name == user);
    lines.filter(member).filter_map(|f| f[2].parse().ok()).collect()
}

fn lookup_group(wanted: &str, accounts: &Accounts) -> Result<u32, String> {
    let mut lines = accounts.group.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let found = lines.find(|f| f.len() >= 3 && f[0] == wanted).and_then(|f| f[2].parse().ok());
    found
        .or_else(|| wanted.parse().ok())
        .ok_or_else(|| format!("unable to find group {wanted}: no matching entries in group file"))
}

/// The bounding set, `CAP_…`, sorted.
pub fn capabilities(container: &Container) -> BTreeSet<String> {
    let full = |name: &str| format!("CAP_{}", name.trim_start_matches("CAP_").to_uppercase());
    if privileged(container) {
        return ALL.iter().map(|name| full(name)).collect();
    }
    let asked: Capabilities = context(container).capabilities.unwrap_or_default();
    let (add, drop) = (asked.add.unwrap_or_default(), asked.drop.unwrap_or_default());
    let all = |names: &[String]| names.iter().any(|name| name.eq_ignore_ascii_case("ALL"));
    let mut set: BTreeSet<String> = match (all(&add), all(&drop)) {
        (true, _) => ALL.iter().map(|name| full(name)).collect(),
        (_, true) => BTreeSet::new(),
        _ => DEFAULT.iter().map(|name| full(name)).collect(),
    };
    for name in drop.iter().map(|name| full(name)) {
        set.remove(&name);
    }
    set.extend(add.iter().filter(|name| !name.eq_ignore_ascii_case("ALL")).map(|name| full(name)));
    set
}

/// Whether set-uid programs may give more than the container has.
pub fn may_escalate(container: &Container) -> bool {
    context(container).allow_privilege_escalation != Some(false) || privileged(container)
}

/// The type of the seccomp profile: the container's, the pod's, or ours.
pub fn seccomp(pod: &Pod, container: &Container) -> String {
    if privileged(container) {
        return "Unconfined".into();
    }
    let own = context(container).seccomp_profile;
    let profile = own.or(pod_context(pod).seccomp_profile);
    profile.map_or_else(|| "RuntimeDefault".into(), |profile| profile.type_)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(pod: serde_json::Value, container: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"},
            "spec": {"securityContext": pod, "containers": [{"name": "c", "securityContext": container}]}}))
        .unwrap()
    }

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n".into(),
            group: "root:x:0:\nvideo:x:44:app\nweb:x:33:\n".into(),
        }
    }

    fn resolved(p: serde_json::Value, c: serde_json::Value, image: &str) -> Result<(u32, u32, Vec<u32>), String> {
        let pod = pod(p, c);
        let user = user(&pod, &pod.spec.as_ref().unwrap().containers[0], image, &accounts())?;
        Ok((user.uid, user.gid, user.groups))
    }

    #[test]
    fn users_come_from_manifest_then_image() {
        assert_eq!(resolved(json!({}), json!({}), ""), Ok((0, 0, vec![])));
        assert_eq!(resolved(json!({}), json!({}), "app"), Ok((1000, 1001, vec![44])));
        assert_eq!(resolved(json!({}), json!({}), "app:web"), Ok((1000, 33, vec![44])));
        assert_eq!(resolved(json!({"runAsUser": 5, "fsGroup": 9}), json!({}), "app"), Ok((5, 0, vec![9])));
        let both = (json!({"runAsUser": 5, "supplementalGroups": [7]}), json!({"runAsUser": 1000, "runAsGroup": 3}));
        assert_eq!(resolved(both.0, both.1, ""), Ok((1000, 3, vec![7, 44])));
        assert!(resolved(json!({}), json!({}), "nobody").unwrap_err().contains("no matching entries"));
        let non_root = json!({"runAsNonRoot": true});
        assert!(resolved(non_root.clone(), json!({}), "").unwrap_err().contains("will run as root"));
        assert!(resolved(non_root.clone(), json!({}), "app").unwrap_err().contains("non-numeric user (app)"));
        assert_eq!(resolved(non_root, json!({}), "1000"), Ok((1000, 1001, vec![44])));
        let strict = json!({"supplementalGroups": [7], "supplementalGroupsPolicy": "Strict"});
        assert_eq!(resolved(strict.clone(), json!({}), "app"), Ok((1000, 1001, vec![7])));
        assert_eq!(resolved(strict, json!({}), "1000"), Ok((1000, 1001, vec![7])));
    }

    #[test]
    fn a_number_is_a_uid_whatever_the_image_calls_its_users() {
        let accounts = Accounts { passwd: "1000:x:0:0::/:/bin/sh\n".into(), group: String::new() };
        for (context, image) in [(json!({"runAsNonRoot": true, "runAsUser": 1000}), ""), (json!({}), "1000")] {
            let pod = pod(context, json!({}));
            let user = user(&pod, &pod.spec.as_ref().unwrap().containers[0], image, &accounts).unwrap();
            assert_eq!(user.uid, 1000);
        }
    }

    #[test]
    fn capabilities_are_added_and_dropped() {
        let of = |v: serde_json::Value| {
            let pod = pod(json!({}), v);
            capabilities(&pod.spec.as_ref().unwrap().containers[0])
        };
        assert_eq!(of(json!({})).len(), DEFAULT.len());
        let some = of(json!({"capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}));
        assert_eq!(some.into_iter().collect::<Vec<_>>(), ["CAP_NET_BIND_SERVICE"]);
        assert_eq!(of(json!({"privileged": true})).len(), ALL.len());
    }
}

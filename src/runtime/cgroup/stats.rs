//! What cgroups use.
use std::fs;

use super::{Layout, error, layout};
use crate::runtime::types::Result;

/// Use of one cgroup and everything below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// CPU time used since it was made, in nanoseconds.
    pub cpu_usage_ns: u64,
    /// Memory in use that cannot be dropped (usage less inactive file pages), in bytes.
    pub memory_working_set: u64,
    /// All memory in use, in bytes.
    pub memory_usage: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Processes killed by the kernel for want of memory since it was made.
    pub oom_kills: u64,
}

/// What a cgroup and its descendants use.
pub fn stats(path: &str) -> Result<Stats> {
    let layout = layout()?;
    let read = |controller: &str, file: &str| -> Result<String> {
        let dir = layout.dir(controller, path).ok_or_else(|| error(path, format!("no controller {controller}")))?;
        fs::read_to_string(dir.join(file)).map_err(|e| error(path, format!("{file}: {e}")))
    };
    let (v1, usage_file) = match layout {
        Layout::V1(_) => (true, "memory.usage_in_bytes"),
        Layout::V2 { .. } => (false, "memory.current"),
    };
    let memory_usage = number(&read("memory", usage_file)?);
    let memory_stat = read("memory", "memory.stat")?;
    let inactive = keyed(&memory_stat, if v1 { "total_inactive_file" } else { "inactive_file" });
    Ok(Stats {
        cpu_usage_ns: match v1 {
            true => number(&read("cpuacct", "cpuacct.usage")?),
            false => keyed(&read("cpu", "cpu.stat")?, "usage_usec") * 1000,
        },
        memory_usage,
        memory_working_set: memory_usage.saturating_sub(inactive),
        pids: number(&read("pids", "pids.current")?),
        oom_kills: keyed(&read("memory", if v1 { "memory.oom_control" } else { "memory.events" })?, "oom_kill"),
    })
}

fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or(0)
}

/// The number after `key` in lines of `key number`; 0 if there is none.
pub(in crate::runtime) fn keyed(text: &str, key: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')).map_or(0, number)
}

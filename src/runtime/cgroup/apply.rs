//! Limits, written by libcgroups.
use std::fs;
use std::path::{Path, PathBuf};

use libcgroups::common::{AnyCgroupManager, CgroupConfig, CgroupManager, ControllerOpt, create_cgroup_manager};
use oci_spec::runtime::LinuxResources;

use super::{Layout, error, layout};
use crate::runtime::types::Result;

fn manager(path: &str) -> Result<AnyCgroupManager> {
    create_cgroup_manager(CgroupConfig {
        cgroup_path: layout()?.name(path),
        systemd_cgroup: false,
        container_name: String::new(),
    })
    .map_err(|e| error(path, e))
}

/// Limits one cgroup.
pub(super) fn apply(path: &str, resources: &LinuxResources) -> Result<()> {
    let within = within_ancestors(layout()?, path, resources);
    let resources = within.as_ref().unwrap_or(resources);
    manager(path)?
        .apply(&ControllerOpt { resources, disable_oom_killer: false, oom_score_adj: None, freezer_state: None })
        .map_err(|e| error(path, e))
}

/// v1 refuses a quota that is more of the processor than an ancestor has. It would mean no more than the ancestor's, which
/// is therefore taken.
fn within_ancestors(layout: &Layout, path: &str, resources: &LinuxResources) -> Option<LinuxResources> {
    let cpu = resources.cpu().as_ref().filter(|_| matches!(layout, Layout::V1(_)))?;
    let (quota, period) = (cpu.quota().filter(|quota| *quota > 0)?, cpu.period()?);
    let share = |dir: PathBuf| {
        let read = |file: &str| fs::read_to_string(dir.join(file)).ok()?.trim().parse::<i64>().ok();
        Some((read("cpu.cfs_quota_us")?, read("cpu.cfs_period_us")?)).filter(|(quota, _)| *quota > 0)
    };
    let above = Path::new(path).ancestors().skip(1).find_map(|above| share(layout.dir("cpu", above.to_str()?)?));
    let (most, of) = above?;
    let allowed = most.saturating_mul(i64::try_from(period).ok()?) / of.max(1);
    let mut within = resources.clone();
    let mut cpu = cpu.clone();
    cpu.set_quota(Some(allowed));
    within.set_cpu(Some(cpu));
    (quota > allowed).then_some(within)
}

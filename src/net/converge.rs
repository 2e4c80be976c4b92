//! Makes the inside of a named namespace what a view says: reads, plans, performs.
use super::{
    Result, kernel, netns,
    socket::Netlink,
    view::{Step, View, plan},
};
use std::{collections::BTreeMap, path::Path};

/// What came of it.
pub struct Converged {
    /// How much had to be changed.
    pub steps: usize,
    /// Number of each link by name.
    pub index: BTreeMap<String, u32>,
}

/// `nl` is a socket inside the namespace at `path`. Only the links that `desired` names are looked at; `complete` finishes
/// it, knowing what is there.
pub fn converge(
    path: &Path,
    nl: &mut Netlink,
    mut desired: View,
    complete: impl FnOnce(&mut View, &View),
) -> Result<Converged> {
    let names: Vec<_> = desired.links.iter().map(|l| l.name.clone()).collect();
    let mut seen = kernel::observe(nl, &names.iter().map(String::as_str).collect::<Vec<_>>())?;
    seen.view.sysctls = netns::inside(path, || netns::read_sysctls(desired.sysctls.keys()))??;
    complete(&mut desired, &seen.view);
    let steps = plan(&desired, &seen.view);
    let sysctls: Vec<_> = steps
        .iter()
        .filter_map(|s| match s {
            Step::Sysctl { path, value } => Some((path.as_str(), value.as_str())),
            _ => None,
        })
        .collect();
    if !sysctls.is_empty() {
        netns::inside(path, || sysctls.iter().try_for_each(|(path, value)| netns::write_sysctl(path, value)))??;
    }
    kernel::perform(nl, &mut seen.index, &steps, None)?;
    Ok(Converged { steps: steps.len(), index: seen.index })
}

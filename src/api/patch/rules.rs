//! How lists and maps merge: the rows Kubernetes keeps as struct tags (`patchMergeKey`, `patchStrategy`, `listType`,
//! `listMapKey`), which JSON schemas do not carry. What has no row is atomic.

/// How server-side apply sees a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListType {
    /// Owned as a whole.
    Atomic,
    /// Of scalars, each owned by itself.
    Set,
    /// Of objects, identified by these fields.
    Map(&'static [&'static str]),
}

/// How a strategic merge patch treats a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patch {
    /// The patch's value replaces (objects still merge).
    Replace,
    /// A list of objects merges by this key.
    Merge(&'static str),
    /// As `Merge`, and `$retainKeys` is understood in the items.
    MergeRetain(&'static str),
    /// A list of scalars merges as a set.
    MergeSet,
}

/// One field that is not simply atomic.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// Last parts of the struct's name: `core.v1.PodSpec`.
    pub owner: &'static str,
    /// The field.
    pub field: &'static str,
    /// For server-side apply.
    pub list: ListType,
    /// For strategic merge patches.
    pub patch: Patch,
    /// A map that is owned as a whole.
    pub atomic_map: bool,
}

const fn keyed(owner: &'static str, field: &'static str, keys: &'static [&'static str]) -> Rule {
    Rule { owner, field, list: ListType::Map(keys), patch: Patch::Merge(keys[0]), atomic_map: false }
}
const fn retain(owner: &'static str, field: &'static str, keys: &'static [&'static str]) -> Rule {
    Rule { owner, field, list: ListType::Map(keys), patch: Patch::MergeRetain(keys[0]), atomic_map: false }
}
const fn set(owner: &'static str, field: &'static str, patch: Patch) -> Rule {
    Rule { owner, field, list: ListType::Set, patch, atomic_map: false }
}
/// A list map that strategic merge patches nevertheless replace.
const fn applied(owner: &'static str, field: &'static str, keys: &'static [&'static str]) -> Rule {
    Rule { owner, field, list: ListType::Map(keys), patch: Patch::Replace, atomic_map: false }
}
/// A list that strategic merge patches merge but server-side apply takes as a whole.
const fn patched(owner: &'static str, field: &'static str, key: &'static str) -> Rule {
    Rule { owner, field, list: ListType::Atomic, patch: Patch::Merge(key), atomic_map: false }
}
const fn atomic_map(owner: &'static str, field: &'static str) -> Rule {
    Rule { owner, field, list: ListType::Atomic, patch: Patch::Replace, atomic_map: true }
}

/// The rows. The first key of a row is also its patch merge key, as in Kubernetes.
pub const RULES: &[Rule] = &[
    keyed("meta.v1.ObjectMeta", "ownerReferences", &["uid"]),
    set("meta.v1.ObjectMeta", "finalizers", Patch::MergeSet),
    keyed("core.v1.PodSpec", "containers", &["name"]),
    keyed("core.v1.PodSpec", "initContainers", &["name"]),
    keyed("core.v1.PodSpec", "ephemeralContainers", &["name"]),
    retain("core.v1.PodSpec", "volumes", &["name"]),
    retain("core.v1.PodSpec", "resourceClaims", &["name"]),
    keyed("core.v1.PodSpec", "imagePullSecrets", &["name"]),
    keyed("core.v1.PodSpec", "hostAliases", &["ip"]),
    keyed("core.v1.PodSpec", "schedulingGates", &["name"]),
    keyed("core.v1.PodSpec", "topologySpreadConstraints", &["topologyKey", "whenUnsatisfiable"]),
    atomic_map("core.v1.PodSpec", "nodeSelector"),
    keyed("core.v1.PodStatus", "conditions", &["type"]),
    keyed("core.v1.PodStatus", "podIPs", &["ip"]),
    patched("core.v1.PodStatus", "hostIPs", "ip"),
    retain("core.v1.PodStatus", "resourceClaimStatuses", &["name"]),
    keyed("core.v1.Container", "env", &["name"]),
    keyed("core.v1.Container", "ports", &["containerPort", "protocol"]),
    keyed("core.v1.Container", "volumeMounts", &["mountPath"]),
    keyed("core.v1.Container", "volumeDevices", &["devicePath"]),
    keyed("core.v1.EphemeralContainer", "env", &["name"]),
    keyed("core.v1.EphemeralContainer", "ports", &["containerPort", "protocol"]),
    keyed("core.v1.EphemeralContainer", "volumeMounts", &["mountPath"]),
    keyed("core.v1.EphemeralContainer", "volumeDevices", &["devicePath"]),
    keyed("core.v1.ContainerStatus", "volumeMounts", &["mountPath"]),
    keyed("core.v1.ContainerStatus", "allocatedResourcesStatus", &["name"]),
    applied("core.v1.ResourceStatus", "resources", &["resourceID"]),
    applied("core.v1.ResourceRequirements", "claims", &["name"]),
    set("core.v1.ContainerRestartRuleOnExitCodes", "values", Patch::Replace),
    keyed("core.v1.ServiceSpec", "ports", &["port", "protocol"]),
    atomic_map("core.v1.ServiceSpec", "selector"),
    keyed("core.v1.ServiceStatus", "conditions", &["type"]),
    keyed("core.v1.ServiceAccount", "secrets", &["name"]),
    set("core.v1.NodeSpec", "podCIDRs", Patch::MergeSet),
    keyed("core.v1.NodeStatus", "addresses", &["type"]),
    keyed("core.v1.NodeStatus", "conditions", &["type"]),
    keyed("core.v1.NamespaceStatus", "conditions", &["type"]),
    keyed("core.v1.PersistentVolumeClaimStatus", "conditions", &["type"]),
    keyed("core.v1.ReplicationControllerStatus", "conditions", &["type"]),
    atomic_map("core.v1.ReplicationControllerSpec", "selector"),
    keyed("apps.v1.DeploymentStatus", "conditions", &["type"]),
    keyed("apps.v1.ReplicaSetStatus", "conditions", &["type"]),
    keyed("apps.v1.DaemonSetStatus", "conditions", &["type"]),
    keyed("apps.v1.StatefulSetStatus", "conditions", &["type"]),
    keyed("batch.v1.JobStatus", "conditions", &["type"]),
    set("discovery.v1.Endpoint", "addresses", Patch::Replace),
];

/// Structs that server-side apply takes as a whole (`structType=atomic`).
pub const ATOMIC_STRUCTS: &[&str] = &[
    "io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector",
    "io.k8s.apimachinery.pkg.apis.meta.v1.OwnerReference",
    "io.k8s.api.core.v1.ConfigMapKeySelector",
    "io.k8s.api.core.v1.EndpointAddress",
    "io.k8s.api.core.v1.EndpointPort",
    "io.k8s.api.core.v1.FileKeySelector",
    "io.k8s.api.core.v1.LocalObjectReference",
    "io.k8s.api.core.v1.NodeSelector",
    "io.k8s.api.core.v1.NodeSelectorTerm",
    "io.k8s.api.core.v1.ObjectFieldSelector",
    "io.k8s.api.core.v1.ObjectReference",
    "io.k8s.api.core.v1.ResourceFieldSelector",
    "io.k8s.api.core.v1.ScopeSelector",
    "io.k8s.api.core.v1.ScopedResourceSelectorRequirement",
    "io.k8s.api.core.v1.SecretKeySelector",
    "io.k8s.api.core.v1.SecretReference",
    "io.k8s.api.core.v1.TopologySelectorTerm",
    "io.k8s.api.core.v1.TypedLocalObjectReference",
    "io.k8s.api.discovery.v1.EndpointPort",
    "io.k8s.api.rbac.v1.RoleRef",
    "io.k8s.api.rbac.v1.Subject",
];

/// The row of a field, by the full name of the struct.
pub fn find(owner: &str, field: &str) -> Option<&'static Rule> {
    RULES.iter().find(|r| r.field == field && owner.ends_with(r.owner))
}

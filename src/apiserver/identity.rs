//! Who sends a request.
use std::collections::BTreeMap;

/// The group whose members may do everything, without asking RBAC.
pub const MASTERS: &str = "system:masters";
/// The group of everybody who is somebody.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group of everybody who is nobody.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// Prefix of the user name of a service account: `system:serviceaccount:<namespace>:<name>`.
pub const SERVICE_ACCOUNT: &str = "system:serviceaccount:";
/// Prefix of the user name of a node.
pub const NODE: &str = "system:node:";

/// An authenticated user. A listener or an in-process client puts it into the request's extensions; nobody else can,
/// so finding one there is proof.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    /// User name.
    pub user: String,
    /// Unique id, where the source has one.
    pub uid: String,
    /// Groups, without the implied ones (`system:authenticated`).
    pub groups: Vec<String>,
    /// Whatever else the source said.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Identity {
    /// A user in groups.
    pub fn new(user: impl Into<String>, groups: &[&str]) -> Self {
        Self { user: user.into(), groups: groups.iter().map(|&g| g.to_owned()).collect(), ..Self::default() }
    }

    /// Root over the unix socket, and whoever composes the cluster.
    pub fn master(user: impl Into<String>) -> Self {
        Self::new(user, &[MASTERS])
    }

    /// A node's agent.
    pub fn node(name: &str) -> Self {
        Self::new(format!("{NODE}{name}"), &["system:nodes"])
    }

    /// A service account.
    pub fn service_account(namespace: &str, name: &str) -> Self {
        let groups = ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
        Self { user: format!("{SERVICE_ACCOUNT}{namespace}:{name}"), groups: groups.to_vec(), ..Self::default() }
    }

    /// Whoever sends no credentials.
    pub fn anonymous() -> Self {
        Self::new("system:anonymous", &[UNAUTHENTICATED])
    }

    /// Whether this is [`Identity::anonymous`].
    pub fn is_anonymous(&self) -> bool {
        self.groups.iter().any(|g| g == UNAUTHENTICATED)
    }

    /// The name of the node this is the agent of.
    pub fn node_name(&self) -> Option<&str> {
        let is_node = self.groups.iter().any(|g| g == "system:nodes");
        self.user.strip_prefix(NODE).filter(|_| is_node)
    }

    /// Namespace and name of the service account this is.
    pub fn service_account_name(&self) -> Option<(&str, &str)> {
        self.user.strip_prefix(SERVICE_ACCOUNT)?.split_once(':')
    }

    /// The same with the group every authenticated user is in.
    pub(super) fn with_implied_groups(mut self) -> Self {
        if !self.is_anonymous() && !self.groups.iter().any(|g| g == AUTHENTICATED) {
            self.groups.push(AUTHENTICATED.to_owned());
        }
        self
    }
}

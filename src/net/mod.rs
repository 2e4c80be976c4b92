//! The network: virtual nodes, the overlay between them, pod links, and the services' nf_tables table.
//!
//! ```text
//! host              cr-<tag> 172.30.0.1/24                                           masquerade to the outside
//! ─────────────────────┬───────────────────────────────────────────────────────────────────────────────────
//! switch (a netns)    eth0 ── br0 ──(veth)── cr-<tag>-1 … cr-<tag>-N
//! ─────────────────────────────────────────────┬───────────────────────────────────────────────────────────
//! node (a netns)    eth0 172.30.0.11 ── vxlan0 (over eth0, to the other nodes)
//!                   routes, nf_tables: services          cbr0 10.244.1.1/24
//! ─────────────────────────────────────────────────────────┬───────────────────────────────────────────────
//! pod (a netns)     eth0 10.244.1.2/32 ──(veth)── veth<hash>
//! ```
//!
//! Three layers, each a pure plan with a thin driver:
//! - `layout` says what host, node and pod should look like; `view` is the language (links, addresses, routes,
//!   neighbours, FDB, sysctls) and the plan from what is there to what should be; `kernel` reads and writes it over
//!   rtnetlink.
//! - `services` says what a node's table should be; `nft` has the language, the difference and the transaction.
//! - `socket` and `attr` are netlink itself, for both.
//!
//! Two ideas carry the rest. Addresses decide everything: MACs, VTEPs and link names follow from them, so that a node needs
//! to know of a peer only what its Node object says, and nothing is learned or flooded. And pods have a /32 with everything
//! routed through the node, even to a pod next door, so that every packet of a service passes the node's router on the way
//! there and back. Because every plan starts from what the kernel says, a daemon that starts again adopts what runs.
//!
//! A pod's packet costs no more translation than its service needs: pods, nodes and overlay keep source addresses; only what
//! leaves the cluster, comes from outside the pod network to a service, or returns to its own sender is masqueraded.
//!
//! Left out: IPv6, network policies, traffic shaping, host-gw routing. The host's own forwarding, sysctls and foreign
//! tables are never touched.
mod attr;
mod conntrack;
mod converge;
mod error;
mod guard;
mod host;
mod ipam;
mod kernel;
mod layout;
mod model;
mod netns;
mod nft;
mod node;
mod services;
mod socket;
mod view;

pub use error::{Error, Result};
pub use guard::guard;
pub use ipam::Ipam;
pub use model::{Cluster, Endpoint, NodeNet, Protocol, ServicePort, Services, VXLAN_OVERHEAD, mac};
pub use nft::{ForeignChain, foreign_chains};
pub use node::{NodeHandle, Nodes, PodLink, ensure_host, node, teardown};

#[cfg(test)]
mod tests;

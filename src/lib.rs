//! coracle: a whole Kubernetes on one Linux host. The modules below are the rooms, in layer order;
//! `ARCHITECTURE.md` walks one `apply` through them.
pub mod api; // L1 vocabulary: kinds, quantities, selectors, patches, errors
pub mod sys; // L1 every unsafe and every raw syscall

pub mod image; // L2 OCI images: import, build, layers
pub mod net; // L2 links, routes, VXLAN, nf_tables
pub mod runtime; // L2 OCI runtime and the shim
pub mod store; // L2 revisioned keys, durable

pub mod apiserver; // L3 the Kubernetes API
pub mod client; // L3 the only door to it

pub mod controllers; // L4 one file a controller
pub mod dns; // L4 names -> records
pub mod node; // L4 the kubelet's job
pub mod proxy; // L4 services -> nf_tables
pub mod scheduler; // L4 pods -> nodes, with reasons

pub mod cli; // L5 one file a verb
pub mod daemon; // L5 composition root
pub mod guest; // L5 the program inside our demo and test images
pub mod lens; // L5 what stands behind an object

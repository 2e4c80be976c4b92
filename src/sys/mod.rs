//! Every unsafe line and every raw system call.
//!
//! The rest of the program is safe Rust; what the standard library and `nix` do not offer, or offer only as an unsafe
//! function, is wrapped here into functions that cannot be misused: descriptors are owned, strings end where they should,
//! and what is only sound under a condition (one thread, say) checks that condition itself.
//!
//! [`Sys`] is the door through which a container is set up. [`Linux`] is the real one; [`Recorder`] writes down what
//! would have been asked of the kernel, which is what the golden tests compare.
mod bpf;
mod door;
mod linux;
mod memory;
mod mount;
mod netns;
mod process;
mod recorder;
mod socket;
mod terminal;

pub use bpf::attach_device_program;
pub use door::{CapSets, Device, DeviceKind, Sys};
pub use linux::Linux;
pub use memory::{give_back_pages, memfd};
pub use mount::{
    MountAttr, attr, bind_tree, is_dir, make_beneath, make_dirs, make_file, move_tree, open_beneath, set_attr,
    set_tree_attr,
};
pub use netns::{in_netns, loopback_up};
pub use process::{
    Fork, clone_process, close_inherited, close_on_exec_from, default_signals, die_with_parent, ignore_signals,
    load_seccomp, pidfd_open, pidfd_signal, reap,
};
pub use recorder::Recorder;
pub use socket::{
    Packet, PeerCred, accept_packet, async_fd, connect_packet, listen_packet, packet_pair, peer_cred, recv_packet,
    send_packet,
};
pub use terminal::{make_controlling, open_pty, set_size};

/// An I/O error without Rust's "(os error 2)", in the lower case of C and Go.
pub fn plain(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => nix::errno::Errno::from_raw(code).desc().to_lowercase(),
        None => error.to_string(),
    }
}

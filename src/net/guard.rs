//! Keeps our table on the host: `nft -f /etc/nftables.conf`, firewalld or a person may flush the whole rule set, and
//! with it what is not theirs.
//!
//! The kernel announces every transaction of a namespace's rule set to a netlink group. An announcement says only "look
//! again": the table is compared with what it should be, whatever the announcement was about, our own included; after
//! that one there is nothing to do, so it ends. Nothing polls. The nodes' tables live in namespaces of ours, which
//! nobody else's firewall knows; they need no guard.
use super::{Cluster, Error, Result, nft, services};
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols::NETLINK_NETFILTER};

/// `NFNLGRP_NFTABLES`.
const GROUP: u32 = 7;

/// Puts the host's table back whenever somebody else's transaction removed or changed it. Runs until dropped.
///
/// Errors: the announcements cannot be subscribed to. A failed repair is logged; the next announcement tries again.
pub async fn guard(cluster: &Cluster) -> Result<()> {
    let failed = |source| Error::Kernel { what: "listening for changes of nf_tables".into(), source };
    let mut socket = TokioSocket::new(NETLINK_NETFILTER).map_err(failed)?;
    socket.socket_mut().bind(&SocketAddr::new(0, 0)).map_err(failed)?;
    socket.socket_mut().add_membership(GROUP).map_err(failed)?;
    // What happened before we listened.
    restore(cluster).await;
    loop {
        match socket.recv_from_full().await {
            Ok(_) => {}
            // More was announced than fits: look, as for any announcement.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
            Err(error) => return Err(failed(error)),
        }
        // A reload is a burst of announcements; one look after it is enough.
        while futures::FutureExt::now_or_never(socket.recv_from_full()).is_some_and(|r| r.is_ok()) {}
        restore(cluster).await;
    }
}

async fn restore(cluster: &Cluster) {
    let table = services::host_table(cluster);
    let name = table.name.clone();
    let done = tokio::task::spawn_blocking(move || nft::Nft::open()?.sync(&table)).await;
    match done {
        Ok(Ok(0)) => {}
        Ok(Ok(changes)) => {
            tracing::info!(changes, "somebody changed nf_tables table {name}; restored")
        }
        Ok(Err(error)) => tracing::warn!("restoring nf_tables table {name}: {error}"),
        Err(error) => tracing::debug!("shutting down: {error}"),
    }
}

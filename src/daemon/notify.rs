//! Tells the service manager that the cluster is ready, if one started us and wants to know (sd_notify(3)).
use std::io::Result;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// What the service manager may be told.
pub const READY: &str = "READY=1";
pub const STOPPING: &str = "STOPPING=1";

/// Sends one state. Nobody asked, or nobody listens: then it is nobody's business.
pub fn notify(state: &str) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    if let Err(error) = send(name.as_encoded_bytes(), state) {
        tracing::warn!("telling the service manager {state}: {error}");
    }
}

fn send(name: &[u8], state: &str) -> Result<()> {
    let address = match name.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => {
            SocketAddr::from_pathname(std::path::Path::new(std::str::from_utf8(name).map_err(std::io::Error::other)?))?
        }
    };
    let socket = UnixDatagram::unbound()?;
    socket.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_address_are_understood() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("coracle-test-{}", std::process::id());
        let abstract_address = SocketAddr::from_abstract_name(&name).unwrap();
        for (listener, address) in [
            (UnixDatagram::bind(&path).unwrap(), path.to_str().unwrap().to_owned()),
            (UnixDatagram::bind_addr(&abstract_address).unwrap(), format!("@{name}")),
        ] {
            send(address.as_bytes(), READY).unwrap();
            let mut buffer = [0; 16];
            let n = listener.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..n], READY.as_bytes());
        }
    }
}

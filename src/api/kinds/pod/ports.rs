//! Validation of a container's ports.
use crate::api::kinds::check::At;
use crate::api::kinds::names;

/// The ports of a container.
pub fn validate(container: &At) {
    let mut seen = Vec::new();
    for port in container.each("ports") {
        port.form("name", names::port_name);
        port.unique("name", &mut seen);
        match port.int("containerPort").unwrap_or(0) {
            0 => port.child("containerPort").required(""),
            _ => port.port("containerPort"),
        }
        if port.int("hostPort").unwrap_or(0) != 0 {
            port.port("hostPort");
        }
        port.one_of("protocol", &["TCP", "UDP", "SCTP"]);
    }
}

/// Two containers of a pod may not want one host port.
pub fn host_ports(container: &At, seen: &mut Vec<String>) {
    for port in container.each("ports") {
        let Some(number) = port.int("hostPort").filter(|n| *n != 0) else {
            continue;
        };
        let text = format!("{}/{}/{number}", port.text("protocol"), port.text("hostIP"));
        if seen.contains(&text) {
            port.child("hostPort").duplicate_as(text.as_str());
        }
        seen.push(text);
    }
}

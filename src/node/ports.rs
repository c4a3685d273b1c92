//! Free ports on loopback that nobody else of this home has been promised.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};

use super::config::Ports;
use super::config::Role;
use crate::failure::{Failure, Result};

/// Below the range from which systems take ports for outgoing connections, so that a node that is stopped for a
/// while finds its ports free again.
const FIRST: u16 = 20_000;
const LAST: u16 = 32_000;

/// Whether a port can be listened on now.
pub fn free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Refuses to start a node of which another process has taken a port since it was made.
pub fn still_free(name: &str, role: Role, ports: &Ports) -> Result<()> {
    let listens = [
        ("its API server", ports.api_server, role == Role::ControlPlane),
        ("its pods' proxy", ports.proxy, true),
        ("its kubelet", ports.kubelet, true),
        ("its controller manager", ports.controller_manager, role == Role::ControlPlane),
        ("its scheduler", ports.scheduler, role == Role::ControlPlane),
    ];
    match listens.into_iter().find(|(_, port, mine)| *mine && !free(*port)) {
        Some((whose, port, _)) => Err(Failure::preflight(format!(
            "node {name} cannot start: port {port} of {whose} is taken by another process"
        ))
        .hint(format!("see whose it is, and end it: ss -ltnp 'sport = :{port}'"))),
        None => Ok(()),
    }
}

/// Chooses ports for a node; `taken` are those promised to other nodes.
pub fn choose(role: Role, api_server: Option<u16>, taken: &BTreeSet<u16>) -> Result<Ports> {
    if let (Role::ControlPlane, Some(port)) = (role, api_server) {
        if taken.contains(&port) {
            return Err(Failure::preflight(format!("port {port} for the API server belongs to another node"))
                .hint("choose another port, or none: a free one is found then"));
        }
        if !free(port) {
            return Err(Failure::preflight(format!("port {port} for the API server is taken by another process"))
                .hint("choose another port, or none: a free one is found then"));
        }
    }
    let span = LAST - FIRST;
    let start = rand::random_range(0..span);
    let mut candidates = (0..span)
        .map(|step| FIRST + (start + step) % span)
        .filter(|port| !taken.contains(port) && Some(*port) != api_server && free(*port));
    let mut next =
        || candidates.next().ok_or_else(|| Failure::preflight(format!("no port between {FIRST} and {LAST} is free")));
    let ports = match role {
        Role::ControlPlane => Ports {
            api_server: api_server.map_or_else(&mut next, Ok)?,
            proxy: next()?,
            kubelet: next()?,
            controller_manager: next()?,
            scheduler: next()?,
        },
        Role::Worker => Ports {
            api_server: api_server.unwrap_or_default(),
            proxy: next()?,
            kubelet: next()?,
            controller_manager: 0,
            scheduler: 0,
        },
    };
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Kind;

    #[test]
    fn chosen_ports_differ_and_avoid_promised_ones() {
        let first = choose(Role::ControlPlane, None, &BTreeSet::new()).unwrap();
        let taken = first.all();
        assert_eq!(taken.len(), 5);
        let second = choose(Role::ControlPlane, None, &taken).unwrap();
        assert!(taken.is_disjoint(&second.all()));
    }

    #[test]
    fn a_taken_port_is_named() {
        let holder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = holder.local_addr().unwrap().port();
        let error = choose(Role::ControlPlane, Some(port), &BTreeSet::new()).unwrap_err();
        assert_eq!(error.kind, Kind::Preflight);
        assert_eq!(error.message, format!("port {port} for the API server is taken by another process"));
    }
}

//! Real ports for container ports: pods share the host's loopback, so two of them cannot both have 9443.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};

/// The range that real ports come from: above the well-known ones, below those that Linux gives to outgoing
/// connections and those that nodes take, so that nobody takes one by chance between our choice and the program's start. At 19000
/// Cluster API's docker provider listens, and says so nowhere.
const FIRST: u16 = 10_000;
const LAST: u16 = 18_999;

/// The real ports that pods of this node hold.
#[derive(Clone, Debug, Default)]
pub struct PortPool(Arc<Mutex<BTreeSet<u16>>>);

impl PortPool {
    /// Takes a free port; `None` when there is none.
    pub fn take(&self) -> Option<u16> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Begins at a random port: other nodes on this host choose from the same range.
        let start: u16 = rand::random_range(FIRST..=LAST);
        let port = (start..=LAST).chain(FIRST..start).find(|port| !held.contains(port) && is_free(*port))?;
        held.insert(port);
        Some(port)
    }

    fn release(&self, port: u16) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&port);
    }
}

/// Whether a program could listen on a port now.
fn is_free(port: u16) -> bool {
    // Programs listen on loopback or on every address; the latter fails when anybody has the port.
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
}

/// The real ports of one pod, given back when the pod is gone.
#[derive(Debug, Default)]
pub struct PodPorts {
    pool: PortPool,
    real: BTreeMap<u16, u16>,
}

impl PodPorts {
    /// No ports yet.
    pub fn new(pool: PortPool) -> Self {
        Self { pool, real: BTreeMap::new() }
    }

    /// The real port of a container port.
    pub fn real(&self, container_port: u16) -> Option<u16> {
        self.real.get(&container_port).copied()
    }

    /// The real port of a container port, taken now if there is none yet.
    pub fn assign(&mut self, container_port: u16) -> Result<u16, String> {
        if let Some(real) = self.real(container_port) {
            return Ok(real);
        }
        let real = self.pool.take().ok_or_else(|| format!("no free port between {FIRST} and {LAST} on this host"))?;
        self.real.insert(container_port, real);
        Ok(real)
    }

    /// Takes another real port for each of the given ones that somebody else listens on; returns whether any changed.
    pub fn refresh(&mut self, container_ports: &BTreeSet<u16>) -> bool {
        let mut changed = false;
        for (container, real) in &mut self.real {
            if container_ports.contains(container)
                && !is_free(*real)
                && let Some(other) = self.pool.take()
            {
                self.pool.release(*real);
                *real = other;
                changed = true;
            }
        }
        changed
    }

    /// The map as the pod's annotation carries it: `{"9443":20123}`.
    pub fn annotation(&self) -> String {
        let map: serde_json::Map<_, _> = self.real.iter().map(|(c, r)| (c.to_string(), (*r).into())).collect();
        serde_json::Value::Object(map).to_string()
    }

    /// Ports that are given, for tests.
    #[cfg(test)]
    pub fn fixed(ports: impl IntoIterator<Item = (u16, u16)>) -> Self {
        Self { pool: PortPool::default(), real: ports.into_iter().collect() }
    }
}

impl Drop for PodPorts {
    fn drop(&mut self) {
        for port in self.real.values() {
            self.pool.release(*port);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_distinct_stable_and_given_back() {
        let pool = PortPool::default();
        let mut ports = PodPorts::new(pool.clone());
        let first = ports.assign(9443).unwrap();
        assert_eq!(ports.assign(9443).unwrap(), first);
        assert_ne!(ports.assign(9440).unwrap(), first);
        assert_eq!(pool.0.lock().unwrap().len(), 2);
        assert!(ports.annotation().contains(&format!("\"9443\":{first}")));
        drop(ports);
        assert!(pool.0.lock().unwrap().is_empty());
    }

    #[test]
    fn a_port_that_somebody_took_is_replaced() {
        let mut ports = PodPorts::new(PortPool::default());
        let first = ports.assign(80).unwrap();
        let _somebody = TcpListener::bind((Ipv4Addr::LOCALHOST, first)).unwrap();
        assert!(ports.refresh(&BTreeSet::from([80])));
        assert_ne!(ports.real(80).unwrap(), first);
        assert!(!ports.refresh(&BTreeSet::from([80])));
    }
}

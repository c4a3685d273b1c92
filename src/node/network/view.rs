//! What the network knows of the cluster, and where a connection goes: pure.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicUsize, Ordering};

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Annotation of a Pod: its ports as `{"containerPort": realPort}`.
pub const PORTS_ANNOTATION: &str = "local.cluster-init.dev/ports";

/// Annotation of a Node: where its kubelet role really listens.
pub const KUBELET_PORT_ANNOTATION: &str = "local.cluster-init.dev/kubelet-port";

/// A namespaced name.
pub type Key = (String, String);

/// Where a connection goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A real port on loopback.
    Loopback(u16),
    /// A host outside the cluster.
    External(String, u16),
    /// Nowhere; a later try may succeed.
    Unavailable(String),
}

#[derive(Clone, Debug, Default)]
struct ServiceEntry {
    ips: Vec<IpAddr>,
    ports: Vec<(Option<String>, u16)>,
    external_name: Option<String>,
    headless: bool,
    /// For headless Services without slices that name ports: target ports by Service port.
    targets: HashMap<u16, u16>,
}

#[derive(Clone, Debug, Default)]
struct SliceEntry {
    service: Key,
    ports: Vec<(Option<String>, Option<u16>)>,
    /// Address, host name, readiness.
    endpoints: Vec<(String, Option<String>, bool)>,
}

#[derive(Clone, Debug, Default)]
struct PodEntry {
    ips: Vec<IpAddr>,
    ports: BTreeMap<u16, u16>,
}

/// The network's picture of the cluster.
#[derive(Debug)]
pub struct View {
    api_server_port: u16,
    domain: String,
    service_range: Option<Range>,
    services: HashMap<Key, ServiceEntry>,
    slices: HashMap<Key, SliceEntry>,
    pods: HashMap<Key, PodEntry>,
    /// Node's name to its addresses and its kubelet's real port.
    nodes: HashMap<String, (Vec<IpAddr>, u16, u16)>,
    turn: AtomicUsize,
}

fn key(namespace: Option<&String>, name: Option<&String>) -> Key {
    (namespace.cloned().unwrap_or_default(), name.cloned().unwrap_or_default())
}

fn port(number: i32) -> u16 {
    u16::try_from(number).unwrap_or_default()
}

/// A range of addresses.
pub type Range = (Ipv4Addr, u8);

/// Pods' and nodes' addresses, which nothing may dial.
const FICTIONAL: Range = (Ipv4Addr::new(198, 18, 0, 0), 15);

/// Longest chain of Services that are names of others.
const LONGEST_CHAIN: u8 = 4;

/// Whether an address lies in a range.
pub fn within(address: Ipv4Addr, (base, bits): Range) -> bool {
    let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
    u32::from(address) & mask == u32::from(base) & mask
}

/// Reads `10.96.0.0/16`.
pub fn range(text: &str) -> Option<Range> {
    let (base, bits) = text.split_once('/')?;
    Some((base.parse().ok()?, bits.parse().ok().filter(|bits| *bits <= 32)?))
}

impl View {
    /// An empty view.
    pub fn new(api_server_port: u16, domain: &str, service_cidr: &str) -> Self {
        Self {
            api_server_port,
            domain: domain.to_owned(),
            service_range: range(service_cidr),
            services: HashMap::new(),
            slices: HashMap::new(),
            pods: HashMap::new(),
            nodes: HashMap::new(),
            turn: AtomicUsize::new(0),
        }
    }

    /// Takes a Service in.
    pub fn set_service(&mut self, service: &Service) {
        let spec = service.spec.clone().unwrap_or_default();
        let ips: Vec<IpAddr> = spec.cluster_ips.iter().flatten().filter_map(|ip| ip.parse().ok()).collect();
        let ports = spec.ports.iter().flatten().map(|p| (p.name.clone(), port(p.port))).collect();
        let targets = spec
            .ports
            .iter()
            .flatten()
            .filter_map(|p| match &p.target_port {
                Some(IntOrString::Int(target)) => Some((port(p.port), port(*target))),
                Some(IntOrString::String(_)) => None,
                None => Some((port(p.port), port(p.port))),
            })
            .collect();
        let headless = spec.cluster_ip.as_deref() == Some("None");
        let entry = ServiceEntry { ips, ports, external_name: spec.external_name, headless, targets };
        self.services.insert(key(service.metadata.namespace.as_ref(), service.metadata.name.as_ref()), entry);
    }

    /// Takes an EndpointSlice in.
    pub fn set_slice(&mut self, slice: &EndpointSlice) {
        let meta = &slice.metadata;
        let owner = meta.labels.as_ref().and_then(|labels| labels.get("kubernetes.io/service-name"));
        let entry = SliceEntry {
            service: key(meta.namespace.as_ref(), owner),
            ports: slice
                .ports
                .iter()
                .flatten()
                .map(|p| (p.name.clone().filter(|n| !n.is_empty()), p.port.map(port)))
                .collect(),
            endpoints: slice
                .endpoints
                .iter()
                .flatten()
                .flat_map(|endpoint| {
                    let ready = endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
                    endpoint.addresses.iter().map(move |a| (a.clone(), endpoint.hostname.clone(), ready))
                })
                .collect(),
        };
        self.slices.insert(key(meta.namespace.as_ref(), meta.name.as_ref()), entry);
    }

    /// Takes a Pod in.
    pub fn set_pod(&mut self, pod: &Pod) {
        let status = pod.status.clone().unwrap_or_default();
        let over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let ips = status.pod_ips.iter().flatten().filter_map(|ip| ip.ip.parse().ok()).filter(|_| !over).collect();
        let ports = pod
            .metadata
            .annotations
            .as_ref()
            .and_then(|annotations| annotations.get(PORTS_ANNOTATION))
            .and_then(|text| serde_json::from_str::<BTreeMap<String, u16>>(text).ok())
            .unwrap_or_default()
            .into_iter()
            .filter_map(|(container, real)| Some((container.parse().ok()?, real)))
            .collect();
        self.pods.insert(key(pod.metadata.namespace.as_ref(), pod.metadata.name.as_ref()), PodEntry { ips, ports });
    }

    /// Takes a Node in.
    pub fn set_node(&mut self, node: &Node) {
        let status = node.status.clone().unwrap_or_default();
        let ips = status.addresses.iter().flatten().filter_map(|a| a.address.parse().ok()).collect();
        let endpoint = status.daemon_endpoints.and_then(|d| d.kubelet_endpoint).map_or(10250, |k| port(k.port));
        let real = node.metadata.annotations.as_ref().and_then(|a| a.get(KUBELET_PORT_ANNOTATION)?.parse().ok());
        if let (Some(name), Some(real)) = (&node.metadata.name, real) {
            self.nodes.insert(name.clone(), (ips, endpoint, real));
        }
    }

    /// Forgets a Service.
    pub fn drop_service(&mut self, service: &Service) {
        self.services.remove(&key(service.metadata.namespace.as_ref(), service.metadata.name.as_ref()));
    }

    /// Forgets an EndpointSlice.
    pub fn drop_slice(&mut self, slice: &EndpointSlice) {
        self.slices.remove(&key(slice.metadata.namespace.as_ref(), slice.metadata.name.as_ref()));
    }

    /// Forgets a Pod.
    pub fn drop_pod(&mut self, pod: &Pod) {
        self.pods.remove(&key(pod.metadata.namespace.as_ref(), pod.metadata.name.as_ref()));
    }

    /// Forgets a Node.
    pub fn drop_node(&mut self, node: &Node) {
        self.nodes.remove(node.metadata.name.as_deref().unwrap_or_default());
    }

    /// Forgets all objects of one kind, before a list is taken in anew.
    pub fn clear(&mut self, kind: &str) {
        match kind {
            "Service" => self.services.clear(),
            "EndpointSlice" => self.slices.clear(),
            "Pod" => self.pods.clear(),
            _ => self.nodes.clear(),
        }
    }

    /// Whether an address is one that nothing may dial.
    fn fictional(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => within(ip, FICTIONAL) || self.service_range.is_some_and(|services| within(ip, services)),
            IpAddr::V6(_) => false,
        }
    }

    /// Says where a connection to `host:port` goes.
    pub fn resolve(&self, host: &str, port: u16) -> Target {
        self.follow(host, port, 0)
    }

    fn follow(&self, host: &str, port: u16, depth: u8) -> Target {
        let host = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
        if let Ok(ip) = host.parse::<IpAddr>() {
            return self.resolve_ip(ip, port, depth);
        }
        if host == "localhost" {
            return Target::Loopback(port);
        }
        let Some(labels) = self.service_labels(host) else {
            return Target::External(host.to_owned(), port);
        };
        match labels[..] {
            [name, namespace] => self.resolve_service(&(namespace.to_owned(), name.to_owned()), port, None, depth),
            [pod, name, namespace] => {
                self.resolve_service(&(namespace.to_owned(), name.to_owned()), port, Some(pod), depth)
            }
            _ => Target::Unavailable(format!("{host} is no name of a Service")),
        }
    }

    /// The labels before `.svc`, when the name is one of the cluster's.
    fn service_labels<'a>(&self, host: &'a str) -> Option<Vec<&'a str>> {
        let suffix = format!(".{}", self.domain);
        let inner = host.strip_suffix(&suffix).unwrap_or(host);
        let inner = inner.strip_suffix(".svc")?;
        Some(inner.split('.').collect())
    }

    fn resolve_ip(&self, ip: IpAddr, port: u16, depth: u8) -> Target {
        if ip.is_loopback() {
            return Target::Loopback(port);
        }
        if let Some((service, _)) = self.services.iter().find(|(_, entry)| entry.ips.contains(&ip)) {
            return self.resolve_service(service, port, None, depth);
        }
        if let Some((_, _, real)) = self.nodes.values().find(|(ips, kubelet, _)| ips.contains(&ip) && *kubelet == port)
        {
            return Target::Loopback(*real);
        }
        if port == self.api_server_port && self.nodes.values().any(|(ips, ..)| ips.contains(&ip)) {
            return Target::Loopback(port);
        }
        let mut seen = None;
        for (name, pod) in self.pods.iter().filter(|(_, pod)| pod.ips.contains(&ip)) {
            if let Some(real) = pod.ports.get(&port) {
                return Target::Loopback(*real);
            }
            seen = Some(name);
        }
        match seen {
            Some((namespace, name)) => {
                Target::Unavailable(format!("Pod {namespace}/{name} does not listen on port {port}"))
            }
            None if self.fictional(ip) => Target::Unavailable(format!("no Service, Pod or Node has the address {ip}")),
            None => Target::External(ip.to_string(), port),
        }
    }

    fn resolve_service(&self, service: &Key, port: u16, hostname: Option<&str>, depth: u8) -> Target {
        let (namespace, name) = service;
        if namespace == "default" && name == "kubernetes" {
            return Target::Loopback(self.api_server_port);
        }
        let Some(entry) = self.services.get(service) else {
            return Target::Unavailable(format!("there is no Service {namespace}/{name}"));
        };
        if let Some(external) = &entry.external_name {
            return if depth < LONGEST_CHAIN {
                self.follow(external, port, depth + 1)
            } else {
                Target::Unavailable(format!("Service {namespace}/{name} leads in a circle"))
            };
        }
        let named = entry.ports.iter().find(|(_, number)| *number == port);
        if named.is_none() && !entry.headless {
            return Target::Unavailable(format!("Service {namespace}/{name} has no port {port}"));
        }
        let port_name = named.and_then(|(name, _)| name.clone());
        let mut ready = Vec::new();
        for slice in self.slices.values().filter(|slice| slice.service == *service) {
            let slice_port = slice.ports.iter().find(|(name, _)| *name == port_name).and_then(|(_, number)| *number);
            let target = slice_port.or_else(|| entry.targets.get(&port).copied()).unwrap_or(port);
            for (address, host, is_ready) in &slice.endpoints {
                if *is_ready && hostname.is_none_or(|wanted| host.as_deref() == Some(wanted)) {
                    ready.push((address.clone(), target));
                }
            }
        }
        ready.sort();
        let Some((address, target)) = ready.get(self.turn.fetch_add(1, Ordering::Relaxed) % ready.len().max(1)) else {
            return Target::Unavailable(format!("Service {namespace}/{name} has no ready endpoint"));
        };
        match address.parse::<IpAddr>() {
            Ok(ip) => self.resolve_ip(ip, *target, depth),
            Err(_) => Target::External(address.clone(), *target),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn view() -> View {
        let mut view = View::new(6443, "cluster.local", "10.96.0.0/16");
        view.set_service(&read(json!({"metadata": {"name": "web", "namespace": "a"},
            "spec": {"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}})));
        view.set_service(&read(json!({"metadata": {"name": "idle", "namespace": "a"},
            "spec": {"clusterIP": "10.96.0.8", "clusterIPs": ["10.96.0.8"], "ports": [{"port": 80}]}})));
        view.set_slice(&read(
            json!({"metadata": {"name": "web-1", "namespace": "a", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
            "endpoints": [{"addresses": ["198.18.1.2"], "conditions": {"ready": true}},
                          {"addresses": ["198.18.1.3"], "conditions": {"ready": false}}]}),
        ));
        view.set_pod(&read(json!({"metadata": {"name": "web-0", "namespace": "a", "annotations": {PORTS_ANNOTATION: "{\"8080\": 40001}"}},
            "status": {"phase": "Running", "podIP": "198.18.1.2", "podIPs": [{"ip": "198.18.1.2"}]}})));
        view.set_service(&read(json!({"metadata": {"name": "alias", "namespace": "a"},
            "spec": {"type": "ExternalName", "externalName": "web.a.svc.cluster.local"}})));
        view.set_service(&read(json!({"metadata": {"name": "circle", "namespace": "a"},
            "spec": {"type": "ExternalName", "externalName": "circle.a.svc"}})));
        view.set_node(&read(json!({"metadata": {"name": "n", "annotations": {KUBELET_PORT_ANNOTATION: "40010"}},
            "status": {"addresses": [{"type": "InternalIP", "address": "198.19.0.1"}], "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}}}})));
        view
    }

    #[test]
    fn connections_go_where_they_should() {
        let loopback = Target::Loopback;
        let no = |text: &str| Target::Unavailable(text.to_owned());
        let cases = [
            ("web.a.svc", 80, loopback(40001)),
            ("web.a.svc.cluster.local", 80, loopback(40001)),
            ("web.a.svc.cluster.local.", 80, loopback(40001)),
            ("10.96.0.7", 80, loopback(40001)),
            ("198.18.1.2", 8080, loopback(40001)),
            ("198.19.0.1", 10250, loopback(40010)),
            ("kubernetes.default.svc", 443, loopback(6443)),
            ("198.19.0.1", 6443, loopback(6443)),
            ("alias.a.svc", 80, loopback(40001)),
            ("circle.a.svc", 80, no("Service a/circle leads in a circle")),
            ("10.96.9.9", 80, no("no Service, Pod or Node has the address 10.96.9.9")),
            ("10.97.0.1", 80, Target::External("10.97.0.1".into(), 80)),
            ("127.0.0.1", 5, loopback(5)),
            ("idle.a.svc", 80, no("Service a/idle has no ready endpoint")),
            ("none.a.svc", 80, no("there is no Service a/none")),
            ("web.a.svc", 81, no("Service a/web has no port 81")),
            ("198.18.9.9", 80, no("no Service, Pod or Node has the address 198.18.9.9")),
            ("198.18.1.2", 81, no("Pod a/web-0 does not listen on port 81")),
            ("example.org", 443, Target::External("example.org".into(), 443)),
            ("svc.example.org", 443, Target::External("svc.example.org".into(), 443)),
        ];
        for (host, port, target) in cases {
            assert_eq!(view().resolve(host, port), target, "{host}:{port}");
        }
    }

    #[test]
    fn the_kubernetes_service_is_found_by_its_address_too() {
        let mut view = view();
        view.set_service(&read(json!({"metadata": {"name": "kubernetes", "namespace": "default"},
            "spec": {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ports": [{"name": "https", "port": 443}]}})));
        assert_eq!(view.resolve("10.96.0.1", 443), Target::Loopback(6443));
    }
}

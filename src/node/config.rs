//! What a node is: the specification that callers give, and `node.yaml`, which is the node's truth from then on.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::pki::ClusterKeys;
use crate::failure::{Failure, Result};
use crate::{fsx, yaml};

/// Range of Service addresses of every local cluster.
pub const SERVICE_CIDR: &str = "10.96.0.0/16";

/// Address of the `kubernetes` Service.
pub const API_SERVICE_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// Domain of Services.
pub const CLUSTER_DOMAIN: &str = "cluster.local";

/// Kubernetes version of the bundle's control plane, for nodes whose specification names none.
pub const KUBERNETES_VERSION: &str = "v1.36.1";

/// Name of a node: a lower-case DNS label, which is also its folder and its Node object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(String);

impl NodeName {
    /// Checks a name.
    pub fn new(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        if name.len() <= 63 && name.chars().all(inner) && edge(name.chars().next()) && edge(name.chars().last()) {
            Ok(Self(name))
        } else {
            Err(Failure::usage(format!(
                "{name:?} is no name for a node or cluster: use at most 63 lower-case letters, digits and dashes, with a letter or digit at both ends"
            )))
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for NodeName {
    type Error = Failure;
    fn try_from(name: String) -> Result<Self> {
        Self::new(name)
    }
}

impl From<NodeName> for String {
    fn from(name: NodeName) -> Self {
        name.0
    }
}

/// What a node does in its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Runs etcd, the API server, the controller manager and the scheduler, and pods.
    ControlPlane,
    /// Runs pods.
    Worker,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ControlPlane => "control-plane",
            Self::Worker => "worker",
        })
    }
}

/// How a worker reaches its cluster and proves that it may join.
#[derive(Clone, Debug)]
pub struct Join {
    /// Port of the API server on loopback.
    pub api_server_port: u16,
    /// The cluster's CA with its key, which signs the worker's certificates; the key is not kept on the worker.
    pub ca: super::pki::KeyedCert,
}

/// What makes a node a control plane or a worker.
#[derive(Clone, Debug)]
pub enum RoleSpec {
    /// A control plane.
    ControlPlane {
        /// Port of the API server on loopback; a free one is taken when none is given.
        api_server_port: Option<u16>,
        /// Keys made beforehand (Cluster API's Secrets); made anew when none are given.
        keys: Option<ClusterKeys>,
    },
    /// A worker.
    Worker(Join),
}

/// What a caller asks for.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// Name of the node.
    pub name: NodeName,
    /// Name of its cluster.
    pub cluster: String,
    /// On whose behalf it is made ("bootstrap local", "local create", "machine default/mgmt-cp"): nobody else adopts it.
    pub owner: String,
    /// Control plane or worker.
    pub role: RoleSpec,
    /// The bundle that its programs and images come from.
    pub bundle: PathBuf,
    /// `spec.providerID` of its Node.
    pub provider_id: Option<String>,
    /// Labels of its Node, beside the usual ones.
    pub labels: BTreeMap<String, String>,
    /// Whether its data need not survive a crash of the host (a bootstrap cluster): etcd then skips fsync.
    pub throw_away: bool,
    /// Folders of the host that pods may mount.
    pub allowed_host_paths: Vec<PathBuf>,
    /// Files with further profiles, beside the built-in ones.
    pub profiles: Vec<PathBuf>,
}

impl NodeSpec {
    /// A control plane with everything else at its default.
    pub fn control_plane(name: NodeName, owner: impl Into<String>, bundle: impl Into<PathBuf>) -> Self {
        let cluster = name.to_string();
        Self::with_role(name, cluster, owner, bundle, RoleSpec::ControlPlane { api_server_port: None, keys: None })
    }

    /// A worker of an existing cluster with everything else at its default.
    pub fn worker(
        name: NodeName,
        cluster: impl Into<String>,
        owner: impl Into<String>,
        bundle: impl Into<PathBuf>,
        join: Join,
    ) -> Self {
        Self::with_role(name, cluster.into(), owner, bundle, RoleSpec::Worker(join))
    }

    fn with_role(
        name: NodeName,
        cluster: String,
        owner: impl Into<String>,
        bundle: impl Into<PathBuf>,
        role: RoleSpec,
    ) -> Self {
        Self {
            name,
            cluster,
            owner: owner.into(),
            role,
            bundle: bundle.into(),
            provider_id: None,
            labels: BTreeMap::new(),
            throw_away: false,
            allowed_host_paths: Vec::new(),
            profiles: Vec::new(),
        }
    }
}

/// Ports of a node on loopback, chosen once so that they stay the same over restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ports {
    /// The cluster's API server (on another node when this is a worker).
    pub api_server: u16,
    /// The pods' HTTP proxy.
    pub proxy: u16,
    /// The kubelet role's HTTPS server.
    pub kubelet: u16,
    /// Health of kube-controller-manager; 0 on workers.
    pub controller_manager: u16,
    /// Health of kube-scheduler; 0 on workers.
    pub scheduler: u16,
}

impl Ports {
    /// The ports that this node itself listens on.
    pub fn all(&self) -> BTreeSet<u16> {
        let mut all =
            BTreeSet::from([self.proxy, self.kubelet, self.api_server, self.controller_manager, self.scheduler]);
        all.remove(&0);
        all
    }
}

/// The user's own proxy to the world outside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UpstreamProxy {
    /// For `http://`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// For `https://` and other CONNECTs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub https: Option<String>,
    /// Hosts that are reached directly, as in `NO_PROXY`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no: Option<String>,
}

/// Carries the user's proxy to nodes that are made inside a pod, whose own proxy variables name the cluster's proxy.
pub const UPSTREAM_VARIABLE: &str = "CLUSTER_INIT_UPSTREAM_PROXY";

impl UpstreamProxy {
    /// What the environment says, in upper or lower case; inside a pod, what its node was told.
    pub fn from_env() -> Self {
        let var = |name: &str| {
            let found = std::env::var(name).or_else(|_| std::env::var(name.to_lowercase()));
            found.ok().filter(|value| !value.is_empty())
        };
        if let Ok(given) = std::env::var(UPSTREAM_VARIABLE) {
            return serde_json::from_str(&given).unwrap_or_default();
        }
        Self { http: var("HTTP_PROXY"), https: var("HTTPS_PROXY"), no: var("NO_PROXY") }
    }
}

/// `node.yaml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeConfig {
    /// Name of the node.
    pub name: NodeName,
    /// Name of its cluster.
    pub cluster: String,
    /// On whose behalf it was made.
    pub owner: String,
    /// Its role.
    pub role: Role,
    /// Number of the node in its home, from 1: its fictional addresses come from it.
    pub index: u8,
    /// Kubernetes version that its Node reports.
    pub kubernetes_version: String,
    /// The home that it belongs to.
    pub home: PathBuf,
    /// The bundle.
    pub bundle: PathBuf,
    /// `spec.providerID` of its Node.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "providerID")]
    pub provider_id: Option<String>,
    /// Labels of its Node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Ports on loopback.
    pub ports: Ports,
    /// Range of Service addresses.
    pub service_cidr: String,
    /// Folder of the Unix sockets: the node's own, or a short one where that path is too long for a socket's name.
    pub sockets: PathBuf,
    /// Whether its data need not survive a crash of the host.
    #[serde(default)]
    pub throw_away: bool,
    /// Folders of the host that pods may mount.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_host_paths: Vec<PathBuf>,
    /// Files with further profiles.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub profiles: Vec<PathBuf>,
    /// The user's proxy to the world outside.
    #[serde(default)]
    pub upstream_proxy: UpstreamProxy,
}

impl NodeConfig {
    /// Reads `node.yaml` of a node's folder.
    pub fn read(folder: &Path) -> Result<Self> {
        yaml::read(&Paths::of(folder).config)
    }

    /// Writes it into the node's folder.
    pub fn write(&self, folder: &Path) -> Result<()> {
        fsx::write_private(&Paths::of(folder).config, yaml::to_string(self)?)?;
        Ok(())
    }

    /// The node's fictional address.
    pub fn node_ip(&self) -> Ipv4Addr {
        Ipv4Addr::new(198, 19, 0, self.index)
    }

    /// The range of its pods' fictional addresses.
    pub fn pod_subnet(&self) -> String {
        format!("198.18.{}.0/24", self.index)
    }

    /// The API server's URL.
    pub fn server(&self) -> String {
        format!("https://127.0.0.1:{}", self.ports.api_server)
    }
}

/// Where things are in a node's folder.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The folder.
    pub folder: PathBuf,
    /// `node.yaml`.
    pub config: PathBuf,
    /// Certificates and keys.
    pub pki: PathBuf,
    /// etcd's data.
    pub etcd: PathBuf,
    /// Log files.
    pub logs: PathBuf,
    /// The pod runner's folder.
    pub pods: PathBuf,
    /// The cluster administrator's kubeconfig (control planes only).
    pub admin: PathBuf,
    /// kubeconfig of kube-controller-manager.
    pub controller_manager: PathBuf,
    /// kubeconfig of kube-scheduler.
    pub scheduler: PathBuf,
    /// kubeconfig of the kubelet role.
    pub kubelet: PathBuf,
    /// kubeconfig of the network proxy.
    pub network: PathBuf,
    /// Password of the HTTP proxy.
    pub proxy_token: PathBuf,
    /// What happened to the node, one JSON line each.
    pub events: PathBuf,
    /// Processes that the daemon started.
    pub ledger: PathBuf,
    /// Lock of the running daemon.
    pub lock: PathBuf,
    /// Pid of the running daemon.
    pub pid: PathBuf,
}

impl Paths {
    /// Paths in the given folder.
    pub fn of(folder: &Path) -> Self {
        let at = |name: &str| folder.join(name);
        Self {
            folder: folder.to_path_buf(),
            config: at("node.yaml"),
            pki: at("pki"),
            etcd: at("etcd"),
            logs: at("logs"),
            pods: at("pods"),
            admin: at("admin.conf"),
            controller_manager: at("controller-manager.conf"),
            scheduler: at("scheduler.conf"),
            kubelet: at("kubelet.conf"),
            network: at("network.conf"),
            proxy_token: at("pki/proxy-token"),
            events: at("logs/events.ndjson"),
            ledger: at("ledger.ndjson"),
            lock: at("node.lock"),
            pid: at("node.pid"),
        }
    }
}

//! What the pod runner is told by the node's daemon.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use crate::node::Ledger;

/// Everything that the pod runner needs to know of its node.
#[derive(Clone, Debug)]
pub struct RunnerConfig {
    /// Name of the Node object.
    pub node_name: String,
    /// `spec.providerID` of the Node.
    pub provider_id: Option<String>,
    /// Labels of the Node beside the usual ones.
    pub labels: BTreeMap<String, String>,
    /// Fictional address of the node.
    pub node_ip: Ipv4Addr,
    /// Range of the pods' fictional addresses, `198.18.3.0/24`.
    pub pod_subnet: String,
    /// Version that the Node reports as its kubelet's.
    pub kubernetes_version: String,
    /// The node's folder; the runner keeps to `pods/` in it.
    pub folder: PathBuf,
    /// The bundle that images come from.
    pub bundle: PathBuf,
    /// Where images are unpacked, shared by all nodes of a user.
    pub image_cache: PathBuf,
    /// The user's home of cluster-init, for our own image.
    pub home: PathBuf,
    /// The node's own kubeconfig.
    pub kubeconfig: PathBuf,
    /// HTTP proxy that pods reach Services through, with its credentials.
    pub pod_proxy_url: Option<String>,
    /// The API server as pods reach it.
    pub api_server: ApiServer,
    /// Port of the kubelet role's HTTPS server on loopback.
    pub kubelet_port: u16,
    /// Its certificates.
    pub tls: KubeletTls,
    /// Folders of the host that pods may mount.
    pub allowed_host_paths: Vec<PathBuf>,
    /// Files with further profiles, which win over the built-in ones.
    pub extra_profiles: Vec<PathBuf>,
    /// The daemon's ledger of processes; what an earlier daemon left in it has been ended before the runner starts.
    pub ledger: Ledger,
    /// The socket that the docker provider takes for Docker's.
    pub docker: PathBuf,
    /// Domain of Services.
    pub cluster_domain: String,
    /// Whether the cluster lives for minutes only.
    pub throw_away: bool,
}

/// Where the API server listens.
#[derive(Clone, Debug)]
pub struct ApiServer {
    /// Host, `127.0.0.1`.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Certificate of its authority.
    pub ca_file: PathBuf,
}

/// Certificates of the kubelet role's HTTPS server.
#[derive(Clone, Debug)]
pub struct KubeletTls {
    /// Serving certificate, PEM.
    pub server_cert: PathBuf,
    /// Its key, PEM.
    pub server_key: PathBuf,
    /// Authority of the client certificates that are let in.
    pub client_ca: PathBuf,
}

impl RunnerConfig {
    /// Folder of all pods.
    pub fn pods(&self) -> PathBuf {
        self.folder.join("pods")
    }
}

//! The local cluster's node: control-plane processes, pods, network and keys, in one daemon per node.
//!
//! ```text
//! create(home, NodeSpec) -> Node      node.yaml, keys, kubeconfigs; nothing runs
//! node.start() ...................... `cluster-init node --dir FOLDER` in a session of its own
//!    etcd  kube-apiserver  kube-controller-manager  kube-scheduler      supervised children (control planes)
//!    network proxy  pod runner                                          tasks of the daemon (every node)
//! node.status() / .stop() ........... one JSON line over the folder's Unix socket
//! node.delete() ..................... no process and no file is left
//! ```

pub mod config;
mod control_plane;
mod daemon;
mod handle;
mod home;
mod ledger;
mod logs;
pub mod network;
pub mod pki;
mod pods;
mod ports;
mod probe;
pub mod profiles;
mod programs;
pub mod runner;
mod runtime_dir;
mod socket;
mod supervisor;

pub use config::{
    API_SERVICE_IP, CLUSTER_DOMAIN, Join, KUBERNETES_VERSION, NodeConfig, NodeName, NodeSpec, Paths, Role, RoleSpec,
    SERVICE_CIDR,
};
pub use daemon::run;
pub use handle::{Node, create, halves, list, open, remove_half};
pub use home::{BUNDLE_VARIABLE, HOME_VARIABLE, Home};
pub use ledger::Ledger;
pub use pki::{ClusterKeys, KeyedCert};
pub use programs::Programs;
pub use socket::{Component, State, Status};

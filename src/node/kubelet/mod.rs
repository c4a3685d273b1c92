//! The kubelet role's HTTPS server: what kube-apiserver asks a node for.
//!
//! Logs and port-forward work as on any node. `exec` and `attach` are answered with a reason: a pod is a process of the
//! host here, with no namespace that one could enter.

mod forward;
mod logs;
mod server;
mod spdy;

use std::path::PathBuf;

use serde_json::Value;

pub use server::{Server, ServerConfig};

/// What the server needs to know of the node's pods.
pub trait Pods: Send + Sync + 'static {
    /// The files of a container's log, oldest first; the last one may grow. An error is a sentence for the user.
    fn log_files(&self, namespace: &str, pod: &str, container: &str, previous: bool) -> Result<Vec<PathBuf>, String>;

    /// Whether a container runs: a follower of its log waits as long as it does.
    fn running(&self, namespace: &str, pod: &str, container: &str) -> bool;

    /// The real port on loopback behind a pod's port. An error is a sentence for the user.
    fn port(&self, namespace: &str, pod: &str, port: u16) -> Result<u16, String>;

    /// The pods of the node.
    fn list(&self) -> Vec<Value>;
}

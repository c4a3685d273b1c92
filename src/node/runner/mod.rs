//! The pod runner: the kubelet's role, with pods as plain processes of the host.
//!
//! ```text
//! watch of this node's pods -> Runner -> one task a pod (pod) -> one task a container (container)
//!                                          |  volumes kept filled (mounts)   |  command (launch, command, profiles)
//!                                          |  status (status, status_writer) |  probes (prober), logs
//! Node object and lease (node_object)     kubelet HTTPS server (server): logs, port-forward
//! ```
//!
//! A pod has no mount and no network namespace, so the paths and ports that its programs are told are rewritten to real
//! ones (places, ports); the map of ports is published as an annotation of the pod, for the network proxy.

mod atomic;
mod backoff;
mod command;
mod config;
mod container;
mod context;
mod downward;
mod env;
mod http;
mod launch;
mod log_read;
mod logs;
mod machine;
mod mounts;
mod node_object;
mod objects;
mod places;
mod pod;
mod port_forward;
mod ports;
mod probe;
mod prober;
mod refuse;
mod restore;
mod server;
mod spdy;
mod status;
mod status_writer;
mod volumes;
mod watch;

pub use config::{ApiServer, KubeletTls, RunnerConfig};
pub use node_object::KUBELET_PORT;
pub use status_writer::PORTS;
pub use watch::Runner;

//! The `local` provider of Cluster API: infrastructure and control plane whose machines are node daemons on this host.
//!
//! ```text
//! Cluster ── LocalCluster            a port on loopback; provisioned when the API server answers
//!        └── LocalControlPlane       keys, kubeconfig, one Machine
//!              └── Machine ── LocalMachine       a node daemon, $CLUSTER_INIT_HOME/nodes/NAME
//!        └── MachineDeployment ── Machine ── LocalMachine
//! ```
//!
//! Every controller reads what is there now, decides by a pure function of that (`plan`), does one thing and looks
//! again. Nothing is kept in memory, and status is never the only place of a fact: after a move to another cluster the
//! provider there finds everything in specs and in the nodes' folders, and adopts the daemons that run.
//! Paused objects are not touched at all, whatever was asked of them.

mod cluster;
mod conditions;
mod context;
mod control_plane;
pub mod core;
mod crds;
mod error;
mod health;
mod machine;
mod manager;
mod secrets;
pub mod types;
mod workload;

pub use context::Context;
pub use crds::{crds, files};
pub use error::{Error, Result};
pub use health::Health;
pub use machine::MACHINE_OWNER;
pub use manager::run;
